//go:build lab

package masters

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// A cluster grows from one to three, loses a master and gets it back, by every
// way there is, while it is written to.
func TestGrowLeaveReplace(t *testing.T) {
	m := up(t, 4)
	all := []string{"m1", "m2", "m3"}
	m.configure(t, "m1")
	m.bootstrap(t, []string{"m1"})
	m.healthy(t, "m1")
	m.refused(t, "m1", 3, "last master", "leave")
	w := m.writer(t, "m1")

	// Grow: the new configuration is copied, the new masters join, the old one
	// applies it.
	m.configure(t, all...)
	m.bootstrap(t, []string{"m2", "m3"})
	m.bootstrap(t, []string{"m1"})
	m.healthy(t, all...)
	w.progress(t, "while the cluster has grown")

	// Leave, stay out, come back as a new one.
	m.must(t, "m3", "leave")
	if v := m.voters(t, "m1"); !slices.Equal(v, []string{"m1", "m2"}) {
		t.Errorf("voters %v after m3 has left", v)
	}
	m.refused(t, "m3", 3, "stays out", "bootstrap")
	m.powerOff(t, "m3")
	m.powerOn(t, "m3")
	if o := m.command(t.Context(), "m3", "systemctl", "is-active", "hactl-etcd", "kube-apiserver", "hactl-lb", "hactl-lb.socket", "hactl-agent"); strings.Contains(strings.ReplaceAll(o.stdout, "inactive", ""), "active") {
		t.Errorf("a master that left runs something after its boot: %v", o)
	}
	m.must(t, "m3", "reset", "--yes")
	m.must(t, "m3", "reset", "--yes") // there is nothing left
	m.bootstrapJoin(t, "m3")
	m.healthy(t, all...)

	// The machine loses its disk and comes back under its name.
	m.wipe(t, "m3")
	m.bootstrapJoin(t, "m3")
	m.healthy(t, all...)
	m.refused(t, "m3", 3, "hactl leave first", "reset", "--yes")

	// A dead machine is replaced by another one.
	m.powerOff(t, "m3")
	m.refused(t, "m2", 3, "would be well", "leave")
	m.configure(t, "m1", "m2", "m4")
	m.bootstrap(t, []string{"m4"})
	m.bootstrap(t, []string{"m1", "m2"})
	m.healthy(t, "m1", "m2", "m4")
	w.lost(t)
}

// bootstrapJoin lets one machine join.
func (m *masters) bootstrapJoin(t *testing.T, host string) {
	t.Helper()
	o := m.must(t, host, "join")
	t.Logf("measure: join of %s: %.1fs", host, o.took.Seconds())
}

// wipe takes a host's disk away, but for what its user prepares anew.
func (m *masters) wipe(t *testing.T, host string) {
	t.Helper()
	o := m.command(t.Context(), host, "sh", "-c", "rm -rf /etc/systemd/system/*hactl* /etc/systemd/system/kube-apiserver* /etc/systemd/system/podmaster* /etc/kubernetes /var/lib/hactl/*")
	if o.code != 0 {
		t.Fatal(o)
	}
	m.powerOff(t, host)
	// What its dying processes wrote meanwhile.
	m.powerOn(t, host)
	if o := m.command(t.Context(), host, "sh", "-c", "rm -rf /etc/kubernetes /var/lib/hactl/*"); o.code != 0 {
		t.Fatal(o)
	}
}

// Masters are rebooted one by one, lose power, all lose power; nothing that was
// acknowledged is lost.
func TestPower(t *testing.T) {
	m := up(t, 3)
	all := []string{"m1", "m2", "m3"}
	m.configure(t, all...)
	m.bootstrap(t, all)
	m.healthy(t, all...)
	w := m.writer(t, all...)

	for _, h := range m.Hosts() {
		if err := h.Reboot(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.healthy(t, all...)
	}
	m.powerOff(t, "m2")
	w.progress(t, "with one master off")
	m.powerOn(t, "m2")
	m.healthy(t, all...)

	// All at once; back in random order, one staying off for a while.
	m.powerOff(t, all...)
	order := slices.Clone(all)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rand.New(rand.NewPCG(seed, 0)).Shuffle(3, func(i, j int) { order[i], order[j] = order[j], order[i] })
	began := time.Now()
	m.powerOn(t, order[:2]...)
	w.progress(t, "with two of three masters back: "+strings.Join(order[:2], ", "))
	t.Logf("measure: from power to the first writes: %.1fs", time.Since(began).Seconds())
	m.oneOfEach(t)
	m.powerOn(t, order[2])
	m.healthy(t, all...)
	t.Logf("measure: all back and healthy: %.1fs", time.Since(began).Seconds())
	m.frontDoors(t, all...)
	w.lost(t)
}

// Each unit is restarted and the others do not notice; the front door refuses
// nobody. A kubelet that is installed runs, too, and the units are what systemd wants.
func TestUnits(t *testing.T) {
	m := up(t, 1)
	m.configure(t, "m1")
	m.write(t, "m1", "/etc/systemd/system/kubelet.service", "[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n", 0o644)
	m.bootstrap(t, []string{"m1"})
	m.healthy(t, "m1")
	if o := m.command(t.Context(), "m1", "sh", "-c", "systemctl is-enabled kubelet && systemctl is-active kubelet"); o.code != 0 {
		t.Errorf("the kubelet: %v", o)
	}
	for _, unit := range []string{"hactl-etcd", "kube-apiserver", "hactl-lb", "hactl-agent", "podmaster@kube-scheduler"} {
		before := m.pids(t, "m1")
		knocks := m.knock(t, "m1:6443")
		if o := m.command(t.Context(), "m1", "systemctl", "restart", unit); o.code != 0 {
			t.Fatal(o)
		}
		after := m.pids(t, "m1")
		knocks()
		for i, l := range strings.Split(before, "\n\n") {
			same := l == strings.Split(after, "\n\n")[i]
			if mine := strings.Contains(l, "Id="+unit+"."); same == mine {
				t.Errorf("%s was restarted: before %q, after %q", unit, l, strings.Split(after, "\n\n")[i])
			}
		}
		m.healthy(t, "m1")
	}
	if o := m.command(t.Context(), "m1", "sh", "-c", "systemd-analyze verify --man=no /etc/systemd/system/hactl*.service /etc/systemd/system/hactl-lb.socket /etc/systemd/system/hactl.target /etc/systemd/system/kube-apiserver.service /etc/systemd/system/podmaster@*"); o.code != 0 || strings.Contains(o.stderr, "/etc/systemd/system/") {
		t.Errorf("systemd-analyze verify: %v", o)
	}
	for _, unit := range []string{"hactl-etcd", "kube-apiserver", "hactl-lb", "hactl-agent", "podmaster@kube-scheduler", "podmaster@kube-controller-manager"} {
		if o := m.command(t.Context(), "m1", "systemd-analyze", "security", "--no-pager", "--threshold=20", unit+".service"); o.code != 0 {
			t.Errorf("exposure above 2.0: %v", o)
		}
	}
}

// knock opens connections to an address without a pause, until the returned func
// is called, which tells of those that were refused.
func (m *masters) knock(t *testing.T, address string) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	var refused []error
	opened := 0
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			conn, err := m.DialContext(ctx, "tcp", address)
			switch {
			case err == nil:
				opened++
				_ = conn.Close()
			case ctx.Err() == nil:
				refused = append(refused, err)
			}
		}
	}()
	return func() {
		t.Helper()
		cancel()
		<-done
		if opened == 0 || len(refused) > 0 {
			t.Errorf("%d connections were opened, and %d refused: %v", opened, len(refused), refused)
		}
	}
}
