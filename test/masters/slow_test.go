//go:build lab

package masters

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/test/hosts"
)

// slowDisk makes each sync of an etcd member's files take so much longer, by strace,
// until the returned func is called. The lab's disks are the machine's, and the
// kernel has no means to slow them.
func (m *masters) slowDisk(t *testing.T, host string, by time.Duration) (heal func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	h, err := m.Named(host)
	if err != nil {
		t.Fatal(err)
	}
	cmd, err := h.Command(ctx, "strace", "-f", "-qq", "-o", "/run/strace", "-p", strconv.Itoa(m.mainPID(t, host, "hactl-etcd")),
		"-e", "trace=fsync,fdatasync", "-e", fmt.Sprintf("inject=fsync,fdatasync:delay_enter=%dms", by.Milliseconds()))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	heal = func() {
		cancel()
		<-ended
		m.shell(t, host, "rm /run/strace")
	}
	testwait.For(t, "a sync of etcd on "+host+" to be slow", patience, func() error {
		select {
		case <-ended:
			t.Fatal("strace ended")
		default:
		}
		o := m.command(t.Context(), host, "grep", "-c", "sync", "/run/strace")
		if o.code != 0 {
			return fmt.Errorf("%v", o)
		}
		return nil
	})
	return heal
}

// A slow disk under etcd is etcd's illness: no API server is restarted for it, and
// nobody is given up.
func TestWatchdogSlowDisk(t *testing.T) {
	names := []string{"m1", "m2", "m3"}
	m := upWith(t, hosts.Config{Hosts: 3, Packages: []string{"strace"}})
	m.configure(t, names...)
	m.bootstrap(t, names)
	m.healthy(t, names...)
	w := m.writer(t, names...)
	pids, began := m.apiServers(t, names), time.Now()

	// The leader alone, by less than an election: it stays, and everybody waits for it.
	m.giveAll(t, "m1")
	heal := m.slowDisk(t, "m1", 600*time.Millisecond)
	m.lookFor(t, "with a slow disk under the leader", 30*time.Second, nil)
	w.progress(t, "with a slow disk under the leader")
	t.Logf("measure: with 600 ms a sync under the leader: %v", summary(m.report(t, "m2")))
	heal()
	m.healthy(t, names...)

	// All of them, by more than the deadline of a question: nothing can be agreed on in
	// time.
	var heals []func()
	for _, n := range names {
		heals = append(heals, m.slowDisk(t, n, 4*time.Second))
	}
	testwait.For(t, "hactl status to tell that etcd is ill", patience, func() error {
		o := m.run(t.Context(), "m2", "status")
		if o.code != 4 || !strings.Contains(o.stdout, "etcd") {
			return wants("etcd, and exit code 4", o)
		}
		t.Logf("with 4 s a sync everywhere: %v", o)
		return nil
	})
	sick := 0
	m.lookFor(t, "with slow disks everywhere", 45*time.Second, func() {
		o := m.run(t.Context(), "m1", "watchdog", "status")
		if strings.Contains(o.stdout, "dependency is sick, etcd") {
			sick++
		}
	})
	t.Logf("measure: held for etcd's sake in %d looks", sick)
	for _, heal := range heals {
		heal()
	}
	m.healthy(t, names...)
	if after := m.apiServers(t, names); !slices.Equal(pids, after) {
		t.Errorf("API servers were restarted: main processes %v, before %v", after, pids)
	}
	for _, e := range m.restarts(t, "m1", began) {
		if e.Unit == "kube-apiserver" {
			t.Errorf("the watchdog restarted an API server: %+v", e)
		} else {
			t.Logf("another restart: %+v", e)
		}
	}
	w.lost(t)
}

// apiServers are the main processes of the API servers.
func (m *masters) apiServers(t *testing.T, names []string) (pids []int) {
	t.Helper()
	for _, n := range names {
		pids = append(pids, m.mainPID(t, n, "kube-apiserver"))
	}
	return pids
}

// lookFor lets so much time pass, and looks now and then.
func (m *masters) lookFor(t *testing.T, what string, d time.Duration, look func()) {
	t.Helper()
	since := time.Now()
	testwait.For(t, fmt.Sprintf("%v %s", d, what), patience, func() error {
		if look != nil {
			look()
		}
		if time.Since(since) < d {
			return errors.New("not yet")
		}
		return nil
	})
}

// summary is a report in few words.
func summary(r status.Report) string {
	words := []string{string(r.Verdict)}
	for _, reason := range r.Reasons {
		words = append(words, fmt.Sprintf("%s %s: %s", reason.Code, reason.Object, reason.Text))
	}
	return strings.Join(words, "; ")
}
