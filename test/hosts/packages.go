package hosts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// needs are the programs that the lab uses on the machine, and the Debian package
// of each.
var needs = []struct{ program, pkg string }{
	{"systemd-nspawn", "systemd-container"},
	{"mmdebstrap", "mmdebstrap"},
	{"/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"},
	{"nft", "nftables"},
	{"ip", "iproute2"},
	{"nsenter", "util-linux"},
	{"unshare", "util-linux"},
	{"bash", "bash"},
}

// missing lists the packages of the programs that look does not find.
func missing(look func(program string) error) (packages []string) {
	for _, n := range needs {
		if look(n.program) != nil && !slices.Contains(packages, n.pkg) {
			packages = append(packages, n.pkg)
		}
	}
	return packages
}

func look(program string) error {
	if strings.HasPrefix(program, "/") {
		_, err := os.Stat(program)
		return err
	}
	_, err := exec.LookPath(program)
	return err
}

// install installs the packages that the machine lacks.
func install(ctx context.Context, cfg Config) error {
	packages := missing(look)
	if len(packages) == 0 {
		return nil
	}
	names := strings.Join(packages, " ")
	if look("apt-get") != nil {
		return fmt.Errorf("the machine lacks the packages %s, and has no apt-get", names)
	}
	cfg.Logger.Info("installing Debian packages", "packages", names)
	args := append([]string{"install", "-y", "--no-install-recommends"}, packages...)
	if apt(ctx, args...) != nil { // the package lists may be missing or old
		if err := errors.Join(apt(ctx, "update"), apt(ctx, args...)); err != nil {
			return fmt.Errorf("install %s: %w", names, err)
		}
	}
	if packages = missing(look); len(packages) > 0 {
		return fmt.Errorf("installed, but still not found: %s", strings.Join(packages, " "))
	}
	return nil
}

func apt(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w:\n%s", args[0], err, out[max(0, len(out)-1000):])
	}
	return nil
}
