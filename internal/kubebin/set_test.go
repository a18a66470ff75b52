package kubebin

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/config"
)

// The pins of this repository are what the sets say.
func TestTheRepositorysSets(t *testing.T) {
	root, err := FindRoot(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		make     func(string) (Set, error)
		programs string
	}{
		{Kube, "kube-apiserver kube-scheduler kube-controller-manager kubectl"},
		{Node, "kubelet"},
		{KWOK, "kwok kwok-stages"},
		{Peers, "etcd etcdctl etcdutl"},
	} {
		set, err := c.make(root)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := strings.Join(names(set), " "); got != c.programs {
			t.Errorf("%s: programs %s", set.Name, got)
		}
		if _, _, err := majorMinor(set.Version); err != nil {
			t.Errorf("%s: %v", set.Name, err)
		}
		if _, err := c.make(t.TempDir()); err == nil || !strings.Contains(err.Error(), "go.mod") {
			t.Errorf("%s without a module: %v", set.Name, err)
		}
	}
}

// The release that is built is the one that the configuration defaults to.
func TestThePinIsTheDefaultVersion(t *testing.T) {
	root, err := FindRoot(".")
	if err != nil {
		t.Fatal(err)
	}
	set, err := Kube(root)
	if err != nil {
		t.Fatal(err)
	}
	if want := config.Default().Kubernetes.Version; set.Version != want {
		t.Errorf("kube/go.mod pins %s, the configuration defaults to %s", set.Version, want)
	}
}

func TestKubeIsStampedLikeARelease(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "kube", "go.mod"), "module m\n\nrequire (\n\tk8s.io/api v0.0.0\n\tk8s.io/kubernetes v1.35.4 // indirect\n)\n", 0o644)
	set, err := Kube(root)
	if err != nil {
		t.Fatal(err)
	}
	if set.Version != "v1.35.4" {
		t.Errorf("version %s", set.Version)
	}
	for _, want := range []string{
		"-X k8s.io/component-base/version.gitVersion=v1.35.4", "-X k8s.io/component-base/version.gitMajor=1",
		"-X k8s.io/component-base/version.gitMinor=35", "-X k8s.io/component-base/version.gitTreeState=clean",
		"-X k8s.io/component-base/version.gitCommit= ", "-X k8s.io/client-go/pkg/version.gitVersion=v1.35.4",
	} {
		if !strings.Contains(set.LDFlags+" ", want) {
			t.Errorf("no %q in %s", want, set.LDFlags)
		}
	}
}

func TestRequired(t *testing.T) {
	for _, c := range []struct{ name, gomod, want string }{
		{"single line", "module m\nrequire a.b/c v1.2.3\n", "v1.2.3"},
		{"block", "module m\nrequire (\n\tx.y/z v9.9.9\n\ta.b/c v1.2.3 // indirect\n)\n", "v1.2.3"},
		{"only replaced", "module m\nreplace (\n\ta.b/c v1.2.3\n)\n", ""},
		{"only in a comment", "module m\n// require a.b/c v1.2.3\n", ""},
		{"only as a tool", "module m\ntool a.b/c\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "go.mod"), c.gomod, 0o644)
			got, err := required(dir, "a.b/c")
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestMajorMinorRefuses(t *testing.T) {
	for _, v := range []string{"", "1.36.3", "v1.36", "v.36.3", "v1..3"} {
		if _, _, err := majorMinor(v); err == nil {
			t.Errorf("%q was taken", v)
		}
	}
}

func TestFindRoot(t *testing.T) {
	dir := t.TempDir()
	if _, err := FindRoot(dir); err == nil || !strings.Contains(err.Error(), "is not inside hactl's repository") {
		t.Errorf("outside: %v", err)
	}
	write(t, filepath.Join(dir, "go.mod"), "// why\nmodule github.com/hactl/hactl\n", 0o644)
	write(t, filepath.Join(dir, "nested", "deep", "go.mod"), "module github.com/hactl/hactl/nested\n", 0o644)
	got, err := FindRoot(filepath.Join(dir, "nested", "deep"))
	if err != nil || got != dir {
		t.Errorf("got %s, %v; want %s", got, err, dir)
	}
}
