package singleton

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/process"
	"github.com/hactl/hactl/internal/workload/systemd"
)

// The guard's descriptors beside the standard ones, which are the command's. The
// last two are the ends of a pipe that nobody uses; see tether.
const (
	guardOrdersFD  = 3
	guardReportsFD = 4
	guardTetherR   = 5
	guardTetherW   = 6
)

// guardOrder is what podmaster tells the guard, one JSON value after another.
type guardOrder struct {
	Start    *guardStart     `json:"start,omitempty"`
	Deadline time.Duration   `json:"deadline,omitempty"` // CLOCK_BOOTTIME: everything is dead by then
	Signal   syscall.Signal  `json:"signal,omitempty"`   // for the command's group
	Stop     bool            `json:"stop,omitempty"`     // SIGTERM, and end when the command has
	Unlink   string          `json:"unlink,omitempty"`   // instead of Start: a file that goes when the guard ends
	Unit     *systemd.Target `json:"unit,omitempty"`     // instead of Start: a unit that ends when the guard does
	Permit   []string        `json:"permit,omitempty"`   // with Unit: its environment; the guard permits it
	Disarm   bool            `json:"disarm,omitempty"`   // the unit has ended: end without doing anything
	Orphan   json.RawMessage `json:"orphan,omitempty"`   // for GuardMain's orphan
}

type guardStart struct {
	Path string   `json:"path"`
	Args []string `json:"args"`
	Env  []string `json:"env"`
	Dir  string   `json:"dir,omitempty"`
	// Foreground gives the terminal that is stdin to the command's group.
	Foreground bool `json:"foreground,omitempty"`
	// Slack is how long after a deadline the kernel lets a guard live that has done
	// nothing, stopped or starved; the command dies with it. 0: for ever.
	Slack time.Duration `json:"slack,omitempty"`
}

// guardReport is what the guard tells podmaster.
type guardReport struct {
	PID     int            `json:"pid,omitempty"`     // the command was started
	Err     string         `json:"err,omitempty"`     // it could not be
	Ended   bool           `json:"ended,omitempty"`   // the command and all of its descendants are gone
	Code    int            `json:"code,omitempty"`    // the command's exit status; -1: a signal
	Signal  syscall.Signal `json:"signal,omitempty"`  // that signal
	Expired bool           `json:"expired,omitempty"` // the guard killed it at the deadline
}

// GuardMain is the guard process. cmd/podmaster calls it first thing when it was
// started as one. orphan is called when podmaster has died and everything is
// dead, with what podmaster left for that case; it may be nil.
func GuardMain(orphan func(context.Context, json.RawMessage)) error {
	for fd := guardOrdersFD; fd <= guardTetherW; fd++ {
		unix.CloseOnExec(fd)
	}
	return guardMain(os.NewFile(guardOrdersFD, "orders"), os.NewFile(guardReportsFD, "reports"), orphan)
}

// tether has the kernel send SIGKILL to the whole process group when the guard
// dies: the parent-death signal reaches the command alone, not what it started. The
// guard holds the only writing end of a pipe, podmaster the reading one as well; when
// the writing end closes, the reading one's owner is signalled.
func tether(group int) error {
	switch _, err := unix.FcntlInt(guardTetherR, unix.F_SETOWN, -group); {
	case errors.Is(err, unix.ESRCH):
		return nil // a quick command: nobody is left
	case err != nil:
		return fmt.Errorf("tether: own: %w", err)
	}
	if _, err := unix.FcntlInt(guardTetherR, unix.F_SETSIG, int(unix.SIGKILL)); err != nil {
		return fmt.Errorf("tether: signal: %w", err)
	}
	flags, err := unix.FcntlInt(guardTetherR, unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(guardTetherR, unix.F_SETFL, flags|unix.O_ASYNC)
	}
	if err != nil {
		return fmt.Errorf("tether: %w", err)
	}
	return nil
}

// UnitGuardMain is the guard of a systemd unit, in a unit of its own: nothing
// inherited but its standard descriptors.
func UnitGuardMain(orphan func(context.Context, json.RawMessage)) error {
	return guardMain(os.Stdin, os.Stdout, orphan)
}

func guardMain(orders, reports *os.File, orphan func(context.Context, json.RawMessage)) error {
	if err := process.BecomeSubreaper(); err != nil {
		return err
	}
	// Caught, not ignored: an ignored signal would stay ignored in the command.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	g := &guard{clock: lease.Boottime{}, reports: json.NewEncoder(reports), orphan: orphan}
	return g.run(orders)
}

type guard struct {
	clock    lease.Clock
	reports  *json.Encoder
	orphan   func(context.Context, json.RawMessage)
	will     json.RawMessage
	unlink   string
	unit     *systemd.Target
	child    *process.Process
	fuse     *process.Fuse // nil: none
	slack    time.Duration
	deadline time.Duration
}

func (g *guard) run(orders io.Reader) error {
	incoming := make(chan guardOrder)
	go func() {
		defer close(incoming)
		for dec := json.NewDecoder(orders); ; {
			var o guardOrder
			if err := dec.Decode(&o); err != nil {
				return
			}
			incoming <- o
		}
	}()
	fired, stopTimer := (<-chan struct{})(nil), func() {}
	for {
		var done <-chan struct{}
		if g.child != nil {
			done = g.child.Done()
		}
		select {
		case o, ok := <-incoming:
			if !ok {
				return g.orphaned()
			}
			if o.Deadline > g.deadline {
				g.deadline = o.Deadline
				stopTimer()
				fired, stopTimer = g.clock.At(g.deadline)
				g.moveFuse()
			}
			if o.Disarm {
				return nil
			}
			if err := g.obey(o); err != nil {
				return errors.Join(err, g.reports.Encode(guardReport{Err: err.Error()}))
			}
		case <-fired:
			return g.end(true)
		case <-done:
			return g.end(false)
		}
	}
}

// moveFuse has the kernel kill the guard should it not have acted soon after its
// deadline. It cannot fail once the fuse is there.
func (g *guard) moveFuse() {
	if g.fuse != nil {
		_ = g.fuse.Light(g.deadline + g.slack)
	}
}

func (g *guard) obey(o guardOrder) error {
	if o.Orphan != nil {
		g.will = o.Orphan
	}
	if o.Unit != nil {
		// Not podmaster: should it be frozen before it asks for the start, the permit
		// is gone when it goes on.
		if g.clock.Now() >= g.deadline {
			return errors.New("the term had ended before the unit could start")
		}
		g.unit = o.Unit
		if err := o.Unit.Permit(o.Permit); err != nil {
			return err
		}
		return g.reports.Encode(guardReport{PID: os.Getpid()})
	}
	if o.Unlink != "" {
		g.unlink = o.Unlink
		return g.reports.Encode(guardReport{PID: os.Getpid()})
	}
	if o.Start != nil {
		if o.Start.Slack > 0 {
			fuse, err := process.NewFuse()
			if err != nil {
				return fmt.Errorf("guard: %w", err)
			}
			g.fuse, g.slack = fuse, o.Start.Slack
			g.moveFuse()
		}
		// The last look at the clock is as near to the fork as can be.
		if g.clock.Now() >= g.deadline {
			return errors.New("the term had ended before the command could start")
		}
		p, err := process.Start(process.Config{
			Path: o.Start.Path, Args: o.Start.Args, Env: o.Start.Env, Dir: o.Start.Dir,
			Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Foreground: o.Start.Foreground,
		})
		if err != nil {
			return err
		}
		g.child = p
		if err := tether(p.PID()); err != nil {
			return errors.Join(err, g.killAll())
		}
		if o.Start.Foreground {
			go keepGoing(p)
		}
		return g.reports.Encode(guardReport{PID: p.PID()})
	}
	if g.child == nil {
		return nil
	}
	if o.Signal != 0 {
		_ = g.child.SignalGroup(o.Signal) // the command may have ended: Done tells
	}
	if o.Stop {
		_ = g.child.SignalGroup(syscall.SIGTERM)
		_ = g.child.SignalGroup(syscall.SIGCONT)
	}
	return nil
}

// end kills what is left and reports how the command ended.
func (g *guard) end(expired bool) error {
	if err := g.killAll(); err != nil {
		return err // no report of an end: podmaster must not release
	}
	r := guardReport{Ended: true, Expired: expired}
	if g.child != nil {
		e := g.child.Wait()
		r.Code, r.Signal = e.Code, e.Signal
	}
	return g.reports.Encode(r)
}

func (g *guard) killAll() error {
	if g.unlink != "" {
		if err := os.Remove(g.unlink); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("guard: %w", err)
		}
	}
	if g.child != nil {
		_ = g.child.Kill()
		if g.fuse != nil {
			_ = g.fuse.Light(0) // it has acted, and the rest may take longer
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := process.KillDescendants(ctx); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	if g.unit != nil {
		if err := systemd.End(ctx, *g.unit, unitPatience); err != nil {
			return fmt.Errorf("guard: %w", err)
		}
	}
	return nil
}

// orphaned ends everything after podmaster died.
func (g *guard) orphaned() error {
	if err := g.killAll(); err != nil {
		return err
	}
	if g.orphan != nil && g.will != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		g.orphan(ctx, g.will)
	}
	return nil
}
