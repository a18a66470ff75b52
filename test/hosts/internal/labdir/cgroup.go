package labdir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroup is a control group of the cgroup2 hierarchy, by its path.
type Cgroup string

// Group returns the group with the given name below the root of the machine's
// cgroup2 hierarchy. It need not exist.
func Group(name string) (Cgroup, error) {
	if !filepath.IsLocal(name) || !strings.HasPrefix(name, "hactl-lab-") {
		return "", fmt.Errorf("%q is not the name of a lab's control group", name)
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	root := cgroup2(string(data))
	if root == "" {
		return "", errors.New("no cgroup2 hierarchy is mounted; try: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified")
	}
	return Cgroup(filepath.Join(root, name)), nil
}

// cgroup2 finds where the cgroup2 hierarchy is mounted.
func cgroup2(mountinfo string) string {
	for line := range strings.Lines(mountinfo) {
		before, after, found := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if found && len(fields) > 4 && len(kind) > 0 && kind[0] == "cgroup2" {
			return fields[4]
		}
	}
	return ""
}

// Make makes the group and its parents.
func (g Cgroup) Make() error { return os.MkdirAll(string(g), 0o755) }

// Sub is a group below g.
func (g Cgroup) Sub(name string) Cgroup { return Cgroup(filepath.Join(string(g), name)) }

// Open opens the group, to start a process in it.
func (g Cgroup) Open() (*os.File, error) {
	return os.OpenFile(string(g), unix.O_DIRECTORY|unix.O_PATH, 0)
}

// Procs lists the pids in the group itself, as the caller's pid namespace
// numbers them (0: not in it).
func (g Cgroup) Procs() ([]string, error) {
	data, err := os.ReadFile(filepath.Join(string(g), "cgroup.procs"))
	return strings.Fields(string(data)), err
}

// Kill sends SIGKILL to everything in g and below, frozen or not, and waits until
// nothing is left. A group that does not exist is empty.
func (g Cgroup) Kill(ctx context.Context) error {
	err := g.write("cgroup.kill", "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill %s: %w", g, err)
	}
	return g.await(ctx, "populated", "0")
}

// Freeze stops (or lets go on) everything in g and below, and waits until it has.
func (g Cgroup) Freeze(ctx context.Context, frozen bool) error {
	value := "0"
	if frozen {
		value = "1"
	}
	if err := g.write("cgroup.freeze", value); err != nil {
		return fmt.Errorf("freeze %s: %w", g, err)
	}
	return g.await(ctx, "frozen", value)
}

// Remove kills what is in g and removes g and the groups below it.
func (g Cgroup) Remove(ctx context.Context) error {
	if err := g.Kill(ctx); err != nil {
		return err
	}
	return poll(ctx, func() error {
		var dirs []string
		err := filepath.WalkDir(string(g), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("remove group %s: %w", g, err)
		}
		for _, dir := range slices.Backward(dirs) { // the deepest first
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove group %s: %w", dir, err)
			}
		}
		return nil
	})
}

func (g Cgroup) await(ctx context.Context, key, value string) error {
	return poll(ctx, func() error {
		data, err := os.ReadFile(filepath.Join(string(g), "cgroup.events"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return err
		}
		if !slices.Contains(strings.Split(string(data), "\n"), key+" "+value) {
			return fmt.Errorf("group %s is not yet %s=%s", g, key, value)
		}
		return nil
	})
}

func (g Cgroup) write(file, value string) error {
	f, err := os.OpenFile(filepath.Join(string(g), file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// poll calls f until it returns nil or ctx ends; then the error is f's last,
// with the context's.
func poll(ctx context.Context, f func() error) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := f()
		if err == nil {
			return nil
		}
		pause.Reset(wait)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		case <-pause.C:
		}
	}
}
