//go:build faults || lab

package lease

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/testwait"
)

// fault is something that happens to the holder.
type fault struct {
	name string
	mode string // of the work; default plain
	hit  func(w *world, h *host)
	mend func(w *world, h *host) // afterwards; nil: nothing to mend
	// moves: another host must hold afterwards. Else the same one may.
	moves bool
	// renews: another process must work afterwards, wherever.
	renews bool
}

func faults() []fault {
	restart := func(_ *world, h *host) { h.kill(); h.start(h.mode) }
	etcdBack := func(w *world, _ *host) {
		for _, m := range w.etcd.Members {
			m.Resume()
		}
	}
	return []fault{
		{name: "kill child", renews: true, hit: func(_ *world, h *host) { _ = syscall.Kill(h.workPID(), syscall.SIGKILL) }},
		{name: "kill podmaster", moves: true, hit: func(_ *world, h *host) { h.signal(syscall.SIGKILL) }, mend: restart},
		{name: "kill guard", renews: true, hit: func(_ *world, h *host) { _ = syscall.Kill(parentOf(h.workPID()), syscall.SIGKILL) }},
		{name: "freeze podmaster", moves: true,
			hit:  func(w *world, h *host) { h.signal(syscall.SIGSTOP); w.wait(ttl + time.Second) },
			mend: func(_ *world, h *host) { h.signal(syscall.SIGCONT) }},
		{name: "freeze guard", hit: func(w *world, h *host) {
			pid := parentOf(h.workPID())
			_ = syscall.Kill(pid, syscall.SIGSTOP)
			w.wait(ttl)
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}},
		{name: "freeze podmaster and guard, then kill podmaster", moves: true, hit: func(w *world, h *host) {
			_ = syscall.Kill(parentOf(h.workPID()), syscall.SIGSTOP)
			h.signal(syscall.SIGSTOP)
			w.wait(time.Second)
			h.signal(syscall.SIGKILL)
		}, mend: restart},
		{name: "freeze podmaster and guard", moves: true,
			hit: func(w *world, h *host) {
				_ = syscall.Kill(parentOf(h.workPID()), syscall.SIGSTOP)
				h.signal(syscall.SIGSTOP)
				w.wait(ttl + time.Second)
			},
			mend: func(_ *world, h *host) { h.signal(syscall.SIGCONT) }},
		{name: "freeze child", hit: func(w *world, h *host) {
			pid := h.workPID()
			_ = syscall.Kill(pid, syscall.SIGSTOP)
			w.wait(time.Second)
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}},
		{name: "freeze the whole host", moves: true,
			hit:  func(w *world, h *host) { h.signalAll(syscall.SIGSTOP); w.wait(ttl + 2*time.Second) },
			mend: func(_ *world, h *host) { h.signalAll(syscall.SIGCONT) }},
		{name: "cut podmaster from etcd", moves: true,
			hit:  func(w *world, h *host) { h.link(hole); w.wait(ttl + time.Second) },
			mend: func(_ *world, h *host) { h.link(open) }},
		{name: "cut podmaster from its first etcd member", hit: func(w *world, h *host) {
			h.proxies[0].set(hole)
			w.wait(2 * ttl)
		}, mend: func(_ *world, h *host) { h.proxies[0].set(open) }},
		{name: "answers come late", hit: func(w *world, h *host) { h.link(slow); w.wait(2 * ttl) },
			mend: func(_ *world, h *host) { h.link(open) }},
		{name: "kill the etcd leader", hit: func(w *world, _ *host) { m := w.etcd.Leader(); m.Kill(); w.wait(ttl); m.Restart() }},
		{name: "freeze the etcd leader", hit: func(w *world, _ *host) { w.etcd.Leader().Pause(); w.wait(2 * ttl) }, mend: etcdBack},
		{name: "kill the etcd leader and podmaster", moves: true, hit: func(w *world, h *host) {
			m := w.etcd.Leader()
			m.Kill()
			h.signalAll(syscall.SIGKILL)
			w.wait(ttl)
			m.Restart()
		}, mend: restart},
		{name: "delete the lock's keys", hit: func(w *world, _ *host) {
			w.lock.deleted(func() {
				if _, err := w.etcd.Client().Delete(w.t.Context(), etcdlock.Root+key+"/", clientv3.WithPrefix()); err != nil {
					w.t.Fatal(err)
				}
			})
		}},
		{name: "revoke every etcd lease", hit: func(w *world, _ *host) {
			cl := w.etcd.Client()
			all, err := cl.Leases(w.t.Context())
			if err != nil {
				w.t.Fatal(err)
			}
			for _, l := range all.Leases {
				_, _ = cl.Revoke(w.t.Context(), l.ID)
			}
		}},
		{name: "child ignores SIGTERM, podmaster cut off", mode: stubborn, moves: true,
			hit:  func(w *world, h *host) { h.link(hole); w.wait(ttl + time.Second) },
			mend: func(_ *world, h *host) { h.link(open) }},
		{name: "child ignores SIGTERM, podmaster stopped", mode: stubborn, moves: true,
			hit: func(_ *world, h *host) { h.signal(syscall.SIGTERM); h.proc.Wait() }, mend: restart},
		{name: "child daemonized, podmaster killed", mode: daemonize, moves: true,
			hit: func(_ *world, h *host) { h.signal(syscall.SIGKILL) }, mend: restart},
		{name: "child daemonized, podmaster frozen", mode: daemonize, moves: true,
			hit:  func(w *world, h *host) { h.signal(syscall.SIGSTOP); w.wait(ttl + time.Second) },
			mend: func(_ *world, h *host) { h.signal(syscall.SIGCONT) }},
		{name: "clean stop", moves: true, hit: func(_ *world, h *host) { h.signal(syscall.SIGTERM); h.proc.Wait() }, mend: restart},
	}
}

// parentOf is the guard of a command.
func parentOf(pid int) int {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	var ppid int
	for line := range splitLines(string(data)) {
		if n, _ := fmt.Sscanf(line, "PPid: %d", &ppid); n == 1 {
			break
		}
	}
	return ppid
}

func splitLines(s string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for len(s) > 0 {
			i := 0
			for i < len(s) && s[i] != '\n' {
				i++
			}
			if !yield(s[:i]) {
				return
			}
			s = s[min(i+1, len(s)):]
		}
	}
}

// suffer brings the world to order, lets the fault happen, and judges.
func (w *world) suffer(f fault, row *row) {
	mode := f.mode
	if mode == "" {
		mode = plain
	}
	for _, h := range w.hosts {
		if h.mode != mode {
			h.kill()
			h.start(mode)
		}
	}
	h := w.holder()
	before := w.reigns()
	pid := h.workPID()
	w.phase()
	start := lease.Boottime{}.Now()
	f.hit(w, h)
	if f.moves {
		testwait.For(w.t, "another holder", 60*time.Second, func() error {
			if now := w.holder(); now == h {
				return fmt.Errorf("%s still holds", h.name)
			}
			return nil
		})
	}
	if f.renews {
		testwait.For(w.t, "another process to work", 60*time.Second, func() error {
			if w.holder().workPID() == pid {
				return fmt.Errorf("only pid %d", pid)
			}
			return nil
		})
	}
	if f.mend != nil {
		f.mend(w, h)
	}
	w.holder()
	w.allThere()
	after := w.reigns()
	w.t.Logf("%s: %d new terms", f.name, len(after)-len(before))
	row.add(w.gap(start), len(after)-len(before), w.judge())
	w.forget()
}

// allThere waits until one candidate holds and the other two are listed as waiting:
// none is stuck.
func (w *world) allThere() {
	w.t.Helper()
	testwait.For(w.t, "all candidates to be there", 60*time.Second, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		info, err := etcdlock.Get(ctx, w.client, key, false)
		if err != nil {
			return err
		}
		there := map[string]bool{info.Holder: true}
		for _, c := range info.Waiting {
			there[c.Name] = true
		}
		for _, h := range w.hosts {
			if !there[h.name] {
				return fmt.Errorf("%s neither holds nor waits", h.name)
			}
		}
		return nil
	})
}

// gap is the longest time since start in which nobody worked.
func (w *world) gap(start time.Duration) time.Duration {
	var logs []string
	for _, h := range w.hosts {
		logs = append(logs, h.log)
	}
	return longestGap(w.t, logs, start)
}

// forget empties the logs and the sink, so that one fault's lines are not judged
// again. What is written meanwhile is lost to the judge: a few milliseconds.
func (w *world) forget() {
	for _, h := range w.hosts {
		_ = os.Truncate(h.log, 0)
	}
	w.sink.forget()
}
