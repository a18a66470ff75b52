//go:build lab

package masters

import (
	"slices"
	"testing"
)

// Three masters become five, both new ones at the same time, and then three and
// one again, while they are written to.
func TestFiveMasters(t *testing.T) {
	m := up(t, 5)
	one, three := []string{"m1"}, []string{"m1", "m2", "m3"}
	five := append(slices.Clone(three), "m4", "m5")
	m.configure(t, three...)
	m.bootstrap(t, three)
	m.healthy(t, three...)
	w := m.writer(t, three...)

	m.configure(t, five...)
	m.bootstrap(t, []string{"m4", "m5"})
	for _, n := range three { // one after the other, as docs/bootstrap.md says
		m.bootstrap(t, []string{n})
	}
	m.stand(t, five)
	w.progress(t, "with five masters")

	m.shrink(t, w, []string{"m5", "m4"}, three)
	m.shrink(t, w, []string{"m3", "m2"}, one)
	w.lost(t)
}

// stand wants exactly these masters, which all are well, vote and serve.
func (m *masters) stand(t *testing.T, names []string) {
	t.Helper()
	m.healthy(t, names...)
	if v := m.voters(t, names[0]); !slices.Equal(v, names) {
		t.Errorf("voters %v, want %v", v, names)
	}
	m.frontDoors(t, names...)
}

// shrink lets masters leave, one after the other, and takes them out of the
// configuration of those that are left.
func (m *masters) shrink(t *testing.T, w *writer, leaving, left []string) {
	t.Helper()
	for _, n := range leaving {
		o := m.must(t, n, "leave")
		t.Logf("measure: leave of %s: %.1fs", n, o.took.Seconds())
		w.progress(t, "after "+n+" has left")
		m.refused(t, n, 3, "stays out", "bootstrap")
		m.idle(t, n)
	}
	m.configureOn(t, left, left...)
	m.stand(t, left)
	w.progress(t, "with the masters that are left")
}

// configureOn writes the configuration with the named masters to some hosts only.
func (m *masters) configureOn(t *testing.T, on []string, names ...string) {
	t.Helper()
	for _, h := range on {
		m.write(t, h, "/etc/hactl/cluster.yaml", m.configText(t, names...), 0o644)
	}
}

// idle wants that nothing of ours runs on a host, nor is to run at its next boot.
func (m *masters) idle(t *testing.T, host string) {
	t.Helper()
	o := m.command(t.Context(), host, "sh", "-c", `systemctl list-units --all --plain --no-legend 'hactl*' 'kube-apiserver*' 'podmaster*' | awk '$3 != "inactive"'; ls /etc/systemd/system/multi-user.target.wants /etc/systemd/system/sockets.target.wants 2>/dev/null | grep -E '^(hactl|kube-|podmaster)'; true`)
	if o.code != 0 || o.stdout != "" {
		t.Errorf("%s: something of ours runs, or is enabled: %v", host, o)
	}
}
