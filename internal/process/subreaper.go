package process

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// BecomeSubreaper makes the calling process the parent of every descendant that
// loses its own, as PID 1 is otherwise, so that a daemonized one stays a
// descendant. It cannot be inherited and lasts until the process ends.
func BecomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	return nil
}

// Descendants lists the live descendants of the calling process, its companions
// excepted.
func Descendants() ([]int, error) {
	rest, err := ownDescendants()
	pids := make([]int, 0, len(rest))
	for _, s := range rest {
		pids = append(pids, s.PID)
	}
	return pids, err
}

// companions are the pids of the running processes with Config.Companion.
var companions sync.Map

func companion(s stat) bool {
	_, ok := companions.Load(s.PID)
	return ok
}

// KillDescendants sends SIGKILL to every descendant of the calling process, its
// companions excepted, until none lives or ctx ends. Only in a subreaper does that
// include daemons.
func KillDescendants(ctx context.Context) error {
	return killUntilNone(ctx, ownDescendants)
}

func ownDescendants() ([]stat, error) {
	self := os.Getpid()
	all, err := scan()
	if err != nil {
		return nil, err
	}
	return descendants(all, func(s stat) bool { return s.PPID == self && !companion(s) }), nil
}

// ReapOrphans reaps the zombies that were handed to this subreaper, except the
// children listed in own (nil ones are left out), whose owners wait for them. It does not block and
// returns how many it reaped.
func ReapOrphans(own ...*Process) int {
	self := os.Getpid()
	all, err := scan()
	if err != nil {
		return 0
	}
	n := 0
	for _, s := range all {
		if s.PPID != self || s.live() || companion(s) || slices.ContainsFunc(own, func(p *Process) bool { return p != nil && p.pid == s.PID }) {
			continue
		}
		if pid, _ := unix.Wait4(s.PID, nil, unix.WNOHANG, nil); pid == s.PID {
			n++
		}
	}
	return n
}
