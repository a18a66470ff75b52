package kubebin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

// versionTimeout is how long a program may take to print its version. A cold
// 100 MB executable on a slow disk needs a few seconds.
const versionTimeout = 30 * time.Second

// ready checks the programs in the folder that env names. All faults are told
// at once.
func (s *Store) ready(ctx context.Context, set Set, env string) (string, error) {
	dir, err := filepath.Abs(s.cfg.Getenv(env))
	if err != nil {
		return "", err
	}
	var faults []error
	for _, p := range set.Programs {
		path := filepath.Join(dir, p.Name)
		fi, err := os.Stat(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			faults = append(faults, fmt.Errorf("%s: not there", p.Name))
		case err != nil:
			faults = append(faults, fmt.Errorf("%s: %w", p.Name, err))
		case !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0:
			faults = append(faults, fmt.Errorf("%s: not an executable file", p.Name))
		default:
			if err := checkVersion(ctx, path, p, set.Version); err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", p.Name, err))
			}
		}
	}
	if len(faults) > 0 {
		return "", exitcode.Errorf(exitcode.Usage, "%s=%s:\n%w", env, dir, errors.Join(faults...)).
			WithHint("put the programs of %s %s there, or unset %s to build them", set.Name, set.Version, env)
	}
	return dir, nil
}

// checkVersion errs unless the program at path says that it is version.
func checkVersion(ctx context.Context, path string, p Program, version string) error {
	if p.VersionArgs == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, p.VersionArgs...)
	cmd.WaitDelay = time.Second
	// kubectl would look for a kubeconfig, others for nothing.
	cmd.Env = append(os.Environ(), "KUBECONFIG="+os.DevNull)
	out, err := cmd.CombinedOutput()
	said := firstLine(string(out))
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("%s: %w (it said %q)", strings.Join(p.VersionArgs, " "), err, said)
	}
	want := strings.TrimPrefix(version, "v")
	if !slices.ContainsFunc(strings.Fields(said), func(f string) bool { return strings.TrimPrefix(f, "v") == want }) {
		return fmt.Errorf("says %q, want %s", said, version)
	}
	return nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(line)
}
