package child

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/prometheus/procfs"

	"github.com/hactl/hactl/internal/workload"
)

// Process is one live process of a unit.
type Process struct {
	Unit  string `json:"unit"`
	PID   int    `json:"pid"`
	PPID  int    `json:"ppid"`
	Name  string `json:"name"`  // of the program file: "kube-scheduler", not cut off as the kernel's is
	State string `json:"state"` // the kernel's letter: R, S, D, T (stopped), …
	Main  bool   `json:"main"`  // the unit's main process
}

// Processes lists the processes of all units, the main one of each first.
func (s *Supervisor) Processes(context.Context) ([]Process, error) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []Process
	for _, u := range s.list() {
		ps, err := u.processes(fs)
		if err != nil {
			return nil, fmt.Errorf("list processes of %s: %w", u.name, err)
		}
		all = append(all, ps...)
	}
	return all, nil
}

func (u *unit) processes(fs procfs.FS) ([]Process, error) {
	u.mu.Lock()
	r := u.run
	u.mu.Unlock()
	if r == nil {
		return nil, nil
	}
	pids, err := r.proc.Remaining()
	if err != nil {
		return nil, err
	}
	var ps []Process
	for _, pid := range pids {
		p, err := fs.Proc(pid)
		if err != nil {
			continue // ended meanwhile
		}
		stat, err := p.Stat()
		if err != nil {
			continue
		}
		ps = append(ps, Process{
			Unit: u.name, PID: pid, PPID: stat.PPID, State: stat.State,
			Name: programName(p, stat.Comm), Main: pid == r.proc.PID(),
		})
	}
	slices.SortStableFunc(ps, func(a, b Process) int {
		switch {
		case a.Main == b.Main:
			return a.PID - b.PID
		case a.Main:
			return -1
		default:
			return 1
		}
	})
	return ps, nil
}

// programName is the base name of the program as it was called; comm is what the
// kernel has kept of it, at most 15 characters.
func programName(p procfs.Proc, comm string) string {
	args, err := p.CmdLine()
	if err != nil || len(args) == 0 || args[0] == "" {
		return comm
	}
	return filepath.Base(args[0])
}

// SignalProcess sends sig to every process whose program is called name, or, if
// there is none, to the main process of the unit of that name. It returns the
// pids; with ErrNoProcess it names what there is.
func (s *Supervisor) SignalProcess(ctx context.Context, name string, sig syscall.Signal) ([]int, error) {
	all, err := s.Processes(ctx)
	if err != nil {
		return nil, err
	}
	targets := pick(all, func(p Process) bool { return p.Name == name })
	if targets == nil {
		targets = pick(all, func(p Process) bool { return p.Main && p.Unit == name })
	}
	if targets == nil {
		var names []string
		for _, p := range all {
			names = append(names, p.Name, p.Unit)
		}
		slices.Sort(names)
		return nil, fmt.Errorf("%q: %w (there are: %s)", name, ErrNoProcess, strings.Join(slices.Compact(names), ", "))
	}
	var pids []int
	var errs []error
	slices.Reverse(targets) // children before the main process that may take them down
	for _, p := range targets {
		switch err := s.signalOne(p, sig); {
		case errors.Is(err, os.ErrProcessDone): // ended meanwhile
		case err != nil:
			errs = append(errs, err)
		default:
			pids = append(pids, p.PID)
		}
	}
	slices.Sort(pids)
	return pids, errors.Join(errs...)
}

func pick(all []Process, want func(Process) bool) []Process {
	var out []Process
	for _, p := range all {
		if want(p) {
			out = append(out, p)
		}
	}
	return out
}

// signalOne signals p if it is still a process of its unit.
func (s *Supervisor) signalOne(p Process, sig syscall.Signal) error {
	u := s.unit(p.Unit)
	if u == nil {
		return fmt.Errorf("%s: %w", p.Unit, workload.ErrNoUnit)
	}
	u.mu.Lock()
	r := u.run
	u.mu.Unlock()
	if r == nil {
		return fmt.Errorf("%s: %w", p.Unit, workload.ErrNotRunning)
	}
	if p.PID == r.proc.PID() {
		return r.proc.Signal(sig)
	}
	return signalPID(p, sig)
}

// signalPID signals a process that is not our child. The pid is pinned first,
// then compared with what was listed, so that nobody else is hit.
func signalPID(p Process, sig syscall.Signal) error {
	proc, err := os.FindProcess(p.PID)
	if err != nil {
		return fmt.Errorf("signal pid %d: %w", p.PID, err)
	}
	defer func() { _ = proc.Release() }()
	now, err := procfs.NewProc(p.PID)
	if err != nil {
		return fmt.Errorf("signal pid %d: %w", p.PID, os.ErrProcessDone)
	}
	stat, err := now.Stat()
	if err != nil || stat.PPID != p.PPID || programName(now, stat.Comm) != p.Name {
		return fmt.Errorf("signal pid %d: %w", p.PID, os.ErrProcessDone)
	}
	if err := proc.Signal(sig); err != nil {
		return fmt.Errorf("signal pid %d: %w", p.PID, err)
	}
	return nil
}
