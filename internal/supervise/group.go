package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hactl/hactl/internal/logging"
)

// DefaultStopTimeout is how long a service may take to stop when it says nothing.
const DefaultStopTimeout = 10 * time.Second

// Service is one part of a process.
type Service struct {
	Name string
	// Run works until ctx ends. Returning earlier ends the whole group: with
	// the error, or cleanly with nil. ErrDone lets the others go on.
	Run func(ctx context.Context) error
	// Ready, when not nil, is closed by the service once the next one may start.
	Ready <-chan struct{}
	// StopTimeout is how long Run may take to return after its context ended;
	// default DefaultStopTimeout. A longer one delays the end of the process
	// when something hangs, a shorter one cuts work off.
	StopTimeout time.Duration
}

// Group is an ordered set of services that live and end together.
type Group struct {
	Services []Service    // started first to last, stopped last to first
	Logger   *slog.Logger // nil: nothing is logged
}

// Run starts the services and returns when all have stopped, which begins when
// ctx ends or the first one returns. It returns the first service's error with
// its name, joined with those met while stopping and with a *StuckError for the
// services that did not stop in time. An end by ctx alone is nil.
func (g Group) Run(ctx context.Context) error {
	log := g.Logger
	if log == nil {
		log = logging.Discard()
	}
	r := &running{log: log, ended: make(chan *part, len(g.Services))}
	end, err := r.start(ctx, g.Services)
	for !end && r.live > 0 {
		select {
		case <-ctx.Done():
			end = true
		case p := <-r.ended:
			end, err = r.take(p)
		}
	}
	return errors.Join(err, r.stop())
}

// running is the state of one Run. Only Run's goroutine touches it; the parts
// send themselves to ended.
type running struct {
	log   *slog.Logger
	parts []*part
	live  int // parts whose end was not yet received
	ended chan *part
}

type part struct {
	Service
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid after done is closed
	seen   bool  // err was returned already
}

// start starts each service once the one before it is ready. end is true when
// ctx ended or a service ended the group, with err.
func (r *running) start(ctx context.Context, services []Service) (end bool, err error) {
	for _, s := range services {
		if ctx.Err() != nil {
			return true, nil
		}
		// Not ended by ctx itself: the order of stopping is ours.
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		p := &part{Service: s, cancel: cancel, done: make(chan struct{})}
		r.parts = append(r.parts, p)
		r.live++
		go func() {
			p.err = s.Run(own)
			close(p.done)
			r.ended <- p
		}()
		for ready := s.Ready; ready != nil; {
			select {
			case <-ready:
				ready = nil
			case <-ctx.Done():
				return true, nil
			case e := <-r.ended:
				if end, err := r.take(e); end {
					return true, err
				}
				if e == p {
					ready = nil // done before it was ready: nothing to wait for
				}
			}
		}
	}
	return false, nil
}

// take receives a part that returned before it was told to; end says whether
// that ends the group.
func (r *running) take(p *part) (end bool, err error) {
	r.live--
	p.seen = true
	r.log.Info("service ended", "service", p.Name, "err", p.err)
	switch {
	case errors.Is(p.err, ErrDone):
		return false, nil
	case p.err == nil:
		return true, nil
	default:
		return true, fmt.Errorf("%s: %w", p.Name, p.err)
	}
}

// stop ends the services last to first, each with its time limit.
func (r *running) stop() error {
	var errs []error
	var stuck []string
	for i := len(r.parts) - 1; i >= 0; i-- {
		p := r.parts[i]
		p.cancel()
		limit := p.StopTimeout
		if limit <= 0 {
			limit = DefaultStopTimeout
		}
		timer := time.NewTimer(limit)
		select {
		case <-p.done:
			if !p.seen && !stopped(p.err) && !errors.Is(p.err, ErrDone) {
				errs = append(errs, fmt.Errorf("%s: %w", p.Name, p.err))
			}
		case <-timer.C:
			r.log.Error("service did not stop", "service", p.Name, "took", limit)
			stuck = append(stuck, p.Name)
		}
		timer.Stop()
	}
	if stuck != nil {
		errs = append(errs, &StuckError{Names: stuck})
	}
	return errors.Join(errs...)
}
