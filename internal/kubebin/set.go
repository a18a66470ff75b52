package kubebin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Set is a group of programs that are built from one nested module and kept
// together in the cache.
type Set struct {
	Name     string    // its folder in the cache, and HACTL_<NAME>_BIN
	Module   string    // folder of the nested module
	Version  string    // v1.36.3: what the programs must say, and part of the folder's name
	Programs []Program // in the order of building
	Tags     string    // build tags, separated by commas
	LDFlags  string    // beside -s -w
	// ReleasePath is where an official release has PROGRAM below the base
	// address, "" when there is none. VERSION, OS and ARCH are replaced.
	ReleasePath string
}

// Program is one executable of a set.
type Program struct {
	Name    string // file name
	Package string // import path
	// VersionArgs make it print its version and exit; nil: it has none and is
	// not asked.
	VersionArgs []string
}

// Kube is the set of Kubernetes components that kube/go.mod of the repository
// at root pins.
func Kube(root string) (Set, error) {
	return kubernetes(root, "kube", "kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubectl")
}

// Node is what makes a machine a node, of the same release: a kubelet. Only the
// lab's tests need it.
func Node(root string) (Set, error) { return kubernetes(root, "node", "kubelet") }

// kubernetes is a set of programs of the release that kube/go.mod pins.
func kubernetes(root, name string, programs ...string) (Set, error) {
	module := filepath.Join(root, "kube")
	version, err := required(module, "k8s.io/kubernetes")
	if err != nil {
		return Set{}, err
	}
	major, minor, err := majorMinor(version)
	if err != nil {
		return Set{}, fmt.Errorf("read %s: k8s.io/kubernetes %w", filepath.Join(module, "go.mod"), err)
	}
	// What the release scripts stamp, without a date, so that two builds of one
	// key are equal to the bit. The commit is not in the module, hence empty.
	var ld []string
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, kv := range []string{
			"gitVersion=" + version, "gitMajor=" + major, "gitMinor=" + minor,
			"gitTreeState=clean", "gitCommit=",
		} {
			ld = append(ld, "-X "+pkg+"."+kv)
		}
	}
	set := Set{
		Name: name, Module: module, Version: version,
		// The release's tags for servers: no test hooks, no gRPC tracing (which
		// keeps the linker from dropping dead code).
		Tags:        "notest,grpcnotrace",
		LDFlags:     strings.Join(ld, " "),
		ReleasePath: "/VERSION/bin/OS/ARCH/PROGRAM",
	}
	for _, program := range programs {
		p := Program{Name: program, Package: "k8s.io/kubernetes/cmd/" + program, VersionArgs: []string{"--version"}}
		if program == "kubectl" {
			p.VersionArgs = []string{"version", "--client"}
		}
		set.Programs = append(set.Programs, p)
	}
	return set, nil
}

// KWOK is the set of programs that play the nodes in tests: kwok itself, and
// kwok-stages, which prints the stages for `kwok --config -`.
func KWOK(root string) (Set, error) {
	module := filepath.Join(root, "test", "kwok")
	version, err := required(module, "sigs.k8s.io/kwok")
	if err != nil {
		return Set{}, err
	}
	return Set{
		Name: "kwok", Module: module, Version: version,
		Tags:    "grpcnotrace",
		LDFlags: "-X sigs.k8s.io/kwok/pkg/consts.Version=" + version,
		Programs: []Program{
			{Name: "kwok", Package: "sigs.k8s.io/kwok/cmd/kwok", VersionArgs: []string{"--version"}},
			{Name: "kwok-stages", Package: "./stages"},
		},
	}, nil
}

// Peers is the set of stock programs that hactl is measured against: etcd,
// etcdctl, etcdutl.
func Peers(root string) (Set, error) {
	module := filepath.Join(root, "test", "peers")
	version, err := required(module, "go.etcd.io/etcd/server/v3")
	if err != nil {
		return Set{}, err
	}
	return Set{
		Name: "peers", Module: module, Version: version,
		Tags: "grpcnotrace",
		Programs: []Program{
			{Name: "etcd", Package: "go.etcd.io/etcd/server/v3", VersionArgs: []string{"--version"}},
			{Name: "etcdctl", Package: "go.etcd.io/etcd/etcdctl/v3", VersionArgs: []string{"version"}},
			{Name: "etcdutl", Package: "go.etcd.io/etcd/etcdutl/v3", VersionArgs: []string{"version"}},
		},
	}, nil
}

// FindRoot returns the top folder of hactl's repository that dir lies in.
func FindRoot(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		data, err := os.ReadFile(filepath.Join(d, "go.mod"))
		switch {
		case err == nil && modulePath(string(data)) == "github.com/hactl/hactl":
			return d, nil
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return "", err
		case d == filepath.Dir(d):
			return "", fmt.Errorf("%s is not inside hactl's repository: no folder above it has the go.mod of github.com/hactl/hactl", dir)
		}
	}
}

func modulePath(gomod string) string {
	for line := range strings.Lines(gomod) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "module" {
			return f[1]
		}
	}
	return ""
}

// required returns the version of path that module's go.mod requires.
func required(module, path string) (string, error) {
	file := filepath.Join(module, "go.mod")
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the pinned version of %s: %w", path, err)
	}
	block := ""
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "//")
		f := strings.Fields(line)
		switch {
		case len(f) == 2 && f[1] == "(":
			block = f[0]
		case len(f) == 1 && f[0] == ")":
			block = ""
		case len(f) == 3 && f[0] == "require" && f[1] == path:
			return f[2], nil
		case len(f) == 2 && block == "require" && f[0] == path:
			return f[1], nil
		}
	}
	return "", fmt.Errorf("read the pinned version of %s: %s does not require it", path, file)
}

// majorMinor returns "1", "36" of "v1.36.3".
func majorMinor(version string) (major, minor string, err error) {
	f := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if !strings.HasPrefix(version, "v") || len(f) != 3 || f[0] == "" || f[1] == "" {
		return "", "", fmt.Errorf("has version %q, want vMAJOR.MINOR.PATCH", version)
	}
	return f[0], f[1], nil
}
