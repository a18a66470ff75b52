// Package labdir holds a lab's folder: who is alive (a lock), what there is (a
// state file), and how everything of a lab is removed, by whoever is left to do it.
//
//	DIR/.lock        held while a lab's folder is made or stale ones are removed
//	DIR/NAME/lock    held by the lab's guard as long as it lives
//	DIR/NAME/state   what to remove
//	DIR/NAME/…       the hosts' disks and consoles, the keeper's socket and log
//
// A lab whose lock is free has no guard, so it is stale: its processes are gone
// (they die with the guard), its control groups and its folder are not.
package labdir

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/test/hosts/internal/wire"
)

// State is what a lab has left on the machine.
type State struct {
	wire.Plan
	Created   time.Time `json:"created"`
	GuardPID  int       `json:"guardPID"`
	KeeperPID int       `json:"keeperPID"` // as the machine sees it; PID 1 in the lab
}

// Files in a lab's folder.
const (
	stateFile = "state"
	lockFile  = "lock"
	LogFile   = "keeper.log"
	Socket    = "control.sock"
)

// ErrHeld is returned when a lab's guard lives.
var ErrHeld = errors.New("the lab is up")

// Write writes the state file of the lab in dir.
func Write(dir string, s State) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("lab state: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(dir, stateFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("lab state: %w", err)
	}
	return nil
}

// Read reads the state file of the lab in dir.
func Read(dir string) (State, error) {
	var s State
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("lab state %s: %w", filepath.Join(dir, stateFile), err)
	}
	return s, nil
}

// Create makes the lock of a new lab in dir, and takes it.
func Create(dir string) (*os.File, error) {
	return lock(filepath.Join(dir, lockFile), os.O_CREATE|os.O_EXCL, unix.LOCK_NB)
}

// Lock takes the lock of the lab in dir, without waiting. The error is ErrHeld
// when its guard lives, and fs.ErrNotExist when there is no such lab. The lock
// lasts until the file, and every process's copy of it, is closed.
func Lock(dir string) (*os.File, error) { return lock(filepath.Join(dir, lockFile), 0, unix.LOCK_NB) }

// LockRoot takes the lock of the folder of all labs (or of the cache), and waits
// for it.
func LockRoot(root string) (*os.File, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	return lock(filepath.Join(root, ".lock"), os.O_CREATE, 0)
}

func lock(path string, open, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|open, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	var st unix.Stat_t
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrHeld
	} else if err == nil {
		err = unix.Fstat(int(f.Fd()), &st)
	}
	if err == nil && st.Nlink == 0 { // removed while we waited
		err = fs.ErrNotExist
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// Sweep removes the stale labs under root and returns their names. Labs that are
// up are left alone. The caller holds LockRoot.
func Sweep(ctx context.Context, root string) (removed []string, err error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if !e.IsDir() {
			continue
		}
		held, err := Lock(dir)
		if errors.Is(err, ErrHeld) {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) { // none of ours, unless a guard died at its last step
			_ = os.Remove(dir) // only if it is empty
			continue
		}
		if err == nil {
			err = Remove(ctx, dir)
			_ = held.Close()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("stale lab %s: %w", e.Name(), err))
			continue
		}
		removed = append(removed, e.Name())
	}
	return removed, errors.Join(errs...)
}

// Remove kills whatever of the lab in dir still lives, and removes its control
// groups and its folder. The caller holds its lock. It is no error if parts, or
// all, are gone already.
func Remove(ctx context.Context, dir string) error {
	state, err := Read(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist): // died before it had a state: nothing but a folder
	case err != nil:
		return err
	default:
		group, err := Group(state.Cgroup)
		if err == nil {
			err = group.Remove(ctx)
		}
		if err != nil {
			return err
		}
	}
	at, err := mountBelow(dir)
	if err == nil && at != "" {
		err = fmt.Errorf("%s is a mount point", at)
	}
	if err == nil {
		err = removeLockLast(dir)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// removeLockLast removes dir so that a lab which is half removed is seen as one.
func removeLockLast(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	names := []string{}
	for _, e := range entries {
		if e.Name() != stateFile && e.Name() != lockFile {
			names = append(names, e.Name())
		}
	}
	for _, name := range append(names, stateFile, lockFile) {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

// mountBelow returns a mount point in dir, so that removing dir cannot reach
// into another file system.
func mountBelow(dir string) (string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	return mountPoint(string(data), dir), nil
}

func mountPoint(mountinfo, dir string) string {
	for line := range strings.Lines(mountinfo) {
		if fields := strings.Fields(line); len(fields) > 4 && (fields[4] == dir || strings.HasPrefix(fields[4], dir+"/")) {
			return fields[4]
		}
	}
	return ""
}
