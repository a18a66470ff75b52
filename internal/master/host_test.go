package master

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/kube"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/workload"
)

func testHost(t *testing.T) *Host {
	t.Helper()
	c := config.Default()
	c.Name = "test"
	c.Masters = []config.Master{{Name: "m1", Address: "127.0.1.1"}, {Name: "m2", Address: "127.0.1.2"}, {Name: "m3", Address: "127.0.1.3"}}
	l := layout.Layout{Root: t.TempDir()}
	if err := l.MkdirAll(); err != nil {
		t.Fatal(err)
	}
	h, err := New(c, "m2", l, Programs{Hactl: "/opt/hactl/hactl", Podmaster: "/opt/hactl/podmaster"})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestUnits(t *testing.T) {
	h := testHost(t)
	units, err := h.Units()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, u := range units {
		names = append(names, u.Name)
		if !filepath.IsAbs(u.Exec[0]) {
			t.Errorf("%s runs %q, want an absolute path", u.Name, u.Exec[0])
		}
		if u.LogFile != h.layout.LogFile(u.Name) {
			t.Errorf("%s logs to %q", u.Name, u.LogFile)
		}
		if !u.Notify {
			t.Errorf("%s would count as active before it serves", u.Name)
		}
	}
	if got := UnitNames(h.config); !slices.Equal(got, names) {
		t.Errorf("UnitNames = %v, Units has %v", got, names)
	}
	want := "hactl-etcd kube-apiserver hactl-lb podmaster@kube-scheduler podmaster@kube-controller-manager hactl-agent"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("order of starting\n got %s\nwant %s", got, want)
	}
}

// A podmaster that is frozen must be dead before another may take its term.
func TestDeadMansSwitchFiresWithinTheTTL(t *testing.T) {
	h := testHost(t)
	units, err := h.Units()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range h.config.Singletons {
		u := unit(t, units, Podmaster+s.Name)
		if u.WatchdogSec <= 0 || u.WatchdogSec >= s.TTL {
			t.Errorf("%s: WatchdogSec %v, want more than 0 and less than the TTL %v", u.Name, u.WatchdogSec, s.TTL)
		}
	}
}

func TestPodmasterAsksItsOwnMemberFirst(t *testing.T) {
	units, err := testHost(t).Units()
	if err != nil {
		t.Fatal(err)
	}
	u := unit(t, units, "podmaster@kube-scheduler")
	i := slices.Index(u.Exec, "--etcd-servers")
	want := "https://127.0.1.2:2379,https://127.0.1.1:2379,https://127.0.1.3:2379"
	if i < 0 || u.Exec[i+1] != want {
		t.Errorf("etcd servers: %v, want %s", u.Exec, want)
	}
	if i := slices.Index(u.Exec, "--"); i < 0 || filepath.Base(u.Exec[i+1]) != "kube-scheduler" || !slices.Contains(u.Exec[i:], "--leader-elect=false") {
		t.Errorf("child: %v", u.Exec)
	}
}

func TestNoRootNoFlag(t *testing.T) {
	h := testHost(t)
	h.layout = layout.Layout{}
	units, err := h.Units()
	if err != nil {
		t.Fatal(err)
	}
	if u := unit(t, units, Etcd); strings.Join(u.Exec, " ") != "/opt/hactl/hactl etcd run --name m2" {
		t.Errorf("on a real machine: %v", u.Exec)
	}
}

func TestWriteFilesTwiceChangesNothing(t *testing.T) {
	h := testHost(t)
	store, err := pki.New(pki.Config{Dir: h.layout.PKI(), Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.EnsureCAs(); err != nil {
		t.Fatal(err)
	}
	if _, err := kube.EnsureEncryption(h.layout); err != nil {
		t.Fatal(err)
	}
	if err := h.WriteFiles(); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, h.layout.Root)
	if err := h.WriteFiles(); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, h.layout.Root); after != before {
		t.Errorf("the second run changed files:\n%s\nbefore:\n%s", after, before)
	}
	if !strings.Contains(before, "admin.conf") || !strings.Contains(before, "etcd/peer.key") {
		t.Errorf("files:\n%s", before)
	}
}

func TestNewNeedsAKnownMaster(t *testing.T) {
	if _, err := New(config.Default(), "m9", layout.Layout{}, Programs{}); err == nil || !strings.Contains(err.Error(), "m9") {
		t.Errorf("err = %v", err)
	}
}

func TestFindNamesEverythingThatIsMissing(t *testing.T) {
	p := Programs{Hactl: "/nowhere/hactl", Podmaster: "/nowhere/podmaster", KubeBin: "/nowhere/kube"}
	err := p.Find(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"/nowhere/hactl", "/nowhere/podmaster", "/nowhere/kube/kube-apiserver", "/nowhere/kube/kube-scheduler"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not name %s", err, want)
		}
	}
}

func unit(t *testing.T, units []workload.Unit, name string) workload.Unit {
	t.Helper()
	i := slices.IndexFunc(units, func(u workload.Unit) bool { return u.Name == name })
	if i < 0 {
		t.Fatalf("no unit %s", name)
	}
	return units[i]
}

// snapshot lists every file below dir with its size and time.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().IsRegular() {
			b.WriteString(path + " " + fi.ModTime().String() + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
