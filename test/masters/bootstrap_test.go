//go:build lab

package masters

import (
	"strings"
	"testing"
)

// Three machines become a cluster by one command, run on all at the same time;
// run again it changes nothing.
func TestThreeAtOnce(t *testing.T) {
	m := up(t, 3)
	all := []string{"m1", "m2", "m3"}
	m.configure(t, all...)
	m.bootstrap(t, all)
	m.healthy(t, all...)
	m.frontDoors(t, all...)

	before := m.pids(t, "m2")
	o := m.must(t, "m2", "bootstrap")
	if after := m.pids(t, "m2"); after != before {
		t.Errorf("run again it restarted something:\n%s\nbefore:\n%s\n%v", after, before, o)
	}
	if !strings.Contains(o.stderr, "8 unit files are as they should be") {
		t.Errorf("run again it wrote something: %v", o)
	}
	m.healthy(t, all...)
}
