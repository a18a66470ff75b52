package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/hactl/hactl/internal/backoff"
	"github.com/hactl/hactl/internal/logging"
)

// Policy says how Restarting treats failures. The zero value restarts for ever,
// with the pauses of backoff.Backoff's defaults.
type Policy struct {
	// Backoff gives the pause after the n-th recent failure. Its own count of
	// tries is not used.
	Backoff backoff.Backoff
	// HalfLife is the time in which the count of failures halves; default 30s.
	// Longer remembers a bad time longer: slower restarts after it.
	HalfLife time.Duration
	// GiveUp is the count at which the last error is returned instead of
	// another try. Zero: never.
	GiveUp float64
	Logger *slog.Logger // nil: nothing is logged
}

const defaultHalfLife = 30 * time.Second

// Restarting decorates run so that it is run again after it returned, whatever
// it returned, after a jittered pause that grows with the count of failures and
// shrinks again in quiet times. The result returns nil when ctx ended, run's
// error when that is or wraps ErrDone, and run's last error when Policy.GiveUp
// was reached. Each call of the result counts for itself.
func Restarting(p Policy, run func(ctx context.Context) error) func(ctx context.Context) error {
	log := p.Logger
	if log == nil {
		log = logging.Discard()
	}
	if p.HalfLife <= 0 {
		p.HalfLife = defaultHalfLife
	}
	return func(ctx context.Context) error {
		failures := decaying{halfLife: p.HalfLife}
		for {
			err := run(ctx)
			switch {
			case errors.Is(err, ErrDone):
				return err
			case ctx.Err() != nil:
				if stopped(err) {
					return nil
				}
				return err
			}
			n := failures.add(time.Now())
			if p.GiveUp > 0 && n >= p.GiveUp {
				return fmt.Errorf("gave up after %.1f failures within about %v: %w", n, p.HalfLife, orEnded(err))
			}
			pause := pauseAfter(p.Backoff, n)
			log.Warn("restarting", "took", pause, "failures", n, "err", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// pauseAfter is the pause after the n-th failure, n ≥ 1.
func pauseAfter(b backoff.Backoff, n float64) time.Duration {
	b.Reset()
	for range min(int(math.Round(n)), 64) - 1 {
		b.Next()
	}
	return b.Next()
}

func orEnded(err error) error {
	if err == nil {
		return errors.New("ended without an error")
	}
	return err
}

// decaying is a count that halves every halfLife.
type decaying struct {
	halfLife time.Duration
	count    float64
	at       time.Time
}

// add counts one more at now and returns the count.
func (d *decaying) add(now time.Time) float64 {
	if !d.at.IsZero() {
		d.count *= math.Exp2(-float64(now.Sub(d.at)) / float64(d.halfLife))
	}
	d.at = now
	d.count++
	return d.count
}
