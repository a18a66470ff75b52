package singleton

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/logging"
)

// Work is what runs while the lock is held: a command, a unit, or a manifest.
type Work interface {
	// Lead runs it for one term; see lease.Elector.Run.
	Lead(ctx context.Context, term *lease.Term) error
}

// cleaner is Work that an earlier podmaster may have left behind.
type cleaner interface {
	// Clean takes it away, or says with lease.ErrUnconfirmed that it may still run.
	// Any other error ends the runtime before it campaigns.
	Clean(ctx context.Context) error
}

// Config joins one singleton's parts.
type Config struct {
	Client    *etcdlock.Client
	Candidate etcdlock.Candidate // Name is required
	Elector   *lease.Elector
	Lock      *etcdlock.Lock
	Work      Work
	Notifier  *Notifier // nil: none
	Gate      *Gate     // nil: none; its owner closes it
	Spread    *Spread   // whose Delay the elector uses; nil: it uses none
	// PreferAfter is how old a term must be before it is handed over to a candidate
	// with a higher priority. 0: it needs not be old; see DefaultPreferAfter.
	PreferAfter time.Duration
	// StartTimeout is how long etcd may take to answer at the start. Default 10s.
	StartTimeout time.Duration
	// Alive tells whether the process that a candidate's entry names still lives
	// on this host; it decides whether a name is free. nil: assume so.
	Alive  func(etcdlock.Candidate) bool
	Logger *slog.Logger
}

// Runtime runs one singleton.
type Runtime struct {
	cfg      Config
	finished atomic.Bool
}

// New starts nothing.
func New(cfg Config) (*Runtime, error) {
	if cfg.Client == nil || cfg.Elector == nil || cfg.Lock == nil || cfg.Work == nil || cfg.Candidate.Name == "" {
		return nil, errors.New("singleton: client, lock, elector, work and the candidate's name are required")
	}
	if cfg.Spread == nil {
		cfg.Spread = NewSpread(cfg.Client, cfg.Lock, cfg.Candidate.Name)
	}
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = logging.Discard()
	}
	return &Runtime{cfg: cfg}, nil
}

// ErrUnreachable is wrapped by Run's error when etcd did not answer at the start.
var ErrUnreachable = errors.New("etcd cannot be used")

// Run enlists the candidate and campaigns; see lease.Elector.Run for what it
// returns. A name that is taken, or an etcd that does not answer, is an error
// before anything is started.
func (r *Runtime) Run(ctx context.Context) error {
	start, cancel := context.WithTimeout(ctx, r.cfg.StartTimeout)
	defer cancel()
	if err := r.check(start); err != nil {
		return err
	}
	enlist, cancelEnlist := context.WithTimeout(ctx, r.cfg.StartTimeout+20*time.Second)
	presence, err := r.cfg.Lock.Enlist(enlist, r.cfg.Candidate, r.cfg.Alive)
	cancelEnlist()
	if err != nil {
		var taken *etcdlock.NameTakenError
		switch {
		case ctx.Err() != nil:
			return nil // stopped before it began
		case errors.As(err, &taken):
			return err
		}
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if err := r.clean(ctx); err != nil {
		r.withdraw(ctx, presence)
		return err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.companions(background, presence)
	}()
	err = r.cfg.Elector.Run(ctx, r.lead)
	stop()
	<-ended
	r.withdraw(ctx, presence)
	return err
}

// clean takes away what an earlier podmaster left on this host.
func (r *Runtime) clean(ctx context.Context) error {
	w, ok := r.cfg.Work.(cleaner)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.StartTimeout)
	defer cancel()
	err := w.Clean(ctx)
	if errors.Is(err, lease.ErrUnconfirmed) {
		// The lock is another's, or our own earlier term's: then it is waited for.
		r.cfg.Logger.Warn("what an earlier podmaster started here may still run", "err", err)
		return nil
	}
	return err
}

func (r *Runtime) withdraw(ctx context.Context, presence *etcdlock.Presence) {
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := presence.Withdraw(bye); err != nil {
		r.cfg.Logger.Warn("the candidate's entry is left to expire", "err", err)
	}
}

// check waits until etcd answers. What waiting does not mend is not waited for. Who
// mistyped an address is told so soon, and once: the first try is a short one.
func (r *Runtime) check(ctx context.Context) error {
	limit := 1500 * time.Millisecond
	for first := true; ; first, limit = false, r.cfg.StartTimeout {
		call, cancel := context.WithTimeout(ctx, limit)
		err := r.cfg.Client.Check(call)
		cancel()
		if err == nil {
			return nil
		}
		if etcdlock.Refused(err) {
			return fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		if first {
			r.cfg.Logger.Warn("etcd does not answer yet", "endpoints", strings.Join(r.cfg.Client.Endpoints(), ","), "err", err)
		}
		if !sleep(ctx, 250*time.Millisecond) {
			return fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
	}
}

// companions run beside the elector until ctx ends. None of them may end a term.
func (r *Runtime) companions(ctx context.Context, presence *etcdlock.Presence) {
	parts := []func(){func() {
		if err := presence.Run(ctx); err != nil {
			r.cfg.Logger.Error("this candidate is not listed any more", "err", err)
		}
	}}
	parts = append(parts, func() { r.prefer(ctx, presence) })
	if r.cfg.Notifier != nil {
		parts = append(parts, func() { r.cfg.Notifier.Run(ctx) })
	}
	done := make(chan struct{})
	for _, part := range parts {
		go func() { part(); done <- struct{}{} }()
	}
	for range parts {
		<-done
	}
}

func (r *Runtime) lead(ctx context.Context, term *lease.Term) error {
	if r.cfg.Gate != nil {
		r.cfg.Gate.Open(term)
		defer r.cfg.Gate.Shut()
	}
	err := r.cfg.Work.Lead(ctx, term)
	r.finished.Store(err == nil && (ctx.Err() == nil || errors.Is(context.Cause(ctx), lease.ErrStopped)))
	return err
}

// Finished reports, after Run, whether one-shot work ran and ended with success: Run
// also returns nil when it was stopped while another one held the lock.
func (r *Runtime) Finished() bool { return r.finished.Load() }
