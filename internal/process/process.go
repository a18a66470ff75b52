package process

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MarkEnv is the environment variable by which descendants that left their
// process group and lost their parents are still found.
const MarkEnv = "HACTL_PROCESS_MARK"

// Config says what to start and how.
type Config struct {
	Path string   // program; without a slash it is looked up in PATH
	Args []string // arguments after the program's name
	Env  []string // KEY=value; nil: the caller's environment
	Dir  string   // working folder; empty: the caller's

	Stdin, Stdout, Stderr *os.File   // nil: /dev/null
	ExtraFiles            []*os.File // the child's descriptors 3, 4, …

	// DeathSignal is sent to the process when the caller dies, whatever kills
	// it. Default SIGKILL; negative: none.
	DeathSignal syscall.Signal
	// Session makes the process a session's leader, without a terminal; else it
	// leads a process group in the caller's session.
	Session bool
	// Foreground makes the new group the foreground group of the terminal that
	// is Stdin. It excludes Session.
	Foreground bool
	// KeepGroup leaves the rest of the group alive when the leader has ended.
	// By default it gets SIGKILL, as systemd does with a unit's control group.
	KeepGroup bool
	// Companion is a process of the caller's own, beside its work: KillDescendants
	// and ReapOrphans leave it, and what it starts, alone.
	Companion bool
}

// Process is a running or ended process and its group.
type Process struct {
	pid       int
	mark      string
	keepGroup bool
	companion bool
	proc      *os.Process
	done      chan struct{}

	mu     sync.Mutex // held while signalling, so that nothing is reaped meanwhile
	reaped bool
	state  *os.ProcessState // valid once done is closed
	err    error            // likewise
}

// Start starts the process. The error names the program; it wraps
// exec.ErrNotFound or a *fs.PathError when it cannot be run at all.
func Start(cfg Config) (*Process, error) {
	path, err := lookPath(cfg.Path, cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("start %q: %w", cfg.Path, err)
	}
	attr, cleanup, err := procAttr(cfg)
	if err != nil {
		return nil, fmt.Errorf("start %q: %w", cfg.Path, err)
	}
	p := &Process{mark: rand.Text(), keepGroup: cfg.KeepGroup, companion: cfg.Companion, done: make(chan struct{})}
	attr.Env = append(slices.Clone(attr.Env), MarkEnv+"="+p.mark)
	started := make(chan error)
	go p.run(path, append([]string{cfg.Path}, cfg.Args...), attr, started)
	err = <-started
	cleanup()
	if err != nil {
		return nil, fmt.Errorf("start %q: %w", cfg.Path, err)
	}
	return p, nil
}

// lookPath finds the program in PATH, or relative to dir as the child would.
func lookPath(path, dir string) (string, error) {
	if path == "" {
		return "", errors.New("no program given")
	}
	if strings.Contains(path, "/") && !filepath.IsAbs(path) && dir != "" {
		return exec.LookPath(filepath.Join(dir, path))
	}
	return exec.LookPath(path)
}

func procAttr(cfg Config) (attr *os.ProcAttr, cleanup func(), err error) {
	env := cfg.Env
	if env == nil {
		env = os.Environ()
	}
	env = slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return strings.HasPrefix(kv, MarkEnv+"=") })
	files := []*os.File{cfg.Stdin, cfg.Stdout, cfg.Stderr}
	cleanup = func() {}
	if slices.Contains(files, nil) {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return nil, nil, err
		}
		cleanup = func() { _ = null.Close() }
		for i, f := range files {
			if f == nil {
				files[i] = null
			}
		}
	}
	sys := &syscall.SysProcAttr{Setsid: cfg.Session, Setpgid: !cfg.Session && !cfg.Foreground, Pdeathsig: syscall.SIGKILL}
	if cfg.DeathSignal > 0 {
		sys.Pdeathsig = cfg.DeathSignal
	} else if cfg.DeathSignal < 0 {
		sys.Pdeathsig = 0
	}
	if cfg.Foreground {
		if cfg.Session || cfg.Stdin == nil {
			cleanup()
			return nil, nil, errors.New("foreground needs a terminal as stdin and the caller's session")
		}
		sys.Foreground, sys.Ctty = true, int(cfg.Stdin.Fd())
	}
	return &os.ProcAttr{Dir: cfg.Dir, Env: env, Files: append(files, cfg.ExtraFiles...), Sys: sys}, cleanup, nil
}

// run forks, waits and reaps, all on one thread: see the package's doc.
func (p *Process) run(path string, argv []string, attr *os.ProcAttr, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	proc, err := os.StartProcess(path, argv, attr)
	if err != nil {
		started <- err
		return
	}
	p.proc, p.pid = proc, proc.Pid
	if p.companion {
		companions.Store(p.pid, true)
		defer companions.Delete(p.pid)
	}
	started <- nil

	waitExit(p.pid)
	p.mu.Lock()
	if !p.keepGroup {
		_ = unix.Kill(-p.pid, unix.SIGKILL)
	}
	p.state, p.err = proc.Wait()
	p.reaped = true
	p.mu.Unlock()
	close(p.done)
}

// waitExit blocks until pid, a child, has ended; it leaves the zombie.
func waitExit(pid int) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// PID is the process' id, and its group's.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process has ended and was reaped and the rest of its
// group was sent SIGKILL (unless Config.KeepGroup).
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit describes how a process ended.
type Exit struct {
	Code   int            // exit status; -1 when a signal ended it
	Signal syscall.Signal // the signal that ended it; 0: none
	User   time.Duration  // CPU time in user mode
	System time.Duration  // CPU time in the kernel
	MaxRSS int64          // greatest resident memory, bytes
}

// OK reports whether the process ended with status 0.
func (e Exit) OK() bool { return e.Code == 0 && e.Signal == 0 }

// String says it as systemd would: "exit status 1", "signal: killed".
func (e Exit) String() string {
	if e.Signal != 0 {
		return "signal: " + e.Signal.String()
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// ShellCode is the status a shell reports: 128+n for signal n.
func (e Exit) ShellCode() int {
	if e.Signal != 0 {
		return 128 + int(e.Signal)
	}
	return e.Code
}

// Wait waits for Done and tells how the process ended.
func (p *Process) Wait() Exit {
	<-p.done
	return p.Exit()
}

// Exit tells how the process ended; the zero Exit with Code -1 while it runs.
func (p *Process) Exit() Exit {
	select {
	case <-p.done:
	default:
		return Exit{Code: -1}
	}
	if p.err != nil || p.state == nil {
		return Exit{Code: -1}
	}
	e := Exit{Code: p.state.ExitCode(), User: p.state.UserTime(), System: p.state.SystemTime()}
	if ws, ok := p.state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Signal = ws.Signal()
	}
	if ru, ok := p.state.SysUsage().(*syscall.Rusage); ok {
		e.MaxRSS = ru.Maxrss * 1024
	}
	return e
}

// Err is nil while the process runs and when it ended with status 0; else it
// says how it ended.
func (p *Process) Err() error {
	select {
	case <-p.done:
	default:
		return nil
	}
	if p.err != nil {
		return fmt.Errorf("wait for pid %d: %w", p.pid, p.err)
	}
	if e := p.Exit(); !e.OK() {
		return &ExitError{Exit: e}
	}
	return nil
}

// ExitError is the end of a process other than with status 0.
type ExitError struct{ Exit Exit }

func (e *ExitError) Error() string { return e.Exit.String() }
