//go:build lab

package lease

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/test/hosts"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// unitFaults happen to a podmaster whose work is a systemd unit.
func unitFaults() []labFault {
	start := func(w *labWorld, h *labHost) { w.sh(h, "systemctl start "+podmaster) }
	return []labFault{
		{name: "clean stop", moves: true, mend: start, hit: func(w *labWorld, h *labHost) {
			w.sh(h, "systemctl stop "+podmaster+"; test $(systemctl is-active "+workUnit+") = inactive")
		}},
		{name: "restart of podmaster", renews: true, hit: func(w *labWorld, h *labHost) { w.sh(h, "systemctl restart "+podmaster) }},
		{name: "kill podmaster", moves: true, hit: signalMain("KILL")},
		{name: "freeze podmaster", moves: true, hit: signalMain("STOP")},
		{name: "freeze podmaster's unit", moves: true, hit: freezeUnit},
		// Only systemd's watchdog is left, whose timers may be 250 ms late.
		{name: "freeze podmaster's unit and the guard's", moves: true, onlySink: true, within: time.Second, hit: func(w *labWorld, h *labHost) {
			w.sh(h, "systemctl freeze 'podmaster-guard-*' && systemctl freeze "+podmaster)
		}, mend: func(w *labWorld, h *labHost) { w.sh(h, "systemctl kill -s KILL 'podmaster-guard-*'; true") }},
		// Nothing binds the unit to podmaster's any more: only the will names it.
		{name: "the drop-in is deleted, podmaster and guard are killed at once", renews: true, hit: func(w *labWorld, h *labHost) {
			w.sh(h, "rm -r /run/systemd/system/work.service.d && systemctl daemon-reload && kill -KILL $(systemctl show -P MainPID 'podmaster-guard-*' "+podmaster+")")
		}},
		{name: "kill the guard", renews: true, hit: func(w *labWorld, h *labHost) {
			w.sh(h, "systemctl kill -s KILL 'podmaster-guard-*'")
		}},
		{name: "freeze the guard", hit: func(w *labWorld, h *labHost) {
			w.sh(h, "systemctl freeze 'podmaster-guard-*'")
			w.wait(ttl)
			w.sh(h, "systemctl thaw 'podmaster-guard-*'")
		}},
		{name: "kill the unit's process", renews: true, hit: killWorkUnit},
		{name: "the unit fails again and again", moves: true, hit: func(w *labWorld, h *labHost) {
			for range 7 {
				now := w.holder()
				if now != h {
					return
				}
				pid := w.pid(h)
				killWorkUnit(w, h)
				testwait.For(w.t, "the unit to run again", 30*time.Second, func() error {
					if now := w.holder(); now == h && w.pid(h) == pid {
						return fmt.Errorf("only pid %d", pid)
					}
					return nil
				})
			}
		}},
		{name: "the unit cannot start any more", moves: true, hit: func(w *labWorld, h *labHost) {
			w.write(h, "/etc/systemd/system/work.service.d/bad.conf", "[Service]\nExecStartPre=/bin/false\n")
			w.sh(h, "systemctl daemon-reload")
			killWorkUnit(w, h)
		}, mend: func(w *labWorld, h *labHost) {
			w.sh(h, "rm -r /etc/systemd/system/work.service.d; systemctl daemon-reload")
		}},
		{name: "an administrator stops the unit", renews: true, hit: func(w *labWorld, h *labHost) { w.sh(h, "systemctl stop "+workUnit) }},
		{name: "an administrator starts the unit elsewhere", hit: func(w *labWorld, h *labHost) {
			for _, other := range w.hosts {
				if other == h {
					continue
				}
				if _, err := w.try(other, "systemctl start "+workUnit); err == nil {
					w.t.Errorf("%s starts the unit without the lock", other.Name())
				}
			}
		}},
		{name: "cut off from etcd", moves: true, hit: cutFromOthers, mend: heal},
		{name: "freeze the whole host", moves: true, onlySink: true, hit: freezeHost, mend: thaw},
	}
}

// hangFaults happen to a unit whose stop hangs: it ignores SIGTERM, and its
// ExecStop= never ends.
func hangFaults() []labFault {
	return []labFault{
		{name: "clean stop", moves: true, hit: func(w *labWorld, h *labHost) { w.sh(h, "systemctl stop "+podmaster) },
			mend: func(w *labWorld, h *labHost) { w.sh(h, "systemctl start "+podmaster) }},
		{name: "kill podmaster", moves: true, hit: signalMain("KILL")},
		{name: "freeze podmaster", moves: true, hit: signalMain("STOP")},
		{name: "freeze podmaster's unit", moves: true, hit: freezeUnit},
		{name: "cut off from etcd", moves: true, hit: cutFromOthers, mend: heal},
	}
}

// signalMain sends a signal to podmaster itself.
func signalMain(sig string) func(*labWorld, *labHost) {
	return func(w *labWorld, h *labHost) { w.sh(h, "systemctl kill --kill-whom=main -s "+sig+" "+podmaster) }
}

// freezeUnit freezes podmaster's whole unit: only systemd's watchdog is left.
func freezeUnit(w *labWorld, h *labHost) { w.sh(h, "systemctl freeze "+podmaster) }

func killWorkUnit(w *labWorld, h *labHost) { w.sh(h, "systemctl kill -s KILL "+workUnit) }

// cutFromOthers leaves the holder a member without a quorum, and the sink.
func cutFromOthers(w *labWorld, h *labHost) {
	if err := w.lab.Isolate(w.t.Context(), h.Name(), false); err != nil {
		w.t.Fatal(err)
	}
	w.wait(ttl + time.Second)
}

func heal(w *labWorld, _ *labHost) {
	if err := w.lab.Heal(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func freezeHost(w *labWorld, h *labHost) {
	if err := h.Freeze(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.wait(ttl + 2*time.Second)
}

func thaw(w *labWorld, h *labHost) {
	if err := h.Thaw(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// A unit runs once over three hosts, whatever happens to podmaster, to the unit
// and to the host.
func TestLabUnit(t *testing.T) {
	w := newLabWorld(t, false)
	table := newTable(t)
	t.Run("unit", func(t *testing.T) { w.all(t, table, "unit: ", labMode{unit: true, work: plain}, unitFaults()) })
	t.Run("hanging unit", func(t *testing.T) {
		hang := labMode{unit: true, work: stubborn, more: "ExecStop=/bin/sleep infinity\nTimeoutStopSec=infinity\nKillMode=process\n"}
		w.all(t, table, "unit whose stop hangs: ", hang, hangFaults())
	})
	t.Run("bad input", func(t *testing.T) { w.t = t; w.badUnits() })
}

// badUnits are refused before a term is taken: nothing is started, no key is left.
func (w *labWorld) badUnits() {
	h := w.hosts[0]
	before := w.keys()
	for name, text := range map[string]string{
		"enabled.service": "[Service]\nExecStart=/bin/touch /shared/started\n[Install]\nWantedBy=multi-user.target\n",
		"broken.service":  "[Service]\nExecStart=relative/path\n",
	} {
		w.write(h, "/etc/systemd/system/"+name, text)
	}
	w.sh(h, "systemctl daemon-reload; systemctl enable -q enabled; ln -sf /dev/null /etc/systemd/system/masked.service")
	for _, c := range []struct {
		unit, want string
		code       int
	}{
		{"none.service", "no such unit", 1},
		{"masked.service", "masked", 1},
		{"broken.service", "bad-setting", 1},
		{"enabled.service", "systemctl disable --now enabled.service", 3},
		{"work.timer", "want UNIT.service", 2},
		{"../work.service", "want NAME.service", 1},
	} {
		cmd := fmt.Sprintf("podmaster --etcd-servers %s --key bad --unit %s 2>&1", w.endpoints(), c.unit)
		out, err := w.try(h, cmd)
		var failed *hosts.ExecError
		if !errors.As(err, &failed) || failed.Code != c.code || !strings.Contains(out, c.want) {
			w.t.Errorf("%s: %v, want code %d and %q:\n%s", c.unit, err, c.code, c.want, out)
		}
	}
	if after := w.keys(); after != before {
		w.t.Errorf("keys before: %s, after: %s", before, after)
	}
	if out, err := w.try(h, "ls /shared/started /run/systemd/system/enabled.service.d /run/podmaster/enabled.service"); err == nil || out != "" {
		w.t.Errorf("left behind: %s", out)
	}
}

// keys are the keys of singletons other than the one under test.
func (w *labWorld) keys() string {
	w.t.Helper()
	resp, err := w.etcd.Get(w.t.Context(), etcdlock.Root, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		w.t.Fatal(err)
	}
	var keys []string
	for _, kv := range resp.Kvs {
		if k := string(kv.Key); !strings.HasPrefix(k, etcdlock.Root+key+"/") {
			keys = append(keys, k)
		}
	}
	return strings.Join(keys, " ")
}
