//go:build lab

package lease

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/testwait"
)

// hostFaults happen to a podmaster with a command under systemd, to its host, or to
// the etcd member there.
func hostFaults() []labFault {
	oneWay := func(out bool) func(*labWorld, *labHost) {
		return func(w *labWorld, h *labHost) {
			for _, other := range w.hosts {
				from, to := h.Name(), other.Name()
				if !out {
					from, to = to, from
				}
				if other == h {
					continue
				}
				if err := w.lab.CutOneWay(w.t.Context(), from, to); err != nil {
					w.t.Fatal(err)
				}
			}
			w.wait(ttl + time.Second)
		}
	}
	powerOff := func(w *labWorld, h *labHost) {
		if err := h.PowerOff(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
	powerOn := func(w *labWorld, h *labHost) {
		if err := h.PowerOn(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
	return []labFault{
		{name: "clean stop", moves: true, hit: func(w *labWorld, h *labHost) { w.sh(h, "systemctl stop "+podmaster) },
			mend: func(w *labWorld, h *labHost) { w.sh(h, "systemctl start "+podmaster) }},
		{name: "kill podmaster", moves: true, hit: signalMain("KILL")},
		{name: "freeze podmaster", moves: true, hit: signalMain("STOP")},
		// Only systemd's watchdog is left, and the command works on.
		{name: "freeze podmaster and guard", moves: true, hit: func(w *labWorld, h *labHost) {
			w.sh(h, `pkill -STOP -f "^/proc/self/exe __guard"; systemctl kill --kill-whom=main -s STOP `+podmaster)
		}},
		{name: "freeze podmaster's whole unit", moves: true, hit: freezeUnit},
		// By the freezer of cgroup v2, in which the guard dies, and the work with it.
		{name: "freeze the whole host", moves: true, hit: freezeHost, mend: thaw},
		{name: "freeze the whole host and cut it", moves: true, hit: func(w *labWorld, h *labHost) {
			if err := w.lab.Isolate(w.t.Context(), h.Name(), true); err != nil {
				w.t.Fatal(err)
			}
			freezeHost(w, h)
		}, mend: func(w *labWorld, h *labHost) { thaw(w, h); heal(w, h) }},
		{name: "cut from etcd, not from the sink", moves: true, hit: cutFromOthers, mend: heal},
		{name: "cut the host from all", moves: true, mend: heal, hit: func(w *labWorld, h *labHost) {
			if err := w.lab.Isolate(w.t.Context(), h.Name(), true); err != nil {
				w.t.Fatal(err)
			}
			w.wait(ttl + time.Second)
		}},
		{name: "cut what the holder sends", moves: true, hit: oneWay(true), mend: heal},
		{name: "cut what the holder hears", moves: true, hit: oneWay(false), mend: heal},
		{name: "a link that flaps", mend: heal, hit: func(w *labWorld, h *labHost) {
			for range 4 {
				if err := w.lab.Isolate(w.t.Context(), h.Name(), false); err != nil {
					w.t.Fatal(err)
				}
				w.wait(time.Second)
				heal(w, h)
				w.wait(time.Second)
			}
		}},
		{name: "host without power", moves: true, hit: powerOff, mend: powerOn},
		{name: "host without power, etcd's leader on it", moves: true, mend: powerOn, hit: func(w *labWorld, h *labHost) {
			w.lead(h)
			powerOff(w, h)
		}},
		{name: "etcd's leader killed, holder elsewhere", hit: func(w *labWorld, h *labHost) {
			if w.leader() == h {
				for _, other := range w.hosts {
					if other != h {
						w.lead(other)
						break
					}
				}
			}
			w.sh(w.leader(), "systemctl kill -s KILL etcd")
			w.wait(ttl)
		}},
		{name: "slow fsync under etcd's leader", hit: func(w *labWorld, _ *labHost) { slowSync(w, w.leader()) }},
		{name: "slow fsync under the holder's own etcd, which leads", hit: func(w *labWorld, h *labHost) {
			w.lead(h)
			slowSync(w, h)
		}},
	}
}

// diskFaults need disks that can be filled.
func diskFaults() []labFault {
	return []labFault{
		{name: "full disk under etcd's leader", hit: func(w *labWorld, _ *labHost) {
			l := w.leader()
			w.sh(l, "fallocate -l $(($(stat -f -c '%a*%S' /var/lib/etcd) - 8192)) /var/lib/etcd/filler")
			defer w.sh(l, "rm /var/lib/etcd/filler")
			w.fill(30 * time.Second)
			w.wait(ttl)
		}},
		{name: "full disk under podmaster's log, then a clean stop", moves: true, hit: func(w *labWorld, h *labHost) {
			w.sh(h, "fallocate -l 1M /logs/filler 2>/dev/null; dd if=/dev/zero of=/logs/more bs=1 count=8192 2>/dev/null; true")
			w.wait(ttl)
			w.sh(h, "systemctl stop "+podmaster)
		}, mend: func(w *labWorld, h *labHost) { w.sh(h, "rm -f /logs/filler /logs/more; systemctl start "+podmaster) }},
	}
}

// slowSync makes every fsync of a host's etcd 600 ms slower, for twice the TTL.
func slowSync(w *labWorld, h *labHost) {
	w.t.Helper()
	pid := w.sh(h, "systemctl show -P MainPID etcd")
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	cmd, err := h.Command(ctx, "strace", "-f", "-qq", "-o", "/run/strace", "-p", pid, "-e", "trace=fsync,fdatasync",
		"-e", "inject=fsync,fdatasync:delay_enter=600000")
	if err != nil {
		w.t.Fatal(err)
	}
	ended := start(w.t, cmd)
	w.wait(2 * ttl)
	if out := w.sh(h, "grep -c sync /run/strace; pkill -INT strace"); strings.HasPrefix(out, "0") {
		w.t.Error("no fsync was made slow")
	}
	cancel()
	<-ended
}

func start(t *testing.T, cmd *exec.Cmd) (ended <-chan struct{}) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // it is killed
	}()
	return done
}

// fill writes to etcd until a member has died of its full disk.
func (w *labWorld) fill(patience time.Duration) {
	w.t.Helper()
	value := strings.Repeat("x", 256<<10)
	before := w.deaths()
	i := 0
	testwait.For(w.t, "a member to die of its full disk", patience, func() error {
		for range 20 {
			i++
			ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
			_, err := w.etcd.Put(ctx, fmt.Sprintf("/filler/%d", i%8), value)
			cancel()
			if err != nil {
				break
			}
		}
		if w.deaths() == before {
			return fmt.Errorf("none after %d writes", i)
		}
		return nil
	})
}

// deaths is how often systemd has restarted an etcd member.
func (w *labWorld) deaths() string {
	var all []string
	for _, h := range w.hosts {
		all = append(all, w.sh(h, "systemctl show -P NRestarts etcd"))
	}
	return strings.Join(all, " ")
}

// What needs real hosts: systemd's watchdog, frozen and powerless machines, cut
// cables, sick disks.
func TestLabHosts(t *testing.T) {
	w := newLabWorld(t, false)
	w.all(t, newTable(t), "lab: ", labMode{work: plain}, hostFaults())
}

func TestLabDisks(t *testing.T) {
	w := newLabWorld(t, true)
	for _, h := range w.hosts { // podmaster's log on a small disk of its own
		w.write(h, "/etc/systemd/system/logs.mount", "[Mount]\nWhat=tmpfs\nWhere=/logs\nType=tmpfs\nOptions=size=256K\n")
		w.sh(h, "systemctl daemon-reload && systemctl start logs.mount")
	}
	own := "StandardOutput=append:/logs/podmaster\nStandardError=append:/logs/podmaster\n"
	w.all(t, newTable(t), "lab: ", labMode{work: plain, own: own}, diskFaults())
}
