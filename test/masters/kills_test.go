//go:build lab

package masters

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/bootstrap"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/testwait"
)

// entries are all entries of a command's journal, as HACTL_TEST_KILL_AT names them.
func entries(steps []string) (all []string) {
	for _, s := range steps {
		all = append(all, s+":"+bootstrap.Begun, s+":"+bootstrap.Done)
	}
	return all
}

// killAt runs hactl on a host with the order to kill itself at an entry of its
// journal.
func (m *masters) killAt(t *testing.T, host, at string, args ...string) {
	t.Helper()
	o := m.command(t.Context(), host, append([]string{"env", "HACTL_TEST_KILL_AT=" + at, hactl}, args...)...)
	if o.code != -1 && o.code != 137 {
		t.Fatalf("it was to be killed at %s: %v", at, o)
	}
}

// A master leaves, killed at each entry of its journal and once started again; is
// wiped, killed at each entry; and joins again. The others do not notice.
func TestKilledWhileLeaving(t *testing.T) {
	m := up(t, 3)
	all, others := []string{"m1", "m2", "m3"}, []string{"m1", "m2"}
	m.configure(t, all...)
	m.bootstrap(t, all)
	m.healthy(t, all...)
	// What leaves has all that there is to hand over.
	m.giveAll(t, "m3")
	w := m.writer(t, others...)

	began := time.Now()
	for _, at := range entries(bootstrap.LeaveSteps()) {
		m.killAt(t, "m3", at, "leave")
		w.progress(t, "after leave was killed at "+at)
		if at == bootstrap.StepRemove+":"+bootstrap.Done {
			// Its units are still enabled: what starts again must find out that it is no
			// member any more. (A boot would do the same, and never be done with it.)
			m.shell(t, "m3", "systemctl stop hactl-etcd; systemctl start --no-block hactl.target hactl-etcd hactl-agent kube-apiserver podmaster@kube-scheduler podmaster@kube-controller-manager")
			testwait.For(t, "the removed member to say why it stays out", patience, func() error {
				return m.says(t, "m3", "hactl-etcd", "removed")
			})
			m.refused(t, "m3", 3, "hactl leave ends it", "bootstrap")
		}
		m.oneOfEach(t)
	}
	m.must(t, "m3", "leave")
	t.Logf("measure: leave, killed %d times: %.1fs", len(entries(bootstrap.LeaveSteps())), time.Since(began).Seconds())
	if v := m.voters(t, "m1"); !slices.Equal(v, others) {
		t.Errorf("voters %v, want %v", v, others)
	}
	m.idle(t, "m3")
	m.configureOn(t, others, others...)
	m.healthy(t, others...)

	for _, at := range entries(bootstrap.ResetSteps()) {
		m.killAt(t, "m3", at, "reset", "--yes")
		m.refused(t, "m3", 3, "hactl reset ends it", "join", "--timeout", "5s")
	}
	m.must(t, "m3", "reset", "--yes")
	m.wiped(t, "m3")
	m.healthy(t, others...)

	m.configure(t, all...)
	m.bootstrapJoin(t, "m3")
	m.stand(t, all)
	w.lost(t)
}

// giveAll makes one master etcd's leader and the holder of each singleton.
func (m *masters) giveAll(t *testing.T, host string) {
	t.Helper()
	if m.report(t, host).Etcd.Leader != host {
		m.must(t, host, "etcd", "move-leader", host)
	}
	for _, s := range m.report(t, host).Singletons {
		if s.Holder != host {
			m.must(t, host, "singleton", "move", s.Name, "--to", host)
		}
	}
}

// report is the cluster as hactl status on a host tells it.
func (m *masters) report(t *testing.T, host string) status.Report {
	t.Helper()
	o := m.run(t.Context(), host, "status", "-o", "json")
	var r status.Report
	if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
		t.Fatalf("%v: %v", err, o)
	}
	return r
}

// says errs until a unit's journal has the words.
func (m *masters) says(t *testing.T, host, unit, words string) error {
	t.Helper()
	o := m.command(t.Context(), host, "journalctl", "--no-pager", "-o", "cat", "-n", "200", "-u", unit)
	if !strings.Contains(o.stdout, words) {
		return wants(words, o)
	}
	return nil
}

// wiped wants that nothing of hactl is left on a host but what its user put there.
func (m *masters) wiped(t *testing.T, host string) {
	t.Helper()
	o := m.command(t.Context(), host, "sh", "-c", `ls -A /var/lib/hactl /run/hactl /etc/kubernetes 2>/dev/null | grep -v ':$' | grep .; ls /etc/systemd/system | grep -E '^(hactl|kube-|podmaster)'; true`)
	if o.code != 0 || o.stdout != "" {
		t.Errorf("%s: left: %v", host, o)
	}
	m.idle(t, host)
}

// wants is the error of a command that did not say what it should.
func wants(words string, o outcome) error { return fmt.Errorf("no %q in %v", words, o) }
