package hosts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hactl/hactl/test/hosts/internal/labdir"
)

// suite is the Debian release of the hosts.
const suite = "bookworm"

// basePackages make a host: systemd as PID 1, D-Bus, and what shows processes
// and the network.
var basePackages = []string{"dbus", "iproute2", "iputils-ping", "procps", "systemd-sysv"}

// treeFiles are what a tree has besides its packages: the unit that gives the
// host its address, and fewer things that run by themselves.
var treeFiles = map[string]string{
	"etc/systemd/system/lab-network.service": `[Unit]
Description=The host's address in the lab
DefaultDependencies=no
Conflicts=shutdown.target
Before=network-pre.target network.target shutdown.target
Wants=network-pre.target network.target

[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=/etc/hactl-lab
ExecStart=/bin/ip link set dev host0 address ${MAC} up
ExecStart=/bin/ip address replace ${ADDRESS} dev host0

[Install]
WantedBy=multi-user.target
`,
	"etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=persistent\nSystemMaxUse=64M\nRateLimitIntervalSec=0\n",
	"etc/machine-id":                       "",
	"etc/hostname":                         "",
	"etc/resolv.conf":                      "",
	"etc/fstab":                            "",
}

// treeLinks are a tree's symbolic links; to /dev/null: units that never start.
var treeLinks = map[string]string{
	"etc/systemd/system/multi-user.target.wants/lab-network.service": "../lab-network.service",
	"etc/systemd/system/console-getty.service":                       "/dev/null",
	"etc/systemd/system/getty.target":                                "/dev/null",
	"etc/systemd/system/dpkg-db-backup.timer":                        "/dev/null",
	"etc/systemd/system/fstrim.timer":                                "/dev/null",
	"etc/systemd/system/e2scrub_all.timer":                           "/dev/null",
	"etc/systemd/system/systemd-pstore.service":                      "/dev/null",
	"etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
}

// treePackages is the whole list of a tree's packages, sorted.
func treePackages(further []string) []string {
	all := append(slices.Clone(basePackages), further...)
	slices.Sort(all)
	return slices.Compact(all)
}

// treeKey names a tree: it changes with everything that the tree is made from.
func treeKey(packages []string) string {
	// fmt prints maps in the order of their keys.
	sum := sha256.Sum256(fmt.Append(nil, suite, packages, mmdebstrapArgs(packages, ""), treeFiles, treeLinks))
	return suite + "-" + hex.EncodeToString(sum[:6])
}

func mmdebstrapArgs(packages []string, dir string) []string {
	return []string{
		"--mode=root", "--variant=essential", "--include=" + strings.Join(packages, ","),
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*", "--aptopt=Acquire::Retries \"3\"",
		suite, dir,
	}
}

// baseTree returns the folder of the tree that cfg asks for, and makes it if it
// is not in the cache.
func baseTree(ctx context.Context, cfg Config) (string, error) {
	packages := treePackages(cfg.Packages)
	dir := filepath.Join(cfg.Cache, treeKey(packages))
	lock, err := labdir.LockRoot(cfg.Cache) // another lab may be making the same one
	if err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	defer lock.Close()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	cfg.Logger.Info("making the hosts' base tree, once", "packages", strings.Join(packages, " "), "dir", dir)
	half := dir + ".new"
	if err := os.RemoveAll(half); err != nil { // of one that was killed
		return "", err
	}
	if err := makeTree(ctx, packages, half); err != nil {
		return "", errors.Join(fmt.Errorf("make the hosts' base tree: %w", err), os.RemoveAll(half))
	}
	return dir, os.Rename(half, dir)
}

// makeTree fills dir. What mmdebstrap mounts, it mounts in a namespace that ends
// with it.
func makeTree(ctx context.Context, packages []string, dir string) error {
	args := append([]string{"--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "mmdebstrap"},
		mmdebstrapArgs(packages, dir)...)
	cmd := exec.CommandContext(ctx, "unshare", args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mmdebstrap: %w:\n%s", err, out[max(0, len(out)-2000):])
	}
	for name, content := range treeFiles {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		// A link from the packages would lead out of the tree.
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return err
		}
	}
	for name, target := range treeLinks {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(target, file); err != nil {
			return err
		}
	}
	return nil
}

// buildProgram builds the lab command into the cache.
func buildProgram(ctx context.Context, cfg Config) (string, error) {
	lock, err := labdir.LockRoot(cfg.Cache)
	if err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	defer lock.Close()
	dir := filepath.Join(cfg.Cache, "bin")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir+string(filepath.Separator), "github.com/hactl/hactl/test/hosts/cmd/lab")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the lab command: %w: %s", err, out)
	}
	return filepath.Join(dir, "lab"), nil
}
