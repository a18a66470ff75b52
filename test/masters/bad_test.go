//go:build lab

package masters

import (
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hactl/hactl/internal/testwait"
)

// ill is a machine with a fault, and what its bootstrap says about it.
type ill struct {
	host       string
	make, cure string // shell commands
	code       int
	says       []string // on stderr, each of them
}

// listening makes something else listen at an address, until other.socket stops.
func listening(address string) string {
	return "printf '[Socket]\nListenStream=" + address + "\n' >/run/systemd/system/other.socket; " +
		"printf '[Service]\nExecStart=/bin/cat\n' >/run/systemd/system/other.service; systemctl daemon-reload; systemctl start other.socket"
}

// Each fault is refused with its way out, and nothing is half done; the same
// command succeeds once it is cured.
func TestBadMachines(t *testing.T) {
	m := up(t, 4)
	all := []string{"m1", "m2", "m3"}
	m.configure(t, all...)

	// Three machines, each with a fault of its own.
	const full = "mkdir -p /var/lib/hactl; mount -t tmpfs -o size=64k tmpfs /var/lib/hactl; dd if=/dev/zero of=/var/lib/hactl/full 2>/dev/null; true"
	m.refuseAll(t, []ill{
		{"m1", listening("10.245.1.11:2379"), "systemctl stop other.socket", 4, []string{"Port-2379", "is taken by systemd (pid 1, other.socket)", "systemctl disable --now other.socket"}},
		{"m2", full, "umount /var/lib/hactl", 1, []string{"no space left on device", "try: make room on the disk of /var/lib/hactl"}},
		{"m3", "systemctl stop dbus.socket dbus.service", "systemctl start dbus.socket", 4, []string{"DBus", "systemd does not answer over D-Bus", "systemctl start dbus.socket"}},
	})
	m.refuseAll(t, []ill{
		{"m1", listening("10.245.1.11:7947"), "systemctl stop other.socket", 4, []string{"Port-7947", "is taken by systemd (pid 1, other.socket)"}},
		{"m2", "mount -t tmpfs -o size=100M tmpfs /var/lib/hactl", "umount /var/lib/hactl", 4, []string{"DiskSpace", "make room"}},
	})

	// A clock that is off shows only when they meet; then all of them know.
	skewed := m.skewed(t, "m3")
	var wg sync.WaitGroup
	results := make([]outcome, 3)
	for i, n := range all {
		argv := []string{hactl, "bootstrap", "--timeout", "60s"}
		if n == "m3" {
			argv = append([]string{skewed, "-1h"}, argv...)
		}
		wg.Go(func() { results[i] = m.command(t.Context(), n, argv...) })
	}
	wg.Wait()
	if o := results[2]; o.code != 4 || !strings.Contains(o.stderr, "TimeSkew: the clock of master m") || !strings.Contains(o.stderr, "ahead of this machine's") {
		t.Errorf("a clock is off by an hour, and its machine: %v", o)
	}
	told := false
	for _, o := range results[:2] { // one may wait for another that was told, and left
		told = told || o.code == 4 && strings.Contains(o.stderr, "the clock of master m3 is") && strings.Contains(o.stderr, "behind this machine's")
		if o.code != 4 && o.code != 6 {
			t.Errorf("beside a clock that is off: %v", o)
		}
	}
	if !told {
		t.Errorf("nobody else was told of the clock: %v", results)
	}
	for _, n := range all {
		m.untouched(t, n)
	}

	// A disk that is too small, against all advice: the others are masters, this one
	// waits in vain and says for what. With room the same command goes on.
	m.shell(t, "m2", "mkdir -p /var/lib/hactl; mount -t tmpfs -o size=16M tmpfs /var/lib/hactl")
	for i, n := range []string{"m1", "m3"} {
		wg.Go(func() { results[i] = m.run(t.Context(), n, "bootstrap") })
	}
	o := m.run(t.Context(), "m2", "bootstrap", "--ignore-preflight", "DiskSpace", "--timeout", "90s")
	if o.code == 0 || !strings.Contains(o.stderr, "hactl-etcd.service") || !strings.Contains(o.stderr, "journalctl -u hactl-etcd") {
		t.Errorf("etcd's disk is full: %v", o)
	}
	t.Logf("etcd's disk is full: %v", o)
	m.shell(t, "m2", "mount -o remount,size=4G /var/lib/hactl")
	if o := m.run(t.Context(), "m2", "bootstrap"); o.code != 0 {
		t.Error(o)
	}
	wg.Wait()
	for _, o := range results[:2] {
		if o.code != 0 {
			t.Error(o)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	m.healthy(t, all...)
	m.frontDoors(t, all...)

	t.Run("Duplicates", func(t *testing.T) { m.duplicates(t, all) })
	t.Run("NoBusBesideACluster", func(t *testing.T) { m.withoutBus(t, all) })
}

// refuseAll makes the faults, wants each machine to refuse to become a master and
// to be as before, and cures them.
func (m *masters) refuseAll(t *testing.T, faults []ill) {
	t.Helper()
	var wg sync.WaitGroup
	for _, f := range faults {
		m.shell(t, f.host, f.make)
		wg.Go(func() {
			o := m.run(t.Context(), f.host, "bootstrap", "--timeout", "60s")
			for _, words := range f.says {
				if o.code != f.code || !strings.Contains(o.stderr, words) {
					t.Errorf("want exit code %d and %q: %v", f.code, words, o)
				}
			}
		})
	}
	wg.Wait()
	for _, f := range faults {
		m.untouched(t, f.host)
		m.shell(t, f.host, f.cure)
	}
}

// untouched wants that a machine has no part of a master.
func (m *masters) untouched(t *testing.T, host string) {
	t.Helper()
	o := m.command(t.Context(), host, "sh", "-c", `ls /etc/systemd/system | grep -E '^(hactl|kube-|podmaster)'; ls -A /etc/kubernetes/pki /var/lib/hactl/etcd /var/lib/hactl/etcd-intent.json 2>/dev/null; true`)
	if strings.Trim(strings.ReplaceAll(o.stdout, "/etc/kubernetes/pki:", ""), "\n") != "" {
		t.Errorf("%s: half done: %v", host, o)
	}
	m.idle(t, host)
}

// skewed puts the program that runs another with a wrong clock on a host.
func (m *masters) skewed(t *testing.T, host string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "skewed")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./skewed").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h, err := m.Named(host)
	if err == nil {
		err = h.CopyTo(t.Context(), program, "/opt/skewed")
	}
	if err != nil {
		t.Fatal(err)
	}
	return "/opt/skewed"
}

// duplicates are machines that take the name or the address of a master that lives.
func (m *masters) duplicates(t *testing.T, all []string) {
	before := m.pids(t, "m3")
	good := m.configText(t, all...)
	h3, err := m.Named("m3")
	if err != nil {
		t.Fatal(err)
	}
	h4, err := m.Named("m4")
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours := h3.Address().String(), h4.Address().String()

	// Its name, in its own configuration only.
	replaced := strings.Replace(good, theirs, ours, 1)
	m.write(t, "m4", "/etc/hactl/cluster.yaml", replaced, 0o644)
	t.Logf("a second m3: %v", m.refused(t, "m4", 3, "m3", "join", "--timeout", "60s"))
	m.untouched(t, "m4")

	// Its name, in everybody's configuration, as if it were dead.
	for _, n := range all {
		m.write(t, n, "/etc/hactl/cluster.yaml", replaced, 0o644)
	}
	testwait.For(t, "a refusal because m3 lives", patience, func() error {
		o := m.run(t.Context(), "m4", "join", "--timeout", "60s")
		if o.code != 3 || !strings.Contains(o.stderr, "m3") || strings.Contains(o.stderr, "another configuration") {
			return wants("m3, and exit code 3", o)
		}
		t.Logf("a second m3: %v", o)
		return nil
	})
	m.idle(t, "m4")
	for _, n := range all {
		m.write(t, n, "/etc/hactl/cluster.yaml", good, 0o644)
	}
	m.must(t, "m4", "reset", "--yes")
	m.healthy(t, all...)

	// Its address.
	m.write(t, "m4", "/etc/hactl/cluster.yaml", good, 0o644)
	m.shell(t, "m4", "ip address add "+theirs+"/24 dev host0")
	m.refused(t, "m4", 4, "another machine in the network has "+theirs+" too", "join", "--name", "m3", "--timeout", "60s")
	m.shell(t, "m4", "ip address del "+theirs+"/24 dev host0")
	m.untouched(t, "m4")

	m.healthy(t, all...)
	m.frontDoors(t, all...)
	if after := m.pids(t, "m3"); !sameProcesses(before, after) {
		t.Errorf("m3 was disturbed:\n%s\nbefore:\n%s", after, before)
	}
}

// sameProcesses compares what pids tells, but for the agent: that starts again with
// a changed configuration.
func sameProcesses(before, after string) bool {
	a, b := strings.Split(before, "\n\n"), strings.Split(after, "\n\n")
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] && !strings.Contains(a[i], "Id=hactl-agent.") {
			return false
		}
	}
	return true
}

// withoutBus takes the message bus away from a master that serves: root reaches
// systemd without it, and nothing is restarted or given up.
func (m *masters) withoutBus(t *testing.T, all []string) {
	before := m.pids(t, "m2")
	m.shell(t, "m2", "systemctl stop dbus.socket dbus.service")
	m.healthy(t, all...)
	m.shell(t, "m2", "systemctl restart hactl-agent")
	m.healthy(t, all...)
	if o := m.must(t, "m2", "watchdog", "status"); strings.Contains(o.stdout, "supervisor silent") {
		t.Errorf("without a message bus: %v", o)
	}
	if after := m.pids(t, "m2"); !sameProcesses(before, after) {
		t.Errorf("m2 was disturbed:\n%s\nbefore:\n%s", after, before)
	}
	m.shell(t, "m2", "systemctl start dbus.socket")
	m.healthy(t, all...)
}
