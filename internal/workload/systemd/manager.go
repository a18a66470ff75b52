package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/workload"
)

// ErrNoSystemd is returned when systemd cannot be reached.
var ErrNoSystemd = errors.New("systemd does not answer")

// Config says which units a Manager steers.
type Config struct {
	Units  []string     // names without ".service", in the order of Units' answer
	Logger *slog.Logger // nil: nothing is logged
}

// Manager steers units of this host over D-Bus. It implements
// workload.Manager. It needs root.
//
// While Run follows systemd's signals, Units answers from memory and asks only for
// what changed; without it, it asks for everything each time.
//
// State.Restarts is systemd's NRestarts: automatic ones since the last start by
// command; systemd counts one twice when it is told to reload its units just
// between the end of a process and the next start. State.LastExit outlives the next start only while Run follows
// systemd's signals, since systemd itself forgets it.
type Manager struct {
	units []string
	log   *slog.Logger

	mu      sync.Mutex
	conn    *dbus.Conn
	last    map[string]string // unit → why its last process ended
	known   memory
	changed chan struct{} // closed and replaced when a unit changed
}

// New returns a Manager; it connects at the first call.
func New(cfg Config) (*Manager, error) {
	if cfg.Logger == nil {
		cfg.Logger = logging.Discard()
	}
	m := &Manager{units: cfg.Units, log: cfg.Logger, last: map[string]string{}, changed: make(chan struct{})}
	for _, u := range cfg.Units {
		if !unitName.MatchString(u) {
			return nil, fmt.Errorf("unit %q: not a unit's name", u)
		}
	}
	return m, nil
}

// Close ends the connection to systemd; a later call opens a new one.
func (m *Manager) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		m.conn.Close()
		m.conn = nil
	}
}

// bus returns a connection that works.
func (m *Manager) bus(ctx context.Context) (*dbus.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil && m.conn.Connected() {
		return m.conn, nil
	}
	if m.conn != nil {
		m.conn.Close()
		m.conn = nil
	}
	// The message bus first; root reaches systemd without one too, so that a host
	// that has lost it can be healed.
	conn, err := connect(ctx, dbus.NewSystemConnectionContext)
	if err != nil {
		var direct error
		if conn, direct = connect(ctx, dbus.NewSystemdConnectionContext); direct != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoSystemd, errors.Join(err, direct))
		}
	}
	m.conn = conn
	return conn, nil
}

// connectTimeout is how long a connection may take to be made.
const connectTimeout = 5 * time.Second

// connect dials, bounded in time also where dial itself is not.
func connect(ctx context.Context, dial func(context.Context) (*dbus.Conn, error)) (*dbus.Conn, error) {
	type answer struct {
		conn *dbus.Conn
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		conn, err := dial(context.WithoutCancel(ctx)) // it outlives this call
		got <- answer{conn, err}
	}()
	select {
	case a := <-got:
		return a.conn, a.err
	case <-time.After(connectTimeout):
	case <-ctx.Done():
	}
	go func() {
		if a := <-got; a.conn != nil {
			a.conn.Close()
		}
	}()
	return nil, fmt.Errorf("connect: no answer: %w", context.DeadlineExceeded)
}

// Units returns the state of every unit.
func (m *Manager) Units(ctx context.Context) ([]workload.State, error) {
	states := make([]workload.State, 0, len(m.units))
	for _, u := range m.units {
		m.mu.Lock()
		s, seen, ok := m.known.recall(u, time.Now())
		m.mu.Unlock()
		if ok {
			states = append(states, s)
			continue
		}
		conn, err := m.bus(ctx)
		if err != nil {
			return nil, err
		}
		s, err = m.state(ctx, conn, u)
		if err != nil && !errors.Is(err, workload.ErrNoUnit) {
			return nil, err
		}
		m.mu.Lock()
		m.known.keep(s, seen, time.Now())
		m.mu.Unlock()
		states = append(states, s)
	}
	return states, nil
}

// state asks for one unit; with ErrNoUnit the state says inactive.
func (m *Manager) state(ctx context.Context, conn *dbus.Conn, unit string) (workload.State, error) {
	props, err := conn.GetAllPropertiesContext(ctx, FileName(unit))
	if err != nil {
		return workload.State{}, fmt.Errorf("ask for %s: %w", unit, err)
	}
	s := stateOf(unit, props)
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.LastExit == "" {
		s.LastExit = m.last[unit]
	}
	if load, _ := props["LoadState"].(string); load == "not-found" {
		s.Status = "not installed"
		return s, fmt.Errorf("%s: %w", unit, workload.ErrNoUnit)
	}
	return s, nil
}

// Start starts the unit and returns when it is active.
func (m *Manager) Start(ctx context.Context, unit string) error {
	return m.job(ctx, "start", unit, func(c *dbus.Conn, ch chan<- string) error {
		_, err := c.StartUnitContext(ctx, FileName(unit), "replace", ch)
		return err
	})
}

// Stop stops the unit and returns when its processes are gone.
func (m *Manager) Stop(ctx context.Context, unit string) error {
	err := m.job(ctx, "stop", unit, func(c *dbus.Conn, ch chan<- string) error {
		_, err := c.StopUnitContext(ctx, FileName(unit), "replace", ch)
		return err
	})
	if err != nil {
		return err
	}
	return m.forgive(ctx, unit) // stopped by SIGKILL is stopped all the same
}

// Restart stops the unit, with force by SIGKILL, and starts it; it returns when
// it is active.
func (m *Manager) Restart(ctx context.Context, unit string, force bool) error {
	return m.job(ctx, "restart", unit, func(c *dbus.Conn, ch chan<- string) error {
		_, err := c.RestartUnitContext(ctx, FileName(unit), "replace", ch)
		if err != nil || !force {
			return err
		}
		// The job has sent SIGTERM, which a hung process does not heed.
		err = c.KillUnitWithTarget(ctx, FileName(unit), dbus.All, int32(syscall.SIGKILL))
		if err != nil {
			m.log.Debug("nothing left to kill", "unit", unit, "err", err)
		}
		return nil
	})
}

// Signal sends sig to every process of the unit.
func (m *Manager) Signal(ctx context.Context, unit string, sig syscall.Signal) error {
	conn, s, err := m.find(ctx, unit)
	if err != nil {
		return err
	}
	if s.MainPID == 0 {
		return fmt.Errorf("%s: %w", unit, workload.ErrNotRunning)
	}
	defer m.touched(unit)
	if err := conn.KillUnitWithTarget(ctx, FileName(unit), dbus.All, int32(sig)); err != nil {
		return fmt.Errorf("signal %s: %w", unit, err)
	}
	return nil
}

// find returns the state of a unit that exists.
func (m *Manager) find(ctx context.Context, unit string) (*dbus.Conn, workload.State, error) {
	if !unitName.MatchString(unit) {
		return nil, workload.State{}, fmt.Errorf("%s: %w", unit, workload.ErrNoUnit)
	}
	conn, err := m.bus(ctx)
	if err != nil {
		return nil, workload.State{}, err
	}
	s, err := m.state(ctx, conn, unit)
	return conn, s, err
}

// forgive takes a unit out of the state failed, in which the start limit of
// foreign drop-ins may hold it.
func (m *Manager) forgive(ctx context.Context, unit string) error {
	conn, s, err := m.find(ctx, unit)
	if err != nil || s.Active != workload.Failed {
		return err
	}
	if err := conn.ResetFailedUnitContext(ctx, FileName(unit)); err != nil {
		return fmt.Errorf("reset %s: %w", unit, err)
	}
	return nil
}

// job queues a job and awaits its result.
func (m *Manager) job(ctx context.Context, what, unit string, queue func(*dbus.Conn, chan<- string) error) error {
	if err := m.forgive(ctx, unit); err != nil {
		return err
	}
	conn, err := m.bus(ctx)
	if err != nil {
		return err
	}
	defer m.touched(unit) // its signals may come later than the job's result
	result := make(chan string, 1)
	if err := queue(conn, result); err != nil {
		return fmt.Errorf("%s %s: %w", what, unit, err)
	}
	for {
		select {
		case r := <-result:
			return m.verdict(ctx, what, unit, r)
		case <-time.After(time.Second):
			if !conn.Connected() {
				return fmt.Errorf("%s %s: the result is not known: %w", what, unit, ErrNoSystemd)
			}
		case <-ctx.Done():
			return fmt.Errorf("%s %s: no result yet: %w", what, unit, ctx.Err())
		}
	}
}

// verdict makes an error of a job's result that is not a good one.
func (m *Manager) verdict(ctx context.Context, what, unit, result string) error {
	if result == "done" || result == "skipped" {
		return nil
	}
	_, s, err := m.find(ctx, unit)
	why := []string{"job " + result}
	if err == nil && s.LastExit != "" {
		why = append(why, s.LastExit)
	}
	return fmt.Errorf("%s %s: %s; see journalctl -u %s", what, unit, strings.Join(why, ", "), FileName(unit))
}
