package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// renewal is the outcome of one Held.Renew.
type renewal struct {
	sent time.Duration
	took time.Duration
	err  error
}

// reign is the state of a term while it is held. One goroutine, hold, owns it.
type reign struct {
	e        *Elector
	log      *slog.Logger
	held     Held
	term     *Term
	results  chan renewal
	cancel   context.CancelCauseFunc // ends lead's context
	stopping error                   // the cause it was ended with
	told     time.Duration           // when
	thawed   time.Duration           // when a timer last came so late that we must have been frozen
	lost     bool                    // the store says that the term is not ours
	ranOut   bool                    // no renewal came in time
}

// hold leads one term from the moment at which the claim was sent, keeps it
// renewed, and returns when lead has returned (or is stuck).
func (e *Elector) hold(ctx context.Context, held Held, sent time.Duration, lead func(context.Context, *Term) error) error {
	clock := e.cfg.Clock
	term := newTerm(held.Token(), clock, sent+e.cfg.TTL)
	r := &reign{e: e, log: e.cfg.Logger.With("token", held.Token()), held: held, term: term, results: make(chan renewal)}
	if clock.Now() >= e.stopBy(term) {
		r.log.Warn("the lock was taken too late to be used", "took", clock.Now()-sent)
		return r.release(ctx, Release{Reason: "taken too late"}, ErrLost)
	}
	e.status.update(func(s *Status) {
		s.Role, s.Token, s.Renewed, s.Took = Holding, held.Token(), sent, clock.Now()-sent
	})
	r.log.Info("the term begins", "took", clock.Now()-sent)

	// lead's context must not end with ctx by itself: the cause would be wrong.
	leadCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	r.cancel = cancel
	background, stop := context.WithCancel(context.WithoutCancel(ctx)) // of renewals and the watch
	defer stop()
	done := make(chan error, 1)
	go func() { done <- lead(leadCtx, term) }()
	err := r.keep(ctx, background, done)
	stop()
	return r.end(ctx, err)
}

// stopBy is when lead is told to stop unless a renewal comes.
func (e *Elector) stopBy(t *Term) time.Duration {
	d, _ := t.Deadline()
	if e.mutant == noStopMargin {
		return d
	}
	return d - e.cfg.StopTime
}

var errStuckMark = fmt.Errorf("%w", ErrStuck)

// keep renews until lead returns, and tells it to stop when it must. It returns
// lead's error, or ErrStuck when the deadline passed first.
func (r *reign) keep(ctx, background context.Context, done <-chan error) error {
	clock, cfg := r.e.cfg.Clock, r.e.cfg
	changes := r.watch(background)
	next := clock.Now() + cfg.RenewEvery
	ctxDone := ctx.Done()
	for {
		due := r.wake(next)
		fired, stop := clock.At(due)
		select {
		case err := <-done:
			stop()
			return err
		case res := <-r.results:
			r.renewed(res)
		case rec, ok := <-changes:
			if !ok {
				changes = nil // the next renewal that is answered opens it again
			} else {
				r.see(rec)
			}
		case <-ctxDone:
			ctxDone = nil
			r.stop(ErrStopped)
		case <-fired:
		}
		stop()
		now := clock.Now()
		if now-due > cfg.StopTime/2 {
			r.thawed = now
		}
		if now >= r.e.stopBy(r.term) && !r.ranOut {
			r.ranOut = true
			r.stop(fmt.Errorf("%w: no renewal in time", ErrLost))
		}
		if r.stuck(now) {
			return errStuckMark
		}
		if now >= next && !r.lost {
			next = max(next+cfg.RenewEvery, now)
			r.renew(background)
			if changes == nil {
				changes = r.watch(background)
			}
		}
	}
}

// wake is when keep must look again though nothing happens.
func (r *reign) wake(next time.Duration) time.Duration {
	if !r.lost && !r.ranOut {
		return min(next, r.e.stopBy(r.term))
	}
	if r.lost {
		return r.stuckAt()
	}
	return min(next, r.stuckAt())
}

// stuckAt is when lead, which was told to stop, should have returned: by the
// deadline. When we were frozen beyond that ourselves, all that could be too late
// is, and what is awaited is only the news: it gets a TTL.
func (r *reign) stuckAt() time.Duration {
	deadline, _ := r.term.Deadline()
	at := max(deadline, r.told+r.e.cfg.StopTime/2)
	if r.thawed > deadline {
		at = max(at, r.thawed+r.e.cfg.TTL)
	}
	return at
}

func (r *reign) stuck(now time.Duration) bool {
	return (r.lost || r.ranOut) && now >= r.stuckAt()
}

// renew sends one renewal. Renewals overlap when answers are late: whichever is
// answered moves the deadline, counted from its own sending.
func (r *reign) renew(ctx context.Context) {
	cfg := r.e.cfg
	sent := cfg.Clock.Now()
	if r.e.mutant == extendUnanswered {
		r.term.extend(sent + cfg.TTL)
	}
	go func() {
		call, cancel := context.WithTimeout(ctx, cfg.CallTimeout)
		defer cancel()
		err := r.held.Renew(call)
		now := cfg.Clock.Now()
		select {
		case r.results <- renewal{sent: r.e.mutant.sent(sent, cfg.Clock), took: now - sent, err: err}:
		case <-ctx.Done():
		}
	}()
}

func (r *reign) renewed(res renewal) {
	switch {
	case res.err == nil:
		r.term.extend(res.sent + r.e.cfg.TTL)
		r.e.status.update(func(s *Status) {
			if res.sent > s.Renewed {
				s.Renewed, s.Took = res.sent, res.took
			}
		})
		r.e.noteRound(nil)
	case errors.Is(res.err, ErrLost):
		r.lose(res.err)
	case !errors.Is(res.err, context.Canceled):
		r.e.noteRound(fmt.Errorf("renew: %w", res.err))
	}
}

// lose ends the term because the store says so.
func (r *reign) lose(err error) {
	if !r.lost {
		r.lost = true
		r.stop(err)
	}
}

// stop ends lead's context. Being lost overrides a polite reason, which lead may
// be busy with: it must look at Term.Valid, and its dead man's switch does.
func (r *reign) stop(cause error) {
	if r.stopping == nil {
		r.log.Info("the term ends", "reason", cause.Error())
		r.e.status.update(func(s *Status) { s.Role = Stopping })
	}
	if r.stopping == nil || errors.Is(cause, ErrLost) {
		if errors.Is(cause, ErrLost) && !errors.Is(r.stopping, ErrLost) {
			close(r.term.lost)
		}
		r.stopping = cause
		r.told = r.e.cfg.Clock.Now()
	}
	r.cancel(cause)
	if r.e.mutant == releaseFirst {
		_ = r.release(context.Background(), Release{}, nil)
	}
}

// watch follows the record while we hold it: orders come this way, and the news
// that the record was deleted.
func (r *reign) watch(ctx context.Context) <-chan Record {
	s, _ := r.e.Status()
	after := s.Record
	if after.Token != r.term.Token() { // from before our claim, which is all that changed
		after.Rev, after.Token, after.Beat = r.term.Token(), r.term.Token(), r.term.Token()
		after.Ended, after.Release, after.MoveTo = false, Release{}, ""
		after.ID, after.Holder, after.TTL = r.e.id, r.e.cfg.Holder, r.e.cfg.TTL
	}
	return r.e.cfg.Lock.Watch(ctx, after)
}

func (r *reign) see(rec Record) {
	if rec.Rev < r.term.Token() {
		return
	}
	r.e.status.update(func(s *Status) { s.Record = rec })
	switch {
	case rec.Token != r.term.Token() || rec.Ended:
		r.lose(fmt.Errorf("%w: the record is now of token %d", ErrLost, rec.Token))
	case rec.Paused:
		r.stop(paused)
	case rec.MoveTo != "" && rec.MoveTo != r.e.cfg.Holder:
		r.stop(&Yield{To: rec.MoveTo, Reason: "moved"})
	}
}

// end releases the lock, if the work has stopped, and says how the term ended.
func (r *reign) end(ctx context.Context, err error) error {
	if errors.Is(err, errStuckMark) {
		r.log.Error("the work did not stop in time", "err", err)
		return fmt.Errorf("token %d: %w", r.term.Token(), ErrStuck)
	}
	outcome := err
	rel := Release{}
	var yield *Yield
	switch {
	case errors.Is(err, ErrUnconfirmed):
		r.log.Warn("the lock is kept until it expires", "err", err)
		// Not released, it will be lost if it is not yet.
		return fmt.Errorf("%w: %w", ErrLost, err)
	case errors.Is(r.stopping, ErrLost): // whatever lead made of it: there is nothing left to hand over
		outcome = r.stopping
		rel.Reason = "lost"
	case errors.As(err, &yield):
		rel = Release{Next: yield.To, Reason: yield.Reason}
	case errors.As(r.stopping, &yield):
		outcome = yield
		rel = Release{Next: yield.To, Reason: yield.Reason}
	case r.stopping != nil:
		rel.Reason = "stopped"
	case err == nil:
		rel.Reason = "finished"
	}
	if err != nil && rel.Reason == "" {
		rel.Reason = err.Error()
	}
	return r.release(ctx, rel, outcome)
}

// release gives the lock back and returns outcome. When the store does not
// answer, the term expires by itself: that is no error of the term's.
func (r *reign) release(ctx context.Context, rel Release, outcome error) error {
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.e.cfg.CallTimeout)
	defer cancel()
	start := r.e.cfg.Clock.Now()
	if err := r.held.Release(call, rel); err != nil {
		r.log.Warn("the lock could not be released; it will expire", "err", err)
		return outcome
	}
	log := r.log.With("reason", rel.Reason, "next", rel.Next, "took", r.e.cfg.Clock.Now()-start)
	if errors.Is(r.stopping, ErrLost) { // Release is silent about a term that was not ours any more
		log.Info("the lock is given back, unless another one has it already")
	} else {
		log.Info("the lock is released")
	}
	return outcome
}
