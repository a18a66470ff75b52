//go:build lab

package masters

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/hactl/hactl/internal/event"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/testwait"
)

// spoil makes a member's data unusable, so that it fails for good.
const spoil = "systemctl stop hactl-etcd; dd if=/dev/urandom of=/var/lib/hactl/etcd/member/snap/db bs=64k count=4 conv=notrunc; systemctl start --no-block hactl-etcd"

// A host whose etcd member fails for good gives itself up: balancers drain it,
// singletons leave it, and people are told. It reboots where that is allowed, and
// when no other host does. Healed, all comes back.
func TestAHostBeyondHelp(t *testing.T) {
	names := []string{"m1", "m2", "m3"}
	m := up(t, 3)
	m.configure(t, names...)
	m.bootstrap(t, names)
	m.healthy(t, names...)
	w := m.writer(t, "m1", "m2")

	began := time.Now()
	m.giveAll(t, "m3")
	m.shell(t, "m3", spoil)
	m.givenUp(t, "m3", began)
	w.progress(t, "with a host beyond help")
	m.replaceMember(t, "m3")
	m.takenBack(t, "m3", began)
	m.healthy(t, names...)
	w.progress(t, "with all hosts again")

	// Now it may reboot, but m1 did so a moment ago.
	for _, n := range names {
		m.write(t, n, "/etc/hactl/cluster.yaml", m.configText(t, names...)+"watchdog: {reboot: allowed}\n", 0o644)
	}
	m.write(t, "m3", "/etc/systemd/system/hactl-agent.service.d/test.conf", "[Service]\nEnvironment=HACTL_TEST_REBOOT_AFTER=10s\n", 0o644)
	m.shell(t, "m3", "systemctl daemon-reload; systemctl restart hactl-agent")
	m.healthy(t, names...)
	etcd := m.etcdClient(t, "m1", "m2")
	m.put(t, etcd, rebootKey, "m1")
	boots, others := m.boots(t, "m3"), m.boots(t, "m1")+m.boots(t, "m2")
	began = time.Now()
	m.giveAll(t, "m3")
	m.shell(t, "m3", spoil)
	m.givenUp(t, "m3", began)
	refused := m.awaitEvent(t, "m1", "a reboot that is refused", began, "host", func(e event.Event) bool { return e.Master == "m3" && e.Action == "reboot" })
	if !strings.Contains(refused.Result, "m1 rebooted less than") || m.boots(t, "m3") != boots {
		t.Errorf("while m1 reboots: %+v, %d boots, before %d", refused, m.boots(t, "m3"), boots)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := etcd.Delete(ctx, rebootKey); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, "the reboot of m3", patience, func() error {
		if n := m.boots(t, "m3"); n != boots+1 {
			return fmt.Errorf("%d boots, before %d", n, boots)
		}
		return nil
	})
	m.awaitEvent(t, "m1", "the reboot as an event", refused.Time, "host", func(e event.Event) bool {
		return e.Master == "m3" && e.Action == "reboot" && e.Result == "ok"
	})
	if got := m.boots(t, "m1") + m.boots(t, "m2"); got != others {
		t.Errorf("m1 and m2 were booted %d times, before %d", got, others)
	}
	// Healed while it boots: systemd calls a boot done when no unit starts any more.
	m.replaceMember(t, "m3")
	m.takenBack(t, "m3", began)
	m.healthy(t, names...)
	w.lost(t)
}

// rebootKey is in etcd for as long as no other host may reboot (package agent).
const rebootKey = "/hactl/watchdog/reboot"

// givenUp waits until a host has given itself up, as everybody sees it.
func (m *masters) givenUp(t *testing.T, host string, after time.Time) {
	t.Helper()
	asked := time.Now()
	mark := m.awaitEvent(t, "m1", "the mark as an event", after, "host", func(e event.Event) bool { return e.Master == host && e.Action == "mark" })
	if !strings.Contains(mark.Reason, "hactl-etcd: hold (ends again and again") {
		t.Errorf("the mark's reason: %+v", mark)
	}
	for _, n := range []string{"m1", "m2"} {
		testwait.For(t, host+" to be drained by the balancer of "+n, patience, func() error { return m.drained(t, n, host, true) })
	}
	testwait.For(t, "the singletons to leave "+host, patience, func() error {
		for _, s := range m.report(t, "m1").Singletons {
			if s.Holder == "" || s.Holder == host || slices.Contains(s.Waiting, host) {
				return fmt.Errorf("%+v", s)
			}
		}
		return nil
	})
	m.oneOfEach(t)
	o := m.run(t.Context(), "m2", "status")
	if o.code != 4 || !strings.Contains(o.stdout, host+" has given itself up") {
		t.Errorf("status: %v", o)
	}
	t.Logf("measure: given up after %.0fs: %s", time.Since(asked).Seconds(), mark.Reason)
}

// takenBack waits until a host that was healed is one as any other.
func (m *masters) takenBack(t *testing.T, host string, after time.Time) {
	t.Helper()
	m.awaitEvent(t, "m1", "the end of the mark as an event", after, "host", func(e event.Event) bool { return e.Master == host && e.Action == "unmark" })
	for _, n := range []string{"m1", "m2"} {
		testwait.For(t, host+" to be used by the balancer of "+n, patience, func() error { return m.drained(t, n, host, false) })
	}
}

// drained errs unless a host's balancer is drained from a master's API server, or
// else uses it.
func (m *masters) drained(t *testing.T, host, backend string, want bool) error {
	t.Helper()
	o := m.run(t.Context(), host, "lb", "status", "-o", "json")
	var s struct {
		Backends []struct {
			Name            string
			Drained, Usable bool
		}
	}
	if err := json.Unmarshal([]byte(o.stdout), &s); err != nil {
		return fmt.Errorf("%w: %v", err, o)
	}
	for _, b := range s.Backends {
		if b.Name == backend && b.Drained == want && b.Usable != want {
			return nil
		}
	}
	return fmt.Errorf("want %s drained = %v: %v", backend, want, o)
}

// replaceMember makes a machine with bad data a new member, as the member's own
// words advise.
func (m *masters) replaceMember(t *testing.T, host string) {
	t.Helper()
	m.shell(t, host, "systemctl stop hactl-etcd")
	m.must(t, host, "etcd", "member", "replace", host, "--yes")
	m.shell(t, host, "systemctl start --no-block hactl-etcd")
}

// boots is how often a host was booted.
func (m *masters) boots(t *testing.T, host string) int {
	t.Helper()
	h, err := m.Named(host)
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Boots
}

// etcdClient is a client of some members, with the first one's certificate.
func (m *masters) etcdClient(t *testing.T, names ...string) *clientv3.Client {
	t.Helper()
	dir := t.TempDir()
	h, err := m.Named(names[0])
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"ca": "ca.crt", "cert": "healthcheck-client.crt", "key": "healthcheck-client.key"}
	for what, name := range files {
		text, err := h.ReadFile(t.Context(), "/etc/kubernetes/pki/etcd/"+name)
		if err != nil {
			t.Fatal(err)
		}
		files[what] = writeFile(t, dir, name, text)
	}
	conf, err := pki.ClientTLS(pki.Files{CA: files["ca"], Cert: files["cert"], Key: files["key"]})
	if err != nil {
		t.Fatal(err)
	}
	var endpoints []string
	for _, n := range names {
		h, err := m.Named(n)
		if err != nil {
			t.Fatal(err)
		}
		endpoints = append(endpoints, "https://"+net.JoinHostPort(h.Address().String(), "2379"))
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: conf, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return m.DialContext(ctx, "tcp", strings.TrimPrefix(address, "https://"))
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return c
}

func (m *masters) put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := c.Put(ctx, key, value); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, dir, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
