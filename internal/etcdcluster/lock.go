package etcdcluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lockFile in the state folder is held for as long as a member runs. etcd has
// locks of its own, but waits for one of them without a word.
const lockFile = "etcd.lock"

// lockState takes the lock, or errs with ErrInUse and who holds it. The
// returned function releases it; so does the end of the process.
func lockState(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the etcd member: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		text, _ := os.ReadFile(path) // only to say more
		holder := strings.TrimSpace(string(text))
		if _, aerr := strconv.Atoi(holder); aerr != nil {
			return nil, fmt.Errorf("%w: another process holds %s", ErrInUse, path)
		}
		return nil, fmt.Errorf("%w: process %s holds %s", ErrInUse, holder, path)
	}
	// The file stays when the lock goes: removing it would let two processes
	// lock two files of one name.
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintln(f, os.Getpid())
	}
	return func() { _ = f.Close() }, nil
}
