//go:build lab

package lease

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/test/hosts"
	"github.com/hactl/hactl/test/node"
)

const (
	// podFolder goes with the power, so that a kubelet that boots starts nothing.
	podFolder = "/run/kubernetes/manifests"
	podSource = "/etc/hactl/pod.yaml"
	// never is a lock delay that no test outlives: whoever takes over, does so
	// because the pod's stop was confirmed.
	never = time.Hour
)

// podWorld is three hosts with etcd, two of which have a kubelet, and a podmaster
// that gives it one pod's manifest. The pod's process writes the moment of its own
// beginning where other work writes its token: that tells processes apart, and grows.
type podWorld struct {
	*labWorld
	servers string // etcd's, on all three hosts
	mode    podMode
}

type podMode struct {
	linger    time.Duration // how long the pod works on when it is told to stop
	lockDelay time.Duration
}

func newPodWorld(t *testing.T) *podWorld {
	t.Helper()
	cfg := hosts.Config{Hosts: 3}
	if err := node.Equip(t.Context(), &cfg); err != nil {
		t.Fatal(err)
	}
	image, err := node.Image(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &podWorld{labWorld: newLabWorldOf(t, cfg, false)}
	w.servers = w.endpoints()
	w.hosts = w.hosts[:2]
	for _, h := range w.hosts {
		if err := node.Install(t.Context(), h.Host, node.Options{Image: image, StaticPods: podFolder, Standalone: true}); err != nil {
			t.Fatal(err)
		}
		w.sh(h, "systemctl enable -q --now containerd kubelet")
	}
	return w
}

// setUp makes the two hosts run the pod in a mode.
func (w *podWorld) setUp(m podMode) {
	w.t.Helper()
	if w.mode == m {
		return
	}
	for _, h := range w.hosts {
		w.sh(h, "systemctl stop --no-block "+podmaster+" 2>/dev/null; rm -f "+podFolder+"/*")
	}
	for _, h := range w.hosts {
		w.stopped(h)
		w.podGone(h)
		_ = os.Remove(h.log)
	}
	for _, h := range w.hosts {
		w.write(h, podSource, node.Pod("work", "/shared/"+h.Name(), m.linger.String()))
		w.write(h, "/etc/hactl/podmaster/work.yaml", fmt.Sprintf(`etcd-servers: %s
key: %s
whoami: %s
source-file: %s
dest-file: %s/work.yaml
sleep: 500ms
lock-delay: %v
kubelet-url: https://127.0.0.1:10250
kubelet-cafile: %[7]s
kubelet-certfile: %[7]s
kubelet-keyfile: %[8]s
`, w.servers, key, h.Name(), podSource, podFolder, m.lockDelay, node.PairCert, node.PairKey))
		w.write(h, "/etc/systemd/system/podmaster@.service", shipped(w.t))
		w.sh(h, "systemctl daemon-reload && systemctl enable -q "+podmaster+" && systemctl start "+podmaster)
	}
	w.mode = m
	w.allThere()
	w.working()
	w.forget()
}

// stopped waits until podmaster has ended on h.
func (w *podWorld) stopped(h *labHost) {
	w.t.Helper()
	testwait.For(w.t, "podmaster to end on "+h.Name(), 90*time.Second, func() error {
		if out, _ := w.try(h, "systemctl is-active "+podmaster); out != "inactive" {
			return errors.New(out)
		}
		return nil
	})
}

// podGone waits until no process of the pod is left on h.
func (w *podWorld) podGone(h *labHost) {
	w.t.Helper()
	testwait.For(w.t, "the pod of "+h.Name()+" to be gone", 90*time.Second, func() error {
		out, err := w.try(h, "pgrep -f '^/podwork work' || test $? = 1")
		if err == nil && out != "" {
			err = fmt.Errorf("process %s", out)
		}
		return err
	})
}

// working waits until a host holds whose pod writes, and returns the pod's process.
func (w *podWorld) working() (*labHost, int64) {
	w.t.Helper()
	var found *labHost
	var process int64
	testwait.For(w.t, "a holder whose pod works", 3*time.Minute, func() error {
		info, err := w.info()
		if err != nil {
			return err
		}
		for _, h := range w.hosts {
			if h.Name() != info.Holder {
				continue
			}
			recs := readLog(w.t, h.log)
			if len(recs) == 0 {
				return fmt.Errorf("%s holds, and its pod has not written", h.Name())
			}
			last := recs[len(recs)-1]
			if age := (lease.Boottime{}).Now() - last.at; age > 500*time.Millisecond {
				return fmt.Errorf("the pod of %s last wrote %v ago", h.Name(), age)
			}
			found, process = h, last.token
			return nil
		}
		return fmt.Errorf("holder %q", info.Holder)
	})
	return found, process
}

// lastLine is when h's pod last wrote.
func (w *podWorld) lastLine(h *labHost) time.Duration {
	recs := readLog(w.t, h.log)
	if len(recs) == 0 {
		return 0
	}
	return recs[len(recs)-1].at
}

// podFault is something that happens to the host that holds.
type podFault struct {
	name      string
	hit, mend func(w *podWorld, h *labHost)
	moves     bool // the other host must hold afterwards
	renews    bool // another process must work afterwards, wherever
	keeps     bool // the same process must work on
	// unconfirmed: nobody can have said that the pod stopped, so that no other
	// process may begin before the lock delay is over.
	unconfirmed bool
}

// suffer lets the fault happen, and judges.
func (w *podWorld) suffer(f podFault, row *row) {
	w.t.Helper()
	w.allThere()
	h, process := w.working()
	w.wait(time.Duration(w.rng.Int64N(int64(800 * time.Millisecond))))
	start := lease.Boottime{}.Now()
	f.hit(w, h)
	if f.moves || f.renews {
		testwait.For(w.t, "another pod to work", 2*time.Minute, func() error {
			now, other := w.working()
			if other == process || f.moves && now == h {
				return fmt.Errorf("%s holds, with the process %d", now.Name(), other)
			}
			return nil
		})
	}
	if f.mend != nil {
		f.mend(w, h)
	}
	w.allThere()
	now, other := w.working()
	if f.keeps && (now != h || other != process) {
		w.t.Errorf("%s works with the process %d, before: %s with %d", now.Name(), other, h.Name(), process)
	}
	all := w.reigns()
	for _, o := range overlaps(all) {
		w.t.Error(o)
	}
	begun := 0
	for _, r := range all {
		if r.token == process {
			continue
		}
		begun++
		if waited := time.Duration(r.token) - start; f.unconfirmed && waited < w.mode.lockDelay {
			w.t.Errorf("%s began after %v: the lock delay is %v", r.host, waited, w.mode.lockDelay)
		}
	}
	row.add(w.gap(start), begun, 0)
	w.forget()
}

func (w *podWorld) run(t *testing.T, table *table, m podMode, faults []podFault) {
	t.Helper()
	for _, f := range faults {
		ok := t.Run(f.name, func(t *testing.T) {
			w.t = t
			w.setUp(m)
			row := table.row("pod: " + f.name)
			defer func() { row.done(t) }()
			for range repeats(t) {
				w.suffer(f, row)
			}
		})
		w.t = t
		if !ok { // what a failed one left must not be blamed on the next
			w.mode = podMode{}
			if err := w.lab.Heal(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func startPodmaster(w *podWorld, h *labHost) { w.sh(h, "systemctl start "+podmaster) }

// confirmedFaults end with a kubelet that says that the pod has stopped, or do not
// touch it.
func confirmedFaults() []podFault {
	return []podFault{
		{name: "clean stop", moves: true, mend: startPodmaster, hit: func(w *podWorld, h *labHost) {
			w.sh(h, "systemctl stop "+podmaster)
			w.podGone(h)
		}},
		{name: "restart of podmaster", renews: true, hit: func(w *podWorld, h *labHost) { w.sh(h, "systemctl restart "+podmaster) }},
		// Kubelet's list of what runs is then one from before it did.
		{name: "clean stop of a pod that has just begun", renews: true, hit: func(w *podWorld, h *labHost) {
			for range 3 {
				other := w.hosts[0]
				if other == h {
					other = w.hosts[1]
				}
				w.sh(h, "systemctl restart --no-block "+podmaster)
				testwait.For(w.t, "the first line of "+other.Name()+"'s pod", time.Minute, func() error {
					if w.lastLine(other) <= w.lastLine(h) {
						return errors.New("none")
					}
					return nil
				})
				w.sh(other, "systemctl stop --no-block "+podmaster)
				w.stopped(other)
				startPodmaster(w, other)
				testwait.For(w.t, h.Name()+" to hold", time.Minute, func() error {
					if now, _ := w.working(); now != h {
						return errors.New(now.Name())
					}
					return nil
				})
			}
		}},
		{name: "kill the guard", renews: true, hit: func(w *podWorld, h *labHost) { w.sh(h, "systemctl kill -s KILL 'podmaster-guard-*'") }},
		{name: "kill the pod's process", renews: true, hit: func(w *podWorld, h *labHost) { w.sh(h, "pkill -KILL -f '^/podwork work'") }},
		{name: "the manifest changes", renews: true, hit: func(w *podWorld, h *labHost) {
			w.sh(h, fmt.Sprintf(`sed -i 's/namespace: default.*/namespace: default, labels: {changed: "%d"}}/' %s`, w.rng.Uint32(), podSource))
		}},
		{name: "somebody takes the manifest away", renews: true, hit: func(w *podWorld, h *labHost) { w.sh(h, "rm "+podFolder+"/work.yaml") }},
		{name: "restart of kubelet", keeps: true, hit: func(w *podWorld, h *labHost) { w.sh(h, "systemctl restart kubelet"); w.wait(ttl) }},
		{name: "restart of containerd", keeps: true, hit: func(w *podWorld, h *labHost) { w.sh(h, "systemctl restart containerd"); w.wait(ttl) }},
		{name: "kubelet frozen during a clean stop", moves: true, mend: startPodmaster, hit: stopWhile("systemctl kill -s STOP kubelet", "systemctl kill -s CONT kubelet")},
		{name: "kubelet down during a clean stop", moves: true, mend: startPodmaster, hit: stopWhile("systemctl stop kubelet", "systemctl start kubelet")},
		{name: "containerd frozen during a clean stop", moves: true, mend: startPodmaster, hit: stopWhile("systemctl kill --kill-whom=main -s STOP containerd", "systemctl kill --kill-whom=main -s CONT containerd")},
	}
}

// stopWhile stops podmaster while nobody can stop its pod, for a while in which
// nobody may take over.
func stopWhile(begin, end string) func(*podWorld, *labHost) {
	return func(w *podWorld, h *labHost) {
		w.sh(h, begin+"; systemctl stop --no-block "+podmaster)
		w.wait(2 * ttl)
		if info, err := w.info(); err != nil || info.Holder != h.Name() {
			w.t.Errorf("released while its pod runs: holder %q, %v", info.Holder, err)
		}
		w.sh(h, end)
		w.stopped(h)
	}
}

// unconfirmedFaults end a term without anybody's word that the pod has stopped.
func unconfirmedFaults() []podFault {
	powerOn := func(w *podWorld, h *labHost) {
		if err := h.PowerOn(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
	plain := func(f func(*labWorld, *labHost)) func(*podWorld, *labHost) {
		return func(w *podWorld, h *labHost) { f(w.labWorld, h) }
	}
	return []podFault{
		{name: "kill podmaster", renews: true, unconfirmed: true, hit: plain(signalMain("KILL"))},
		{name: "kill podmaster and guard", renews: true, unconfirmed: true, hit: func(w *podWorld, h *labHost) { w.sh(h, "systemctl kill -s KILL 'podmaster-guard-*' "+podmaster) }},
		{name: "freeze podmaster", renews: true, unconfirmed: true, hit: plain(signalMain("STOP"))},
		{name: "freeze podmaster's whole unit", renews: true, unconfirmed: true, hit: plain(freezeUnit)},
		{name: "cut from etcd", moves: true, unconfirmed: true, hit: plain(cutFromOthers), mend: plain(heal)},
		{name: "freeze the whole host, shorter than the lock delay", renews: true, unconfirmed: true, hit: func(w *podWorld, h *labHost) {
			freezeHost(w.labWorld, h)
			thaw(w.labWorld, h)
		}},
		{name: "host without power", moves: true, unconfirmed: true, mend: powerOn, hit: func(w *podWorld, h *labHost) {
			if err := h.PowerOff(w.t.Context()); err != nil {
				w.t.Fatal(err)
			}
		}},
	}
}

// A static pod of real kubelets runs once over two hosts: it is never given free
// before kubelet says that it has stopped, and without kubelet's word not before
// the lock delay is over.
func TestLabPod(t *testing.T) {
	w := newPodWorld(t)
	table := newTable(t)
	t.Run("confirmed", func(t *testing.T) {
		w.run(t, table, podMode{linger: 3 * time.Second, lockDelay: never}, confirmedFaults())
	})
	t.Run("slow", func(t *testing.T) {
		// As long as an API server may take, and longer than other work is given.
		w.run(t, table, podMode{linger: 25 * time.Second, lockDelay: never}, []podFault{{
			name: "clean stop of a pod that takes 25 s", moves: true, mend: startPodmaster,
			hit: func(w *podWorld, h *labHost) { w.sh(h, "systemctl stop --no-block "+podmaster) },
		}})
	})
	t.Run("unconfirmed", func(t *testing.T) {
		w.run(t, table, podMode{linger: 2 * time.Second, lockDelay: 15 * time.Second}, unconfirmedFaults())
	})
	t.Run("bad input", func(t *testing.T) { w.t = t; w.badPods() })
}

// badPods are refused before a term is taken.
func (w *podWorld) badPods() {
	h := w.hosts[0]
	before := w.keys()
	for _, c := range []struct{ source, dest, kubelet, want string }{
		{"/etc/hactl/none.yaml", podFolder + "/x.yaml", "", "no such file"},
		{podSource, "/none/x.yaml", "", "no such file"},
		{podSource, podFolder + "/x.yaml", "--kubelet-url https://10.0.0.1:10250 --kubelet-insecure", "loopback"},
		{"/etc/hactl/podmaster/work.yaml", podFolder + "/x.yaml", "--kubelet-url https://127.0.0.1:10250", "no Pod"},
	} {
		out, err := w.try(h, fmt.Sprintf("podmaster --etcd-servers %s --key bad --source-file %s --dest-file %s %s 2>&1", w.servers, c.source, c.dest, c.kubelet))
		var failed *hosts.ExecError
		if !errors.As(err, &failed) || !strings.Contains(out, c.want) {
			w.t.Errorf("%+v: %v: %s", c, err, out)
		}
	}
	if after := w.keys(); after != before {
		w.t.Errorf("keys before: %s, after: %s", before, after)
	}
}
