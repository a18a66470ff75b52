package kubebin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// lock takes the cache's build lock and returns what gives it back. While
// another process has it, it waits, after saying once who that is. The kernel
// frees the lock of a process that dies, so there is no stale one.
func (s *Store) lock(ctx context.Context, what string) (unlock func(), err error) {
	path := filepath.Join(s.cfg.Cache, "build.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("take the build lock: %w", err)
	}
	said := false
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("take the build lock %s: %w", path, err)
		}
		if !said {
			said = true
			s.say("waiting for another build to end (%s has the lock %s)", owner(path), path)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for the build lock %s: %w", path, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
	// Only for people: who builds what. A reader that is too early sees an older
	// or an empty line, which does no harm.
	line := fmt.Sprintf("pid %d, building %s", os.Getpid(), what)
	if err := errors.Join(f.Truncate(0), writeAt(f, line)); err != nil {
		f.Close()
		return nil, fmt.Errorf("write the build lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

func writeAt(f *os.File, line string) error {
	_, err := f.WriteAt([]byte(line+"\n"), 0)
	return err
}

func owner(path string) string {
	data, err := os.ReadFile(path)
	if err != nil || len(data) == 0 {
		return "an unknown process"
	}
	return strings.TrimSpace(string(data))
}
