package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/hactl/hactl/internal/workload"
)

// End ends the unit whatever it does: forbidden, told to stop, and after patience
// killed, again and again, its stop commands included. The kill goes to the
// processes of the control group directly: systemd may be busy. End returns nil
// when systemd says that the unit has ended and no process of it is left.
func End(ctx context.Context, t Target, patience time.Duration) error {
	m, err := New(Config{Units: []string{t.Unit}})
	if err != nil {
		return err
	}
	defer m.Close()
	forbidden := t.Forbid()
	stopped := make(chan error, 1)
	stopCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { stopped <- m.queueStop(stopCtx, t.Unit) }()
	kill := time.Now().Add(patience)
	told := error(errors.New("systemd has not answered"))
	for wait := 5 * time.Millisecond; ; wait = min(wait*5/4, 100*time.Millisecond) {
		select {
		case told = <-stopped:
			stopped = nil
			if told != nil { // the connection may have broken: ask again
				retry := make(chan error, 1)
				stopped = retry
				go func() {
					pause(stopCtx, 100*time.Millisecond)
					retry <- m.queueStop(stopCtx, t.Unit)
				}()
			}
		default:
		}
		if !time.Now().Before(kill) {
			if err := killGroup(t.Group); err != nil {
				told = errors.Join(told, err)
			}
		}
		if told == nil && forbidden == nil {
			err := t.gone(ctx, m)
			if err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return err
			}
		}
		if !pause(ctx, wait) {
			return fmt.Errorf("end %s: %w", t.Unit, errors.Join(forbidden, told, ctx.Err()))
		}
	}
}

// queueStop asks for a stop and does not wait for its result.
func (m *Manager) queueStop(ctx context.Context, unit string) error {
	conn, err := m.bus(ctx)
	if err != nil {
		return err
	}
	_, err = conn.StopUnitContext(ctx, FileName(unit), "replace", nil)
	return err
}

// gone returns nil when systemd says that the unit has ended, and its control
// group is empty: systemd gives up on processes that cannot be killed.
func (t Target) gone(ctx context.Context, m *Manager) error {
	conn, err := m.bus(ctx)
	if err != nil {
		return err
	}
	active, err := conn.GetUnitPropertyContext(ctx, FileName(t.Unit), "ActiveState")
	if err != nil {
		return fmt.Errorf("ask for %s: %w", t.Unit, err)
	}
	if s, _ := active.Value.Value().(string); s != workload.Inactive && s != workload.Failed {
		return fmt.Errorf("%s is %s", t.Unit, s)
	}
	pids, err := groupPIDs(t.Group)
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		return fmt.Errorf("%s has ended, but not its processes %v", t.Unit, pids)
	}
	return nil
}

// EndBound ends every unit that is bound to the unit of this process: for its
// ExecStopPost=, when the owner was killed with all that it had started.
func EndBound(ctx context.Context) error {
	m, err := New(Config{})
	if err != nil {
		return err
	}
	defer m.Close()
	conn, err := m.bus(ctx)
	if err != nil {
		return err
	}
	own, err := conn.GetUnitNameByPID(ctx, uint32(os.Getpid()))
	if err != nil {
		return fmt.Errorf("own unit: %w", err)
	}
	bound, err := conn.GetUnitPropertyContext(ctx, own, "BoundBy")
	if err != nil {
		return fmt.Errorf("bound to %s: %w", own, err)
	}
	units, _ := bound.Value.Value().([]string)
	var errs []error
	for _, file := range units {
		unit, isService := strings.CutSuffix(file, ".service")
		if _, err := os.Stat(dropInPath(unit)); !isService || err != nil {
			continue // bound by others, for their own reasons
		}
		errs = append(errs, endOne(ctx, conn, unit))
	}
	return errors.Join(errs...)
}

func endOne(ctx context.Context, conn *dbus.Conn, unit string) error {
	slice, err := conn.GetServicePropertyContext(ctx, FileName(unit), "Slice")
	if err != nil {
		return fmt.Errorf("ask for %s: %w", unit, err)
	}
	s, _ := slice.Value.Value().(string)
	return End(ctx, Target{Unit: unit, Group: groupOf(s, FileName(unit)), File: filepath.Join(permitDir, FileName(unit))}, 0)
}

// Alone returns nil when no process but this one is in the control group.
func Alone(group string) error {
	pids, err := groupPIDs(group)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if pid != os.Getpid() {
			return fmt.Errorf("pid %d is left in %s", pid, group)
		}
	}
	return nil
}

// hierarchies are where systemd keeps its control groups: unified, hybrid, legacy.
var hierarchies = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"}

// groupPIDs lists the processes of a control group and of those below it.
func groupPIDs(group string) ([]int, error) {
	var pids []int
	for _, h := range hierarchies {
		err := filepath.WalkDir(h+group, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil // it went away
			case err != nil:
				return err
			case !d.IsDir():
				return nil
			}
			data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
				return err
			}
			for line := range strings.Lines(string(data)) {
				if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
			return nil
		})
		if err != nil {
			return pids, fmt.Errorf("control group %s: %w", group, err)
		}
	}
	return pids, nil
}

// killGroup kills the processes that the group has now.
func killGroup(group string) error {
	pids, err := groupPIDs(group)
	for _, pid := range pids {
		if kerr := syscall.Kill(pid, syscall.SIGKILL); kerr != nil && !errors.Is(kerr, syscall.ESRCH) {
			err = errors.Join(err, fmt.Errorf("kill pid %d of %s: %w", pid, group, kerr))
		}
	}
	return err
}

// pause waits for d and reports whether ctx still stands.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
