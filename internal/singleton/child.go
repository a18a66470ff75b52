package singleton

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/process"
)

// The defaults of ChildConfig.
const (
	DefaultStopGrace    = 10 * time.Second
	DefaultCrashBudget  = 5
	DefaultCrashWindow  = time.Minute
	DefaultRestartPause = 50 * time.Millisecond
)

// ChildConfig is a command that runs while the lock is held.
type ChildConfig struct {
	Command []string // program and arguments
	Env     []string // KEY=value added to podmaster's own environment
	Dir     string
	Stdin   *os.File // nil: /dev/null; stdout and stderr are podmaster's

	Key, Holder string // for the command's environment
	// StopTime is the lease's: on a lost lease the command gets SIGTERM at its
	// begin, SIGKILL after a quarter; the guard kills at half of it.
	StopTime time.Duration
	// StopGrace is what the command gets between SIGTERM and SIGKILL when there
	// is time: renewals go on meanwhile. Default 10s.
	StopGrace time.Duration
	// OneShot ends the term with the command's exit, whatever its status.
	OneShot bool
	// CrashBudget is how many ends within CrashWindow are answered by a restart
	// in place; the next one hands the term over. Defaults 5 and 1m.
	CrashBudget int
	CrashWindow time.Duration
	Health      *Health // nil: the process' life is its only sign

	// Guard is the command line that calls GuardMain; default this program's
	// file with the argument GuardArg.
	Guard []string
	// Orphan is handed to GuardMain's orphan when podmaster dies; it gets the token.
	Orphan func(token int64) json.RawMessage

	Clock  lease.Clock
	Logger *slog.Logger
	Events Events
}

// GuardArg is the argument by which cmd/podmaster knows that it is a guard.
const GuardArg = "__guard"

// UnitGuardArg is the same for the guard of a unit.
const UnitGuardArg = "__guard-unit"

func defaultGuard() []string { return []string{"/proc/self/exe", GuardArg} }

// Events are told what happens to the work. Every field may be nil.
type Events struct {
	Started func(pid int)
	Ended   func(how string)
	Health  func(err error)
}

// Child runs a command under a guard, as a lease's lead.
type Child struct {
	cfg ChildConfig

	mu  sync.Mutex
	now *guarded
}

// NewChild checks cfg. It errs when the command cannot be found.
func NewChild(cfg ChildConfig) (*Child, error) {
	if len(cfg.Command) == 0 || cfg.Command[0] == "" {
		return nil, errors.New("no command")
	}
	if cfg.Dir == "" || strings.HasPrefix(cfg.Command[0], "/") {
		if _, err := exec.LookPath(cfg.Command[0]); err != nil {
			return nil, fmt.Errorf("command: %w", err)
		}
	}
	if cfg.StopGrace == 0 {
		cfg.StopGrace = DefaultStopGrace
	}
	if cfg.StopTime == 0 {
		cfg.StopTime = lease.DefaultStopTime
	}
	if cfg.CrashBudget == 0 {
		cfg.CrashBudget = DefaultCrashBudget
	}
	if cfg.CrashWindow == 0 {
		cfg.CrashWindow = DefaultCrashWindow
	}
	if cfg.Guard == nil {
		cfg.Guard = defaultGuard()
	}
	if cfg.Clock == nil {
		cfg.Clock = lease.Boottime{}
	}
	if cfg.Logger == nil {
		cfg.Logger = logging.Discard()
	}
	return &Child{cfg: cfg}, nil
}

// Signal passes a signal on to the command's process group, if it runs.
func (c *Child) Signal(sig syscall.Signal) {
	c.mu.Lock()
	g := c.now
	c.mu.Unlock()
	if g != nil {
		_ = g.send(guardOrder{Signal: sig})
	}
}

// PID is the command's process id, 0 when it does not run.
func (c *Child) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		return 0
	}
	return c.now.pid
}

// Lead runs the command for one term: see lease.Elector.Run.
func (c *Child) Lead(ctx context.Context, term *lease.Term) error {
	p := policy{oneShot: c.cfg.OneShot, budget: c.cfg.CrashBudget, window: c.cfg.CrashWindow, clock: c.cfg.Clock, log: c.cfg.Logger}
	return p.lead(ctx, term, "the command", c.once)
}

// once runs the command once. It returns when nothing of it is left, or
// lease.ErrUnconfirmed when that cannot be told.
func (c *Child) once(ctx context.Context, term *lease.Term) (ending, error) {
	deadline, _ := term.Deadline()
	margin := c.cfg.StopTime / 2
	first := guardOrder{Start: c.start(term)}
	first.Start.Slack = margin * 7 / 8
	if first.Start.Foreground {
		defer func() {
			if err := takeTerminal(c.cfg.Stdin); err != nil {
				c.cfg.Logger.Warn("the terminal cannot be taken back", "err", err)
			}
		}()
	}
	if c.cfg.Orphan != nil {
		first.Orphan = c.cfg.Orphan(term.Token())
	}
	g, err := startGuarded(ctx, c.cfg.Guard, first, deadline-margin, c.cfg.Stdin)
	if err != nil {
		if errors.Is(err, lease.ErrUnconfirmed) {
			return ending{}, err
		}
		return ending{Exit: process.Exit{Code: -1}, why: "not started: " + err.Error()}, nil
	}
	c.set(g)
	defer c.set(nil)
	c.cfg.Logger.Info("the command runs", "pid", g.pid, "token", term.Token())
	call(c.cfg.Events.Started, g.pid)

	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	go g.follow(runCtx, term, margin)
	sick := make(chan error, 1)
	if c.cfg.Health != nil {
		go c.cfg.Health.watch(runCtx, sick, c.cfg.Events.Health)
	}
	end, err := c.await(ctx, term, g, sick)
	call(c.cfg.Events.Ended, end.String())
	if err == nil && first.Start.Foreground && end.why == "" && (end.Signal == syscall.SIGINT || end.Signal == syscall.SIGQUIT) {
		// Typed at the terminal, of which the command has the foreground: it is meant
		// for both.
		return end, &ExitError{Exit: end.Exit}
	}
	return end, err
}

func call[T any](f func(T), v T) {
	if f != nil {
		f(v)
	}
}

func (c *Child) set(g *guarded) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = g
}

// start is the command with its environment. What belongs to podmaster alone is
// taken out: one owner of the notify socket, and of the watchdog.
func (c *Child) start(term *lease.Term) *guardStart {
	var env []string
	for _, kv := range os.Environ() {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
			"PODMASTER_TOKEN", "PODMASTER_KEY", "PODMASTER_HOLDER":
		default:
			env = append(env, kv)
		}
	}
	env = append(env, c.cfg.Env...)
	env = append(env, "PODMASTER_TOKEN="+strconv.FormatInt(term.Token(), 10), "PODMASTER_KEY="+c.cfg.Key, "PODMASTER_HOLDER="+c.cfg.Holder)
	return &guardStart{Path: c.cfg.Command[0], Args: c.cfg.Command[1:], Env: env, Dir: c.cfg.Dir, Foreground: foreground(c.cfg.Stdin)}
}

// await waits for the command's end, or ends it.
func (c *Child) await(ctx context.Context, term *lease.Term, g *guarded, sick <-chan error) (ending, error) {
	var why string
	grace := c.cfg.StopGrace
	select {
	case r, ok := <-g.ended:
		return c.ended(g, r, ok)
	case err := <-sick:
		why = "unhealthy: " + err.Error()
	case <-ctx.Done():
		why = "stopped"
		if errors.Is(context.Cause(ctx), lease.ErrLost) {
			why, grace = "lease lost", c.cfg.StopTime/4
		}
	}
	lost := term.Lost()
	if why == "lease lost" {
		lost = nil // known; the quarter is for SIGTERM
	}
	_ = g.send(guardOrder{Stop: true})
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case r, ok := <-g.ended:
		end, err := c.ended(g, r, ok)
		end.why = why
		return end, err
	case <-timer.C:
	case <-lost:
	}
	end := ending{Exit: process.Exit{Code: -1, Signal: syscall.SIGKILL}, why: why + ", killed"}
	return end, g.kill()
}

// ended cleans up after the guard's report, or its silent death.
func (c *Child) ended(g *guarded, r guardReport, ok bool) (ending, error) {
	if !ok { // the guard was killed: the command died with it, its descendants came to us
		return ending{Exit: process.Exit{Code: -1}, why: "the guard was killed"}, g.kill()
	}
	if err := g.finish(c.cfg.StopTime); err != nil {
		return ending{}, err
	}
	end := ending{Exit: process.Exit{Code: r.Code, Signal: r.Signal}}
	if r.Expired {
		end.why = "killed at the term's deadline"
	}
	return end, nil
}
