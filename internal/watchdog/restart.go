package watchdog

import (
	"context"
	"fmt"
	"time"
)

// askPause is how long after a refused permit it is asked for again; the other
// units get their turn meanwhile.
const askPause = 2 * time.Second

// permitTimeout is how long Config.Permit may take.
const permitTimeout = 5 * time.Second

// restart restarts t, for which busy is set, if it is permitted, and awaits the
// result.
func (w *Watchdog) restart(ctx context.Context, t *target) {
	w.mu.Lock()
	why := w.decide(w.cfg.Policy, t.history, time.Now())
	w.mu.Unlock()
	gentle := why.Reason == Leak
	release, err := w.permit(ctx, Ask{Unit: t.Unit, Reason: why.Reason, Gentle: gentle})
	now := time.Now()
	w.mu.Lock()
	if err != nil {
		w.busy, t.askAgain = "", now.Add(askPause)
		w.announce(t, Action{Hold, Refused, err.Error()}, now)
		w.mu.Unlock()
		return
	}
	t.history = t.history.Restarted(w.cfg.Policy, now)
	w.announce(t, Action{Restart, why.Reason, why.Detail}, now)
	w.mu.Unlock()
	w.keep()

	ctx, cancel := context.WithTimeout(ctx, w.cfg.RestartTimeout)
	defer cancel()
	err = w.cfg.Supervisor.Restart(ctx, t.Unit, !gentle)
	if release != nil {
		release()
	}
	took := time.Since(now)
	w.metrics.restarts.WithLabelValues(t.Unit, result(err)).Inc()
	if err != nil {
		w.log.Error("restart by the watchdog", "unit", t.Unit, "took", took, "err", err)
	} else {
		w.log.Info("restarted by the watchdog", "unit", t.Unit, "took", took)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy, t.restarted = "", time.Now()
	d := Decision{At: t.restarted, Unit: t.Unit, Action: Action{Restart, why.Reason, why.Detail}, Done: true, Took: took}
	if err != nil {
		d.Error = err.Error()
	}
	w.tell(d)
}

// permit asks Config.Permit, so that one that hangs has refused. release may be nil.
func (w *Watchdog) permit(ctx context.Context, ask Ask) (release func(), err error) {
	if w.cfg.Permit == nil {
		return nil, nil // nothing to give back
	}
	ctx, cancel := context.WithTimeout(ctx, permitTimeout)
	defer cancel()
	type answer struct {
		release func()
		err     error
	}
	got := make(chan answer, 1)
	go func() {
		release, err := w.cfg.Permit(ctx, ask)
		got <- answer{release, err}
	}()
	select {
	case a := <-got:
		return a.release, a.err
	case <-ctx.Done():
		go func() { // given after all: give it back
			if a := <-got; a.err == nil && a.release != nil {
				a.release()
			}
		}()
		return nil, fmt.Errorf("no answer within %v: %w", permitTimeout, ctx.Err())
	}
}
