package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/event"
	"github.com/hactl/hactl/internal/lb"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/watchdog"
	"github.com/hactl/hactl/internal/workload"
)

// A host that is well again is not rebooted, though etcd could not be told yet.
func TestOnlyAMarkedHostReboots(t *testing.T) {
	now := time.Now()
	long, short := now.Add(-rebootAfter), now.Add(-rebootAfter+time.Second)
	for _, c := range []struct {
		what string
		s    markState
		want bool
	}{
		{"marked for long", markState{Mark: watchdog.Mark{On: true, Since: long}}, true},
		{"marked a moment ago", markState{Mark: watchdog.Mark{On: true, Since: short}}, false},
		{"well again", markState{Mark: watchdog.Mark{}}, false},
		{"marked, nobody knows since when", markState{Mark: watchdog.Mark{On: true}}, false},
		{"rebooted a moment ago", markState{Mark: watchdog.Mark{On: true, Since: long}, Rebooted: now.Add(-time.Minute)}, false},
	} {
		if got := c.s.mayReboot(rebootAfter, now); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

// A machine that was removed has nothing to give up: its member fails as it should.
func TestARemovedMachineIsNotMarked(t *testing.T) {
	dir, units := t.TempDir(), []watchdog.TargetStatus{{Unit: "hactl-etcd", Action: watchdog.Action{Kind: watchdog.Hold, Reason: watchdog.Crashing}}}
	for _, c := range []struct {
		state etcdcluster.State
		want  int
	}{{"", 1}, {etcdcluster.Used, 1}, {etcdcluster.Removed, 0}} {
		if c.state != "" {
			in := etcdcluster.NewIntent("prod", "m1", []etcdcluster.Peer{{Name: "m1", URL: "https://10.0.0.1:2380"}})
			in.State, in.MemberID, in.ClusterID = c.state, "a", "b"
			text, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "etcd-intent.json"), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := unlessRemoved(dir, units); len(got) != c.want {
			t.Errorf("%q: %d units count, want %d", c.state, len(got), c.want)
		}
	}
}

// host is what a marker sees and does on one master.
type host struct {
	units   map[string]bool // unit → runs
	drained map[string]bool
	ill     bool
	log     []string
}

func (h *host) Units(context.Context) ([]workload.State, error) {
	var out []workload.State
	for u, runs := range h.units {
		s := workload.State{Name: u, Active: workload.Inactive}
		if runs {
			s.Active, s.MainPID = workload.Active, 7
		}
		out = append(out, s)
	}
	return out, nil
}

func (h *host) Start(_ context.Context, u string) error {
	h.units[u], h.log = true, append(h.log, "start "+u)
	return nil
}

func (h *host) Stop(_ context.Context, u string) error {
	h.units[u], h.log = false, append(h.log, "stop "+u)
	return nil
}
func (h *host) Restart(context.Context, string, bool) error { return errors.New("not asked for") }
func (h *host) Signal(context.Context, string, syscall.Signal) error {
	return errors.New("not asked for")
}
func (h *host) Drain(_ context.Context, b string) error   { h.drained[b] = true; return nil }
func (h *host) Undrain(_ context.Context, b string) error { delete(h.drained, b); return nil }

func (h *host) look() []watchdog.TargetStatus {
	a := watchdog.Action{Kind: watchdog.None, Reason: watchdog.Healthy}
	if h.ill {
		a = watchdog.Action{Kind: watchdog.Hold, Reason: watchdog.BudgetUsed, Detail: "5 restarts"}
	}
	return []watchdog.TargetStatus{{Unit: "kube-apiserver", Action: a}, {Unit: "hactl-etcd", Action: watchdog.Action{Kind: watchdog.None, Reason: watchdog.Healthy}}}
}

func newHost(t *testing.T, client *clientv3.Client, name string) (*host, *marker) {
	t.Helper()
	h := &host{units: map[string]bool{"podmaster@kube-scheduler": true, "podmaster@other": true}, drained: map[string]bool{}}
	dir := t.TempDir()
	return h, &marker{
		client: client, self: name, masters: 3, singletons: []string{"kube-scheduler", "other"}, file: filepath.Join(dir, "mark.json"),
		look: h.look, manager: h, balancer: h, events: event.NewRecorder(filepath.Join(dir, "events.jsonl"), name, nil),
	}
}

// candidate makes someone wait for a singleton.
func candidate(t *testing.T, etcd *etcdtest.Cluster, singleton, name string) {
	t.Helper()
	client, err := etcdlock.Dial(etcdlock.Config{Endpoints: etcd.Endpoints(), TLS: etcd.TLS()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	lock, err := client.Lock(singleton)
	if err != nil {
		t.Fatal(err)
	}
	p, err := lock.Enlist(t.Context(), etcdlock.Candidate{Name: name, ID: name + "-1", Host: name}, func(etcdlock.Candidate) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// A host beyond help is drained by every balancer, and its singletons leave where
// somebody waits for them; when it is well again all comes back, also by an agent
// that was restarted meanwhile.
func TestAMarkedHostIsLeft(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{})
	client := etcd.Client()
	h1, m1 := newHost(t, client, "m1")
	h2, m2 := newHost(t, client, "m2")
	candidate(t, etcd, "kube-scheduler", "m2")
	candidate(t, etcd, "other", "m1") // nobody else waits for this one
	now := time.Now()
	steps := func(seconds int, all ...*marker) {
		for range seconds {
			now = now.Add(time.Second)
			for _, m := range all {
				m.step(t.Context(), now)
			}
		}
	}
	h1.ill = true
	steps(119, m1, m2)
	if len(h1.drained)+len(h2.drained) > 0 || len(h1.log) > 0 {
		t.Errorf("before two minutes are over: drained %v %v, %v", h1.drained, h2.drained, h1.log)
	}
	steps(3, m1, m2)
	for _, h := range []*host{h1, h2} {
		if got := slices.Collect(maps.Keys(h.drained)); !slices.Equal(got, []string{"m1"}) {
			t.Errorf("drained: %v, want m1", got)
		}
	}
	if got := strings.Join(h1.log, ", "); got != "stop podmaster@kube-scheduler" {
		t.Errorf("did %q: want that only the singleton that another waits for leaves", got)
	}
	h1.ill = false
	_, reborn := newHost(t, client, "m1")
	reborn.file, reborn.look, reborn.manager, reborn.balancer = m1.file, h1.look, h1, h1
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := reborn.run(ctx); err != nil { // reads its file
		t.Fatal(err)
	}
	steps(62, reborn, m2)
	if len(h1.drained)+len(h2.drained) > 0 {
		t.Errorf("well for a minute: drained %v %v", h1.drained, h2.drained)
	}
	if got := strings.Join(h1.log, ", "); got != "stop podmaster@kube-scheduler, start podmaster@kube-scheduler" {
		t.Errorf("did %q", got)
	}
}

// strict is a balancer that drains what was written down before, and knows only m1.
type strict struct {
	t       *testing.T
	file    string
	drained bool
	asked   int // to undrain
}

func (s *strict) Drain(_ context.Context, b string) error {
	if data, err := os.ReadFile(s.file); err != nil || !strings.Contains(string(data), `"`+b+`"`) {
		s.t.Errorf("%s is drained before that is written down: %s, %v", b, data, err)
	}
	if b != "m1" {
		return lb.ErrNoBackend
	}
	s.drained = true
	return nil
}

func (s *strict) Undrain(_ context.Context, b string) error {
	s.asked++
	if b != "m1" {
		return lb.ErrNoBackend
	}
	s.drained = false
	return nil
}

// A balancer stays drained until it is undrained, so that an agent that is killed
// between two lines must know of it; one that the balancer does not have is let go.
func TestDrainsAreWrittenDownBefore(t *testing.T) {
	client := etcdtest.Start(t, 1, etcdtest.Options{}).Client()
	_, m := newHost(t, client, "m3")
	s := &strict{t: t, file: m.file}
	m.balancer = s
	for _, name := range []string{"m1", "gone"} {
		if _, err := client.Put(t.Context(), markPrefix+name, "ill"); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	m.obey(t.Context(), now)
	if !s.drained || len(m.state.Drained) != 2 {
		t.Errorf("drained %v, written down %v", s.drained, m.state.Drained)
	}
	if _, err := client.Delete(t.Context(), markPrefix, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		now = now.Add(time.Second)
		m.obey(t.Context(), now)
	}
	if s.drained || len(m.state.Drained) != 0 || s.asked != 2 {
		t.Errorf("drained %v, written down %v, asked %d times, want each once", s.drained, m.state.Drained, s.asked)
	}
}

// Never are more masters marked than a minority, whoever is ill.
func TestMostMastersStayUnmarked(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{})
	client := etcd.Client()
	h1, m1 := newHost(t, client, "m1")
	h2, m2 := newHost(t, client, "m2")
	h1.ill, h2.ill = true, true
	now := time.Now()
	for range 130 {
		now = now.Add(time.Second)
		m1.step(t.Context(), now)
		m2.step(t.Context(), now)
	}
	marks, err := client.Get(t.Context(), markPrefix, clientv3.WithPrefix())
	if err != nil || len(marks.Kvs) != 1 {
		t.Errorf("%d marks, %v; want one of three masters", len(marks.Kvs), err)
	}
	if len(h1.drained) != 1 || len(h2.drained) != 1 {
		t.Errorf("drained: %v and %v, want one", h1.drained, h2.drained)
	}
	if m2.refused != errTooMany.Error() {
		t.Errorf("the second was refused with %q", m2.refused)
	}
}

// A single master has nobody to take its work.
func TestASingleMasterIsNotMarked(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{})
	h, m := newHost(t, etcd.Client(), "m1")
	m.masters, h.ill = 1, true
	now := time.Now()
	for range 125 {
		now = now.Add(time.Second)
		m.step(t.Context(), now)
	}
	if len(h.drained) > 0 || len(h.log) > 0 {
		t.Errorf("drained %v, did %v", h.drained, h.log)
	}
}

// Never two hosts reboot within a while; one that stays ill not again for a day.
func TestReboot(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{})
	client := etcd.Client()
	if err := claimReboot(t.Context(), client, "m1"); err != nil {
		t.Fatal(err)
	}
	if err := claimReboot(t.Context(), client, "m2"); err == nil || !strings.Contains(err.Error(), "m1 rebooted") {
		t.Errorf("a second host: %v", err)
	}
	h, m := newHost(t, client, "m1")
	h.ill = true
	reboots, refuse := 0, fmt.Errorf("no")
	m.reboot = func(context.Context) error { reboots++; return refuse }
	now := time.Now()
	steps := func(seconds int) {
		for range seconds {
			now = now.Add(time.Second)
			m.step(t.Context(), now)
		}
	}
	if steps(120 + 299); reboots != 0 {
		t.Errorf("%d reboots before it was marked for 5 minutes", reboots)
	}
	if steps(63); reboots != 2 {
		t.Errorf("%d tries within a minute of a refusal, want one, and one more after it", reboots)
	}
	refuse = nil
	if steps(60); reboots != 3 {
		t.Errorf("%d tries, want the third to be permitted", reboots)
	}
	if steps(300); reboots != 3 {
		t.Errorf("%d: it rebooted again within a day", reboots)
	}
}
