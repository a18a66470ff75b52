package singleton

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hactl/hactl/internal/backoff"
	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/process"
)

// policy is what follows an end of the work: a start in place after a pause, a
// hand-over when the crash budget is used up, or with oneShot the term's end.
type policy struct {
	oneShot bool
	budget  int
	window  time.Duration
	clock   lease.Clock
	log     *slog.Logger
}

// ending is how one run of the work ended.
type ending struct {
	process.Exit
	why string // set when we ended it, or it could not start
}

func (e ending) String() string {
	if e.why != "" {
		return e.why
	}
	return e.Exit.String()
}

// OK reports whether the work ended by itself with success.
func (e ending) OK() bool { return e.why == "" && e.Exit.OK() }

// lead calls once again and again for one term. One-shot work that a stop ended
// returns how it ended: whoever waits for it must know whether it was done.
func (p policy) lead(ctx context.Context, term *lease.Term, what string, once func(context.Context, *lease.Term) (ending, error)) error {
	crashes := budget{limit: p.budget, window: p.window}
	pause := backoff.Backoff{Base: DefaultRestartPause, Max: 10 * time.Second}
	log := p.log.With("token", term.Token())
	for {
		start := p.clock.Now()
		end, err := once(ctx, term)
		if err != nil {
			return err
		}
		stopped := ctx.Err() != nil
		switch {
		case stopped && (!p.oneShot || !errors.Is(context.Cause(ctx), lease.ErrStopped)):
			return nil
		case p.oneShot && (end.OK() || stopped && end.Exit.OK()):
			return nil
		case p.oneShot:
			return &ExitError{Exit: end.Exit, Why: end.why}
		}
		now := p.clock.Now()
		if now-start > p.window {
			pause.Reset()
		}
		if crashes.spend(now) {
			log.Warn("the crash budget is used up: the term is handed over", "work", what, "how", end.String(), "ends", crashes.used(), "within", p.window)
			return &lease.Yield{Reason: fmt.Sprintf("crashed: %d ends within %v, the last one: %s", crashes.used(), p.window, end)}
		}
		wait := pause.Next()
		if term.Valid() {
			log.Warn("the work ended and is restarted", "work", what, "how", end.String(), "pause", wait)
		} else { // frozen beyond the deadline, we may come here before the elector has noticed
			log.Warn("the work ended with its term", "work", what, "how", end.String())
		}
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// ExitError is the end of one-shot work other than with success.
type ExitError struct {
	Exit process.Exit
	Why  string // when the exit says too little
}

func (e *ExitError) Error() string {
	if e.Why != "" {
		return "the work ended: " + e.Why
	}
	return "the work ended: " + e.Exit.String()
}

// sleep waits for d and reports whether ctx still stands.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
