package singleton

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/process"
	"github.com/hactl/hactl/internal/workload/systemd"
)

// unitPatience is what a unit's stop commands get at a term's deadline, before
// everything of the unit is killed.
const unitPatience = 100 * time.Millisecond

// UnitConfig is a systemd unit that runs while the lock is held.
type UnitConfig struct {
	Unit        string // UNIT.service, which must exist and not be enabled
	Key, Holder string // for the unit's environment

	StopTime  time.Duration // the lease's; see ChildConfig
	StopGrace time.Duration // what the unit's own stop gets when there is time. Default 10s.

	OneShot     bool // see ChildConfig
	CrashBudget int
	CrashWindow time.Duration
	Health      *Health

	Guard  []string // command line that calls UnitGuardMain; default this program's file with UnitGuardArg
	Orphan func(token int64) json.RawMessage
	Clock  lease.Clock
	Logger *slog.Logger
	Events Events
}

// Unit starts and stops a systemd unit, as a lease's lead.
//
// Three things end the unit when this process cannot: the guard, in a unit of its
// own, at the term's deadline or at our death; systemd, which stops what is bound to
// our unit when that ends, by its watchdog at last; and the ExecStopPost= of our
// unit, which kills where that stop hangs.
type Unit struct {
	cfg   UnitConfig
	bound *systemd.Bound
	pid   atomic.Int64
}

// NewUnit checks cfg, and that the unit exists and can be bound. It changes nothing.
func NewUnit(ctx context.Context, cfg UnitConfig) (*Unit, error) {
	setDefault(&cfg.StopGrace, DefaultStopGrace)
	setDefault(&cfg.StopTime, lease.DefaultStopTime)
	setDefault(&cfg.CrashBudget, DefaultCrashBudget)
	setDefault(&cfg.CrashWindow, DefaultCrashWindow)
	if cfg.Guard == nil {
		self, err := systemd.Executable()
		if err != nil {
			return nil, err
		}
		cfg.Guard = []string{self, UnitGuardArg}
	}
	if cfg.Clock == nil {
		cfg.Clock = lease.Boottime{}
	}
	if cfg.Logger == nil {
		cfg.Logger = logging.Discard()
	}
	bound, err := systemd.NewBound(ctx, systemd.BindConfig{Unit: cfg.Unit, StopTimeout: cfg.StopGrace, Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	return &Unit{cfg: cfg, bound: bound}, nil
}

// Close ends the connection to systemd.
func (u *Unit) Close() { u.bound.Close() }

// Target names the unit, for whoever must end it when this process cannot.
func (u *Unit) Target() systemd.Target { return u.bound.Target() }

// Bound reports the unit of this process that the unit is bound to; empty: none,
// and only the guard is the dead man's switch.
func (u *Unit) Bound() string { return u.bound.Own() }

// PID is the unit's main process, 0 when there is none.
func (u *Unit) PID() int { return int(u.pid.Load()) }

// Clean binds the unit, and stops it: whoever does not hold the lock must not run it.
func (u *Unit) Clean(ctx context.Context) error {
	if err := u.bound.Bind(ctx); err != nil {
		return err
	}
	if err := u.bound.Target().Forbid(); err != nil {
		return err
	}
	s, err := u.bound.State(ctx)
	if err != nil || s.Ended {
		return err
	}
	u.cfg.Logger.Warn("the unit runs without the lock and is stopped", "active", s.Active)
	return u.stop(ctx, u.cfg.StopGrace, nil)
}

// Lead runs the unit for one term: see lease.Elector.Run.
func (u *Unit) Lead(ctx context.Context, term *lease.Term) error {
	p := policy{oneShot: u.cfg.OneShot, budget: u.cfg.CrashBudget, window: u.cfg.CrashWindow, clock: u.cfg.Clock, log: u.cfg.Logger}
	return p.lead(ctx, term, "the unit", u.once)
}

// once runs the unit once under a guard of its own. It returns when nothing of it
// is left, or lease.ErrUnconfirmed.
func (u *Unit) once(ctx context.Context, term *lease.Term) (ending, error) {
	deadline, _ := term.Deadline()
	margin := u.cfg.StopTime / 2
	target := u.bound.Target()
	first := guardOrder{Unit: &target, Permit: []string{
		"PODMASTER_TOKEN=" + strconv.FormatInt(term.Token(), 10), "PODMASTER_KEY=" + u.cfg.Key, "PODMASTER_HOLDER=" + u.cfg.Holder,
	}}
	if u.cfg.Orphan != nil {
		first.Orphan = u.cfg.Orphan(term.Token())
	}
	g, err := armGuard(ctx, first, deadline-margin, func(orders, reports *os.File) (*process.Process, error) {
		return nil, u.bound.StartHelper(ctx, systemd.Helper{
			Unit: "podmaster-guard-" + rand.Text()[:10], Text: "podmaster's guard of " + u.cfg.Unit,
			Exec: u.cfg.Guard, Stdin: orders, Stdout: reports,
		})
	})
	if err != nil {
		if errors.Is(err, lease.ErrUnconfirmed) {
			return ending{}, err
		}
		return ending{Exit: process.Exit{Code: -1}, why: "not started: " + err.Error()}, nil
	}
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go g.follow(watch, term, margin)
	end := u.run(ctx, watch, term, g)
	u.pid.Store(0)
	call(u.cfg.Events.Ended, end.String())
	grace := u.cfg.StopGrace
	if errors.Is(context.Cause(ctx), lease.ErrLost) {
		grace = u.cfg.StopTime / 4
	}
	if err := u.stop(ctx, grace, term.Lost()); err != nil {
		g.close() // the guard goes on trying, and does not release either
		return ending{}, fmt.Errorf("%w: %w", lease.ErrUnconfirmed, err)
	}
	_ = g.send(guardOrder{Disarm: true})
	return end, g.finish(u.cfg.StopTime)
}

// run starts the unit and waits until it has ended, or must end.
func (u *Unit) run(ctx, watch context.Context, term *lease.Term, g *guarded) ending {
	failed := func(why string) ending { return ending{Exit: process.Exit{Code: -1}, why: why} }
	starting, cancel := context.WithCancel(watch)
	defer cancel()
	started := make(chan error, 1)
	go func() { started <- u.bound.Start(starting) }()
	select {
	case err := <-started:
		if err != nil {
			return failed(err.Error())
		}
	case <-g.ended:
		cancel()
		return failed("the guard ended, and the unit with it: " + fmt.Sprint(<-started))
	case <-ctx.Done():
		cancel()
		// Awaited: what was asked for must not come after the stop.
		return failed(fmt.Sprintf("stopped while it started: %v", <-started))
	}
	changed := make(chan struct{}, 1)
	go func() {
		if err := u.bound.Watch(watch, changed); err != nil {
			u.cfg.Logger.Warn("systemd sends no news of the unit: it is asked", "err", err)
		}
	}()
	return u.await(ctx, watch, g, changed)
}

// unitEvery is how often systemd is asked though it has sent no news.
const unitEvery = 2 * time.Second

// await returns when the unit has ended by itself, or must end.
func (u *Unit) await(ctx, watch context.Context, g *guarded, changed <-chan struct{}) ending {
	sick := make(chan error, 1)
	if u.cfg.Health != nil {
		go u.cfg.Health.watch(watch, sick, u.cfg.Events.Health)
	}
	tick := time.NewTicker(unitEvery)
	defer tick.Stop()
	for told := false; ; {
		s, err := u.bound.State(watch)
		switch {
		case err != nil: // systemd is busy, or its bus is away: that is no end of the unit
			u.cfg.Logger.Warn("systemd does not tell how the unit is", "err", err)
		case s.Ended && s.OK:
			return ending{}
		case s.Ended:
			e := ending{Exit: process.Exit{Code: s.Code, Signal: s.Signal}}
			if e.Exit.OK() {
				e.why = "failed: " + s.LastExit
			}
			return e
		default:
			u.pid.Store(int64(s.MainPID))
			if !told {
				told = true
				u.cfg.Logger.Info("the unit runs", "pid", s.MainPID)
				call(u.cfg.Events.Started, s.MainPID)
			}
		}
		select {
		case <-changed:
		case <-tick.C:
		case err := <-sick:
			return ending{Exit: process.Exit{Code: -1}, why: "unhealthy: " + err.Error()}
		case <-g.ended:
			return ending{Exit: process.Exit{Code: -1}, why: "the guard ended, and the unit with it"}
		case <-ctx.Done():
			return ending{Exit: process.Exit{Code: -1}, why: "stopped"}
		}
	}
}

// stop stops the unit as it is meant to be stopped, and kills it after grace, or
// when the term is lost meanwhile. It returns nil when nothing of it is left.
func (u *Unit) stop(ctx context.Context, grace time.Duration, lost <-chan struct{}) error {
	polite, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if grace > u.cfg.StopTime { // else it is lost already, and the grace short
		go func() {
			select {
			case <-lost:
				if sleep(polite, u.cfg.StopTime/4) {
					cancel()
				}
			case <-polite.Done():
			}
		}()
	}
	err := u.bound.Stop(polite)
	if err == nil {
		return nil
	}
	if polite.Err() == nil {
		u.cfg.Logger.Warn("the unit's stop failed; it is killed", "err", err)
	}
	kill, cancelKill := context.WithTimeout(context.WithoutCancel(ctx), killPatience)
	defer cancelKill()
	return systemd.End(kill, u.bound.Target(), 0)
}
