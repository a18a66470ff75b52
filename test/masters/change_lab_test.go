//go:build lab

package masters

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// A changed configuration is brought to all masters at once, by the same command
// everywhere. API servers and members restart, never two of a kind at the same
// time, and clients on new connections lose nothing.
func TestAChangedConfigurationEverywhereAtOnce(t *testing.T) {
	m := up(t, 3)
	all := []string{"m1", "m2", "m3"}
	m.configure(t, all...)
	m.bootstrap(t, all)
	m.healthy(t, all...)
	w := m.writer(t, all...)
	w.progress(t, "before the change")

	units := []string{"hactl-etcd", "kube-apiserver"}
	before := map[string]int{}
	for _, n := range all {
		for _, u := range units {
			before[n+u] = m.mainPID(t, n, u)
		}
	}
	text := m.configText(t, all...) + "etcd: {heartbeat: 150ms, election: 1500ms}\napiServer: {extraArgs: {v: \"1\"}}\n"
	for _, n := range all {
		m.write(t, n, "/etc/hactl/cluster.yaml", text, 0o644)
	}
	m.bootstrap(t, all)
	m.healthy(t, all...)
	w.progress(t, "after the change")

	for _, u := range units {
		var gaps []gap
		for _, n := range all {
			if now := m.mainPID(t, n, u); now == before[n+u] || now == 0 {
				t.Errorf("%s of %s: process %d, before %d: it was not restarted", u, n, now, before[n+u])
			}
			gaps = append(gaps, m.lastGap(t, n, u))
		}
		for i, a := range gaps {
			for _, b := range gaps[:i] {
				if a.from < b.to && b.from < a.to {
					t.Errorf("%s was restarted on two masters at a time: %v, %v", u, a, b)
				}
			}
		}
		t.Logf("measure: %s restarted one after the other: %v", u, gaps)
	}
	w.lost(t)
}

// gap is when a unit was not active, in microseconds of the clock that all hosts
// share.
type gap struct {
	host     string
	from, to int64
}

func (g gap) String() string { return fmt.Sprintf("%s for %.2f s", g.host, float64(g.to-g.from)/1e6) }

// lastGap is between a unit's last stop and start.
func (m *masters) lastGap(t *testing.T, host, unit string) gap {
	t.Helper()
	g := gap{host: host}
	for property, at := range map[string]*int64{"ActiveExitTimestampMonotonic": &g.from, "ActiveEnterTimestampMonotonic": &g.to} {
		var err error
		if *at, err = strconv.ParseInt(strings.TrimSpace(m.shell(t, host, "systemctl show -P "+property+" "+unit).stdout), 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	if g.from == 0 || g.to <= g.from {
		t.Fatalf("%s of %s: left at %d, active again at %d", unit, host, g.from, g.to)
	}
	return g
}
