package preflight

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/exitcode"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// faulty is a machine with faults of every kind.
func faulty(t *testing.T) Facts {
	t.Helper()
	f := good(t)
	f.Peers = nil
	f.Systemd.BusErr = errors.New("dial unix /run/dbus/system_bus_socket: no such file or directory")
	f.take(6443, "tcp", Process{812, "haproxy", "haproxy.service"})
	f.Programs[2].Version = "v1.30.0\x1b[2J\nerror"
	f.Swap = 2 << 30
	return f
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update rewrites it after a look):\n%s", path, got)
	}
}

func TestReportsAreAsDocumented(t *testing.T) {
	reports := map[string]*Report{
		"faulty":  NewReport(faulty(t), nil),
		"ignored": NewReport(faulty(t), []string{"port-6443", "DBus", "KubernetesVersion"}),
		"good":    NewReport(good(t), nil),
		"unknown": NewReport(Facts{ConfigErr: errors.New("read the configuration: no such file"), CPUs: 2, OpenFiles: 1 << 20, Memory: 4 << 30}, nil),
	}
	for name, r := range reports {
		var table, js strings.Builder
		if err := r.Table(&table); err != nil {
			t.Fatal(err)
		}
		if err := r.JSON(&js); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".table", table.String())
		golden(t, name+".json", js.String())
	}
}

func TestExitCode(t *testing.T) {
	cases := []struct {
		facts  Facts
		ignore []string
		code   int
		hint   string
	}{
		{good(t), nil, exitcode.OK, ""},
		{faulty(t), nil, exitcode.Unhealthy, "DBus,Port-6443,KubernetesVersion"},
		{faulty(t), []string{"DBus", "Port-6443"}, exitcode.Unhealthy, "--ignore-preflight KubernetesVersion"},
		{faulty(t), []string{"Port-9443"}, exitcode.Unhealthy, "DBus,Port-6443"},
		{faulty(t), []string{"DBus", "Port-6443", "KubernetesVersion"}, exitcode.OK, ""},
		{faulty(t), []string{All}, exitcode.OK, ""},
	}
	for _, c := range cases {
		r := NewReport(c.facts, c.ignore)
		err := r.Err()
		if got := exitcode.Of(err); got != c.code || r.Ready != (c.code == exitcode.OK) {
			t.Errorf("ignoring %v: exit code %d, ready %v; want code %d", c.ignore, got, r.Ready, c.code)
		}
		if got := hintOf(errors.Join(err), ""); !strings.Contains(got, c.hint) {
			t.Errorf("ignoring %v: hint %q, want %q in it", c.ignore, got, c.hint)
		}
	}
}

// A program's output can neither forge a line of the table nor steer the
// terminal.
func TestTableIsPlainText(t *testing.T) {
	var b strings.Builder
	if err := NewReport(faulty(t), nil).Table(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "\x1b") || !strings.Contains(b.String(), "v1.30.0 [2J error") {
		t.Errorf("table:\n%q", b.String())
	}
}
