package child

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/workload"
)

// Supervisor runs units. It implements workload.Manager for its own process;
// others use a Client.
type Supervisor struct {
	cfg Config
	log *slog.Logger

	reload sync.Mutex // one Reload or stop at a time

	mu      sync.Mutex
	units   []*unit       // in the order of Config.Units
	open    bool          // commands are taken
	quit    chan struct{} // closed by Shutdown
	quitNow func()
	stopped chan struct{} // closed when Run has stopped the units
}

// New checks cfg, all faults at once, and starts nothing.
func New(cfg Config) (*Supervisor, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = logging.Discard()
	}
	s := &Supervisor{cfg: cfg, log: cfg.Logger, quit: make(chan struct{}), stopped: make(chan struct{})}
	s.quitNow = sync.OnceFunc(func() { close(s.quit) })
	for _, spec := range cfg.Units {
		s.units = append(s.units, newUnit(spec, cfg, s.unit))
	}
	return s, nil
}

// unit returns the unit of that name, or nil.
func (s *Supervisor) unit(name string) *unit {
	for _, u := range s.list() {
		if u.name == name {
			return u
		}
	}
	return nil
}

func (s *Supervisor) list() []*unit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*unit(nil), s.units...)
}

// Run starts the units and serves the control socket until ctx ends or Shutdown
// is called, then stops the units. It returns ErrInUse when another supervisor
// has the socket, and an error naming the units that could not be stopped. A
// Supervisor runs once.
func (s *Supervisor) Run(ctx context.Context) error {
	for _, path := range []string{s.cfg.Socket, s.cfg.NotifySocket} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("make folder of %s: %w", path, err)
		}
	}
	unlock, err := lockFile(ctx, s.cfg.Socket+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	for _, path := range []string{s.cfg.Socket, s.cfg.NotifySocket} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by one that was killed
			return fmt.Errorf("remove stale socket: %w", err)
		}
		defer os.Remove(path)
	}
	notify, err := listenNotify(ctx, s.cfg.NotifySocket)
	if err != nil {
		return err
	}
	control, err := listenControl(ctx, s.cfg.Socket)
	if err != nil {
		return errors.Join(err, notify.Close())
	}
	return s.serve(ctx, notify, control)
}

func (s *Supervisor) serve(ctx context.Context, notify *net.UnixConn, control net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer notify.Close()
	wg.Go(func() { readNotify(notify, s.log, s.deliver) })

	s.mu.Lock()
	s.open = true
	s.mu.Unlock()
	s.log.Info("supervisor started", "units", len(s.list()))
	expectAll(s.list())
	for _, u := range s.list() {
		u.begin()
	}
	// Last, so that who gets an answer can also give commands.
	srv := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	wg.Go(func() { served <- srv.Serve(control) })

	var err error
	select {
	case <-ctx.Done():
	case <-s.quit:
	case err = <-served:
		err = fmt.Errorf("serve %s: %w", s.cfg.Socket, err)
	}
	s.mu.Lock()
	s.open = false
	s.mu.Unlock()
	s.log.Info("supervisor stops")
	s.reload.Lock()
	err = errors.Join(err, stopAll(context.WithoutCancel(ctx), s.list()))
	s.reload.Unlock()
	close(s.stopped)

	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if srv.Shutdown(end) != nil { // lets the answer to Shutdown go out
		_ = srv.Close()
	}
	s.log.Info("supervisor stopped", "err", err)
	return err
}

// deliver hands a notification to the unit whose main process sent it.
func (s *Supervisor) deliver(pid int, m message) {
	for _, u := range s.list() {
		if u.hear(pid, m) {
			return
		}
	}
	s.log.Debug("notification ignored: not from a unit's main process", "pid", pid)
}

// command finds the unit for a command and locks it; the caller unlocks it.
func (s *Supervisor) command(ctx context.Context, name string) (*unit, error) {
	u, err := s.find(name)
	if err != nil {
		return nil, err
	}
	if err := u.lock(ctx); err != nil {
		return nil, fmt.Errorf("%s: another command is under way: %w", name, err)
	}
	return u, nil
}

func (s *Supervisor) find(name string) (*unit, error) {
	s.mu.Lock()
	open := s.open
	s.mu.Unlock()
	if !open {
		return nil, ErrStopping
	}
	u := s.unit(name)
	if u == nil {
		return nil, fmt.Errorf("%s: %w", name, workload.ErrNoUnit)
	}
	return u, nil
}

// Units returns the state of every unit, in the order of Config.Units.
func (s *Supervisor) Units(context.Context) ([]workload.State, error) {
	var states []workload.State
	for _, u := range s.list() {
		state, _, _ := u.get()
		states = append(states, state)
	}
	return states, nil
}

// Start starts the unit and waits until it is active. It errs when its process
// ends before; the unit is tried again nevertheless. An active one stays as it is.
func (s *Supervisor) Start(ctx context.Context, name string) error {
	u, err := s.command(ctx, name)
	if err != nil {
		return err
	}
	if !u.wanted() {
		err = u.end(ctx, false) // a stop that nobody waited for
	}
	_, ended, _ := u.get()
	if err == nil {
		u.begin()
	}
	u.unlock()
	if err != nil {
		return err
	}
	return u.awaitActive(ctx, ended)
}

// Stop stops the unit and waits until its processes are gone. It stays stopped
// until Start or Restart.
func (s *Supervisor) Stop(ctx context.Context, name string) error {
	u, err := s.command(ctx, name)
	if err != nil {
		return err
	}
	defer u.unlock()
	return u.end(ctx, false)
}

// Restart stops the unit, by SIGKILL with force, and starts it as Start does.
// When ctx ends before, the unit is started nevertheless: a caller that dies
// must not leave it stopped.
func (s *Supervisor) Restart(ctx context.Context, name string, force bool) error {
	u, err := s.command(ctx, name)
	if err != nil {
		return err
	}
	var before int
	begun := make(chan error, 1)
	go func() { // ends within StopTimeout and killGrace
		defer u.unlock()
		err := u.end(context.WithoutCancel(ctx), force)
		if err == nil {
			_, before, _ = u.get()
			u.set(func(s *workload.State) { s.Restarts++ })
			u.begin()
		}
		begun <- err
	}()
	select {
	case err := <-begun:
		if err != nil {
			return err
		}
		return u.awaitActive(ctx, before)
	case <-ctx.Done():
		return fmt.Errorf("restart %s: still stopping, will start: %w", name, ctx.Err())
	}
}

// Signal sends sig to every process of the unit.
func (s *Supervisor) Signal(_ context.Context, name string, sig syscall.Signal) error {
	u, err := s.find(name)
	if err != nil {
		return err
	}
	return u.signal(sig)
}

// Shutdown makes Run stop all units and return; it waits until they are stopped
// or ctx ends.
func (s *Supervisor) Shutdown(ctx context.Context) error {
	s.quitNow()
	select {
	case <-s.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("shut down: units still stop: %w", ctx.Err())
	}
}

// lockFile takes the lock for the life of this process. One that is just being
// given up is waited for.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, ErrInUse), f.Close())
		}
	}
}
