//go:build lab

package masters

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/bootstrap"
	"github.com/hactl/hactl/internal/testwait"
)

// Three machines become a cluster by one command, run on all at the same time, and
// one late; run again it changes nothing.
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

// Nobody founds without the late one; then all go on.
func TestOneIsLate(t *testing.T) {
	m := up(t, 3)
	all := []string{"m1", "m2", "m3"}
	m.configure(t, all...)
	var wg sync.WaitGroup
	early := make([]outcome, 2)
	for i, n := range []string{"m1", "m2"} {
		wg.Go(func() { early[i] = m.run(t.Context(), n, "bootstrap") })
	}
	for _, n := range []string{"m1", "m2"} {
		testwait.For(t, n+" to wait at the secrets", patience, func() error { return m.at(t, n, bootstrap.StepSecrets) })
	}
	m.refused(t, "m1", 3, "another hactl bootstrap", "bootstrap")
	late := m.run(t.Context(), "m3", "bootstrap")
	wg.Wait()
	for _, o := range append(early, late) {
		if o.code != 0 {
			t.Error(o)
		}
	}
	if !strings.Contains(early[0].stderr, "m3 not here yet") {
		t.Errorf("it did not say for whom it waits: %v", early[0])
	}
	t.Logf("measure: bootstrap of the late one: %.1fs", late.took.Seconds())
	m.healthy(t, all...)
}

// at errs unless the journal of a host is at the step.
func (m *masters) at(t *testing.T, host, step string) error {
	o := m.command(t.Context(), host, "cat", "/var/lib/hactl/bootstrap.json")
	if !strings.Contains(o.stdout, fmt.Sprintf("%q", step)) {
		return fmt.Errorf("its journal: %v", o)
	}
	return nil
}

// Each machine is killed at each entry of its journal, and the same command goes
// on; in the end there is one cluster with the three.
func TestKilledAtEachStep(t *testing.T) {
	m := up(t, 3)
	all := []string{"m1", "m2", "m3"}
	m.configure(t, all...)
	kills := map[string][]string{}
	for i, step := range bootstrap.Steps() {
		kills["m1"] = append(kills["m1"], step+":"+bootstrap.Begun)
		kills["m2"] = append(kills["m2"], step+":"+bootstrap.Done)
		kills["m3"] = append(kills["m3"], step+":"+[]string{bootstrap.Done, bootstrap.Begun}[i%2])
	}
	began := time.Now()
	var wg sync.WaitGroup
	for _, n := range all {
		wg.Go(func() {
			for _, at := range kills[n] {
				o := m.command(t.Context(), n, "env", "HACTL_TEST_KILL_AT="+at, hactl, "bootstrap")
				if o.code != -1 && o.code != 137 {
					t.Errorf("it was to be killed at %s: %v", at, o)
				}
			}
			if o := m.run(t.Context(), n, "bootstrap"); o.code != 0 {
				t.Error(o)
			}
		})
	}
	wg.Wait()
	t.Logf("measure: killed %d times: %.1fs", 3*len(bootstrap.Steps()), time.Since(began).Seconds())
	m.healthy(t, all...)
	m.frontDoors(t, all...)
	if v := m.voters(t, "m2"); !slices.Equal(v, all) {
		t.Errorf("voters %v, want %v", v, all)
	}
}

// What must not become a cluster does not, and says why.
func TestRefusals(t *testing.T) {
	m := up(t, 3)
	all := []string{"m1", "m2", "m3"}
	m.configure(t, all...)

	m.refused(t, "m1", 6, "no master of a cluster is here", "join", "--timeout", "8s")
	m.refused(t, "m1", 6, "m2 and m3 not here yet", "bootstrap", "--timeout", "8s")
	m.refused(t, "m1", 2, "does not have the address", "bootstrap", "--name", "m2")
	m.write(t, "m1", "/root/even.yaml", m.configText(t, "m1", "m2"), 0o644)
	m.refused(t, "m1", 3, "", "bootstrap", "--config", "/root/even.yaml", "--timeout", "8s")

	// Another configuration on one: nobody founds, and all show what differs.
	m.write(t, "m2", "/etc/hactl/cluster.yaml", m.configText(t, all...)+"etcd: {quota: 4Gi}\n", 0o644)
	var wg sync.WaitGroup
	results := make([]outcome, 3)
	for i, n := range all {
		wg.Go(func() { results[i] = m.run(t.Context(), n, "bootstrap", "--timeout", "40s") })
	}
	wg.Wait()
	if o := results[0]; o.code != 3 || !strings.Contains(o.stderr, "another configuration on m2") || !strings.Contains(o.stderr, "4Gi") {
		t.Errorf("m1 does not show what differs on m2: %v", o)
	}
	for _, o := range results {
		if o.code == 0 {
			t.Error(o)
		}
	}
	for _, n := range all {
		if o := m.command(t.Context(), n, "ls", "/var/lib/hactl/etcd-intent.json"); o.code == 0 {
			t.Errorf("%s was told to become a member", n)
		}
	}

	// Another token: they do not understand each other.
	m.configure(t, all...)
	stranger := m.must(t, "m3", "token", "create")
	m.write(t, "m3", "/etc/hactl/token", stranger.stdout, 0o600)
	for i, n := range all {
		wg.Go(func() { results[i] = m.run(t.Context(), n, "bootstrap", "--timeout", "20s") })
	}
	wg.Wait()
	for _, o := range results {
		if o.code != 6 || !strings.Contains(o.stderr, "another token") {
			t.Errorf("it does not tell of another token: %v", o)
		}
	}
}
