package child

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/backoff"
	"github.com/hactl/hactl/internal/process"
	"github.com/hactl/hactl/internal/workload"
)

// unit is one supervised unit: what it should be, what it is, and, while it
// should run, its life.
type unit struct {
	name    string
	log     *slog.Logger
	env     []string // beside the unit's own
	maxLog  int64
	restart backoff.Backoff
	stable  time.Duration
	peer    func(name string) *unit // the other units, for After

	op chan struct{} // held (a token is in it) while life changes

	mu      sync.Mutex
	spec    workload.Unit
	state   workload.State
	changed chan struct{} // closed and replaced when one of the others changed
	life    *life         // nil: stopped
	run     *run          // nil: no process
	ended   int           // processes that ended, and starts that failed
}

// life is the time from a start to a stop, with all the restarts between.
type life struct {
	ctx    context.Context // it is the life: ended by cancel, in the order of stopping
	cancel context.CancelFunc
	force  chan struct{} // closed by end: do not wait for SIGTERM
	done   chan struct{}
}

func newUnit(spec workload.Unit, cfg Config, peer func(string) *unit) *unit {
	return &unit{
		name:    spec.Name,
		log:     cfg.Logger.With("unit", spec.Name),
		maxLog:  cfg.MaxLog,
		restart: cfg.Restart,
		stable:  cfg.Stable,
		env:     []string{"NOTIFY_SOCKET=" + cfg.NotifySocket},
		peer:    peer,
		op:      make(chan struct{}, 1),
		spec:    spec,
		state:   workload.State{Name: spec.Name, Active: workload.Inactive, Since: time.Now()},
		changed: make(chan struct{}),
	}
}

// get returns the state, how many processes have ended, and a channel that is
// closed when either changes.
func (u *unit) get() (workload.State, int, <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.state, u.ended, u.changed
}

// set changes the state. Active's time is kept when Active does not change.
func (u *unit) set(change func(*workload.State)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.setLocked(change)
}

func (u *unit) setLocked(change func(*workload.State)) {
	before := u.state
	change(&u.state)
	if u.state == before {
		return
	}
	if u.state.Active != before.Active {
		u.state.Since = time.Now()
		u.log.Info("unit state", "active", u.state.Active, "pid", u.state.MainPID)
	}
	u.announce()
}

// announce wakes all who wait for a change. The caller holds mu.
func (u *unit) announce() {
	close(u.changed)
	u.changed = make(chan struct{})
}

// lock begins a command; unlock ends it.
func (u *unit) lock(ctx context.Context) error {
	select {
	case u.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (u *unit) unlock() { <-u.op }

// begin starts a life if there is none. The caller holds the lock.
func (u *unit) begin() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.life != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &life{ctx: ctx, cancel: cancel, force: make(chan struct{}), done: make(chan struct{})}
	u.life = l
	u.setLocked(func(s *workload.State) { s.Active, s.Status = workload.Activating, "" })
	go func() {
		defer close(l.done)
		defer cancel()
		u.live(l)
	}()
}

// expectAll shows units as starting. It comes before the first of them begins,
// which then waits for those that it comes after instead of taking them for
// stopped.
func expectAll(units []*unit) {
	for _, u := range units {
		u.mu.Lock()
		if u.life == nil {
			u.setLocked(func(s *workload.State) { s.Active, s.Status = workload.Activating, "" })
		}
		u.mu.Unlock()
	}
}

// wanted reports whether the unit has a life that nobody ended.
func (u *unit) wanted() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.life != nil && u.life.ctx.Err() == nil
}

// end stops the unit's life and waits until its processes are gone, ctx ends
// (the stopping goes on) or they cannot be killed. With force the processes get
// SIGKILL at once. The caller holds the lock.
func (u *unit) end(ctx context.Context, force bool) error {
	u.mu.Lock()
	l := u.life
	u.mu.Unlock()
	if l == nil {
		return nil
	}
	if force && !isClosed(l.force) {
		close(l.force)
	}
	l.cancel()
	for {
		s, _, changed := u.get()
		if isClosed(l.done) {
			u.mu.Lock()
			u.life = nil
			u.mu.Unlock()
			return nil
		}
		if s.Active == workload.Failed {
			return fmt.Errorf("stop %s: pid %d %w", s.Name, s.MainPID, ErrUnkillable)
		}
		select {
		case <-l.done:
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("stop %s: %w", s.Name, ctx.Err())
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// awaitActive waits until the unit is active. It errs when a process ended
// after before had ended already, and when the unit was stopped.
func (u *unit) awaitActive(ctx context.Context, before int) error {
	for {
		s, ended, changed := u.get()
		switch {
		case s.Active == workload.Active:
			return nil
		case ended > before:
			return fmt.Errorf("start %s: %s%s (it is tried again)", s.Name, s.LastExit, u.logHint())
		case s.Active == workload.Inactive:
			return fmt.Errorf("start %s: stopped meanwhile", s.Name)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("start %s: still %s: %w", s.Name, s.Active, ctx.Err())
		}
	}
}

func (u *unit) logHint() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.spec.LogFile == "" {
		return ""
	}
	return ", see " + u.spec.LogFile
}

// live runs processes, one after the other, until the life ends.
func (u *unit) live(l *life) {
	u.awaitOrder(l.ctx)
	pauses := u.restart
	for l.ctx.Err() == nil {
		began := time.Now()
		exit := u.runOnce(l)
		if l.ctx.Err() != nil {
			break
		}
		if time.Since(began) >= u.stable {
			pauses.Reset()
		}
		pause := pauses.Next()
		u.log.Warn("unit ended, will restart", "err", exit, "pause", pause.Round(time.Millisecond))
		u.set(func(s *workload.State) {
			s.Active, s.Status = workload.Activating, fmt.Sprintf("ended (%s), starts again in %v", exit, pause.Round(time.Millisecond))
		})
		select {
		case <-time.After(pause):
			u.set(func(s *workload.State) { s.Restarts++ })
		case <-l.ctx.Done():
		}
	}
	u.set(func(s *workload.State) { s.Active, s.Status = workload.Inactive, "" })
}

// awaitOrder waits for the units named in After, each until it is active or
// stopped, all together not longer than AfterTimeout.
func (u *unit) awaitOrder(ctx context.Context) {
	u.mu.Lock()
	after, limit := u.spec.After, u.spec.AfterTimeout
	u.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, name := range after {
		for p := u.peer(name); p != nil; {
			s, _, changed := p.get()
			if s.Active == workload.Active || s.Active == workload.Inactive {
				break
			}
			u.set(func(s *workload.State) { s.Status = "waits for " + name })
			select {
			case <-changed:
				continue
			case <-ctx.Done():
			}
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				u.log.Warn("starts without the one before it", "after", name, "took", limit)
			}
			return
		}
	}
}

// signal sends sig to every process of the unit.
func (u *unit) signal(sig syscall.Signal) error {
	u.mu.Lock()
	r := u.run
	u.mu.Unlock()
	if r == nil {
		return fmt.Errorf("%s: %w", u.name, workload.ErrNotRunning)
	}
	if err := r.proc.SignalTree(sig); err != nil {
		return fmt.Errorf("signal %s: %w", u.name, err)
	}
	return nil
}

// hear takes a notification if pid is the unit's main process; it reports
// whether it is.
func (u *unit) hear(pid int, m message) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.run
	if r == nil || r.proc.PID() != pid {
		return false
	}
	r.hear(m)
	u.setLocked(func(s *workload.State) {
		if m.status != nil {
			s.Status = *m.status
		}
		switch {
		case m.stopping && s.Active != workload.Failed:
			s.Active = workload.Deactivating
		case m.ready && s.Active == workload.Activating:
			s.Active = workload.Active
		}
	})
	return true
}

// environ is the whole environment of the unit's processes.
func environ(spec workload.Unit, own []string, getenv func(string) string) []string {
	path := getenv("PATH")
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	env := append([]string{"PATH=" + path}, spec.Env...)
	if spec.Notify || spec.WatchdogSec > 0 {
		env = append(env, own...)
	}
	if spec.WatchdogSec > 0 {
		env = append(env, fmt.Sprintf("WATCHDOG_USEC=%d", spec.WatchdogSec.Microseconds()))
	}
	return env
}

// exitOf is why a process ended: the supervisor's own reason first.
func exitOf(reason string, e process.Exit) string {
	switch {
	case reason == "":
		return e.String()
	case strings.HasPrefix(reason, "watchdog"):
		return reason
	default:
		return reason + ": " + e.String()
	}
}
