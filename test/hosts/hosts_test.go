package hosts

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hactl/hactl/test/hosts/internal/labdir"
	"github.com/hactl/hactl/test/hosts/internal/wire"
)

func TestConfigDefaults(t *testing.T) {
	t.Setenv("HACTL_LAB_DIR", "/var/lib/elsewhere")
	t.Setenv("HACTL_LAB_CACHE", "")
	c, err := Config{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if c.Hosts != 3 || !slices.Equal(c.Names, []string{"m1", "m2", "m3"}) || c.Dir != "/var/lib/elsewhere" || c.Cache != defaultCache || c.Name == "" || c.Logger == nil {
		t.Errorf("%+v", c)
	}
	if other, _ := (Config{}).withDefaults(); other.Name == c.Name {
		t.Error("two labs have one name")
	}
	c, err = Config{Names: []string{"a", "w1"}}.withDefaults()
	if err != nil || c.Hosts != 2 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestConfigRefuses(t *testing.T) {
	for want, c := range map[string]Config{
		`Name: "A"`:         {Name: "A"},
		`Name: "a/../b"`:    {Name: "a/../b"},
		"Hosts: -1":         {Hosts: -1},
		"Hosts: 201":        {Hosts: 201},
		"there are 1 Names": {Hosts: 2, Names: []string{"a"}},
		"at most 12":        {Names: []string{"a-very-long-name"}},
		`Names[1]: "m1" is`: {Names: []string{"m1", "m1"}},
		`"lab" is the lab`:  {Names: []string{"lab"}},
		`"keeper" is the`:   {Names: []string{"keeper"}},
		"Packages[0]":       {Packages: []string{"--evil"}},
		"Binds[0].Source":   {Binds: []Bind{{Source: "bin", Target: "/bin"}}},
		"Binds[0].Target":   {Binds: []Bind{{Source: "/bin", Target: "/a:b"}}},
		"Dir":               {Dir: "labs"},
		"Cache":             {Cache: "/" + strings.Repeat("x", maxDir)},
	} {
		if _, err := c.withDefaults(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", c, err, want)
		}
	}
	_, err := Config{Name: "A", Hosts: -1, Dir: "x"}.withDefaults()
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("not all faults at once: %v", err)
	}
}

func TestTreeKey(t *testing.T) {
	base := treeKey(treePackages(nil))
	if base != treeKey(treePackages([]string{"dbus", "procps"})) {
		t.Error("packages that are there anyway change the tree")
	}
	if base == treeKey(treePackages([]string{"containerd"})) {
		t.Error("a further package does not change the tree")
	}
	if a, b := treeKey(treePackages([]string{"a", "b"})), treeKey(treePackages([]string{"b", "a"})); a != b {
		t.Error("the order of packages changes the tree")
	}
}

func TestMissing(t *testing.T) {
	got := missing(func(program string) error {
		if program == "nft" || program == "nsenter" || program == "unshare" {
			return fs.ErrNotExist
		}
		return nil
	})
	if !slices.Equal(got, []string{"nftables", "util-linux"}) {
		t.Errorf("got %v", got)
	}
}

func TestViewFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		view view
		want string
	}{
		"sealed":        {view{up: []string{"lo", "lab0", "lab", "vb-m1", "vb-lab"}}, ""},
		"a way out":     {view{up: []string{"lo", "eth0"}}, "interface eth0 is up"},
		"default route": {view{defaults: 1}, "there is a default route"},
		"the machine's": {view{machines: true}, "it is the machine's own namespace"},
		"all of it":     {view{machines: true, up: []string{"x"}, defaults: 2}, "it is the machine's own namespace|interface x is up|there is a default route"},
	} {
		if got := strings.Join(tc.view.faults(), "|"); got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

// The machine that runs the tests is not sealed: the check must see that.
func TestViewReadsTheMachine(t *testing.T) {
	var v view
	if err := v.read(); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(v.up, "lo") {
		t.Errorf("up: %v", v.up)
	}
}

func TestResolve(t *testing.T) {
	lab := &Lab{state: labdir.State{Plan: wire.Plan{Name: "x"}}, hosts: []*Host{{name: "m1", address: wire.Address(1)}}}
	for address, want := range map[string]string{
		"m1:6443": "10.245.1.11:6443", "lab:1": "10.245.1.1:1", "10.245.1.200:9": "10.245.1.200:9", "127.0.0.1:80": "127.0.0.1:80",
		"m2:6443": "", "192.0.2.1:80": "", "example.org:80": "", "m1": "",
	} {
		got, err := lab.resolve(address)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v; want %q", address, got, err, want)
		}
	}
}

func TestOpenAndDownWithoutALab(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir, "none"); !errors.Is(err, ErrNoLab) {
		t.Errorf("open: %v", err)
	}
	if err := Down(t.Context(), dir, "none"); !errors.Is(err, ErrNoLab) {
		t.Errorf("down: %v", err)
	}
}

func TestWriteTar(t *testing.T) {
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "tool"), []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("tool", filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	list := func(from string) (got []string) {
		var b bytes.Buffer
		if err := writeTar(&b, from, "dst"); err != nil {
			t.Fatal(err)
		}
		for r := tar.NewReader(&b); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				return got
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, strings.TrimSuffix(h.Name, "/")+" "+fs.FileMode(h.Mode).Perm().String()[7:]+" "+h.Linkname)
		}
	}
	if got := list(src); len(got) != 3 || !strings.HasPrefix(got[0], "dst ") || !strings.HasPrefix(got[1], "dst/link ") || !strings.HasSuffix(got[1], " tool") || got[2] != "dst/tool r-x " {
		t.Errorf("folder: %q", got)
	}
	if got := list(filepath.Join(src, "tool")); len(got) != 1 || got[0] != "dst r-x " {
		t.Errorf("file: %q", got)
	}
	if err := writeTar(io.Discard, filepath.Join(src, "none"), "dst"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}
