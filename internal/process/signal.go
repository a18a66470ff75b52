package process

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Signal sends sig to the process alone. It returns os.ErrProcessDone when the
// process has ended.
func (p *Process) Signal(sig syscall.Signal) error { return p.kill(p.pid, sig) }

// SignalGroup sends sig to every process of the group. It returns
// os.ErrProcessDone when the leader has ended.
func (p *Process) SignalGroup(sig syscall.Signal) error { return p.kill(-p.pid, sig) }

func (p *Process) kill(pid int, sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	err := unix.Kill(pid, sig)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// SignalTree sends sig to the group and to every descendant that left it. It
// returns the first error of a process that still lives.
func (p *Process) SignalTree(sig syscall.Signal) error {
	err := p.SignalGroup(sig)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	rest, scanErr := p.remaining()
	err = errors.Join(err, scanErr)
	for _, s := range rest {
		if s.PGID != p.pid {
			err = errors.Join(err, s.signal(sig))
		}
	}
	return err
}

// Kill sends SIGKILL to the group; it does not wait.
func (p *Process) Kill() error {
	err := p.SignalGroup(unix.SIGKILL)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Stop sends SIGTERM to the group and, when the leader still runs after grace or
// once ctx has ended, SIGKILL. It returns when the leader has been reaped. A
// stopped (SIGSTOP) process is continued, so that it can end by itself.
func (p *Process) Stop(ctx context.Context, grace time.Duration) Exit {
	_ = p.SignalGroup(unix.SIGTERM)
	_ = p.SignalGroup(unix.SIGCONT)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.Exit()
	case <-timer.C:
	case <-ctx.Done():
	}
	_ = p.Kill()
	<-p.done
	return p.Exit()
}

// Remaining lists the live processes that came from this one: its group, its
// descendants, and those that daemonized away but carry its mark in their
// environment. Zombies do not count. The list may be empty before Done.
func (p *Process) Remaining() ([]int, error) {
	rest, err := p.remaining()
	pids := make([]int, 0, len(rest))
	for _, s := range rest {
		pids = append(pids, s.PID)
	}
	return pids, err
}

// KillRemaining sends SIGKILL to everything that Remaining lists, again and
// again until nothing is left or ctx ends; then it returns an error that tells
// the pids.
func (p *Process) KillRemaining(ctx context.Context) error {
	return killUntilNone(ctx, p.remaining)
}

func (p *Process) remaining() ([]stat, error) {
	all, err := scan()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	reaped := p.reaped
	p.mu.Unlock()
	return descendants(all, func(s stat) bool {
		// The group's number may be another's once the leader was reaped.
		return (!reaped && (s.PID == p.pid || s.PGID == p.pid)) || hasMark(s.PID, p.mark)
	}), nil
}
