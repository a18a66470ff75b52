package supervise

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hactl/hactl/internal/backoff"
)

var plain = backoff.Backoff{Base: 100 * time.Millisecond, Max: time.Second, Jitter: -1}

// pauses runs Restarting for total over a run that fails after each of ups (the
// last one again and again), and returns the pauses between one end and the next start.
func pauses(t *testing.T, p Policy, total time.Duration, ups ...time.Duration) []time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), total)
	defer cancel()
	var got []time.Duration
	var ended time.Time
	n := 0
	err := Restarting(p, func(ctx context.Context) error {
		if !ended.IsZero() {
			got = append(got, time.Since(ended).Round(time.Millisecond))
		}
		up := ups[min(n, len(ups)-1)]
		n++
		select {
		case <-time.After(up):
		case <-ctx.Done():
			return ctx.Err()
		}
		ended = time.Now()
		return errBroken
	})(ctx)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Restarting = %v", err)
	}
	return got
}

func TestPausesGrowInACrashLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := pauses(t, Policy{Backoff: plain, HalfLife: time.Hour}, 10*time.Second, 0)
		want := []time.Duration{100, 200, 400, 800, 1000, 1000}
		for i, w := range want {
			if got[i] != w*time.Millisecond {
				t.Fatalf("pauses %v, want %v ms first", got, want)
			}
		}
	})
}

func TestPausesShrinkAfterAQuietTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := pauses(t, Policy{Backoff: plain, HalfLife: 10 * time.Second}, 5*time.Minute, 0, 0, 0, 0, 2*time.Minute, time.Hour)
		want := []time.Duration{100, 200, 400, 800, 100}
		for i, w := range want {
			if got[i] != w*time.Millisecond {
				t.Fatalf("pauses %v, want %v ms", got, want)
			}
		}
	})
}

func TestRestartingEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, at := range []time.Duration{50 * time.Millisecond, 150 * time.Millisecond} { // in a run, in a pause
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(at, cancel)
			began := time.Now()
			err := Restarting(Policy{Backoff: plain}, func(ctx context.Context) error {
				select {
				case <-time.After(100 * time.Millisecond):
					return errBroken
				case <-ctx.Done():
					return ctx.Err()
				}
			})(ctx)
			if err != nil || time.Since(began) != at {
				t.Errorf("ended at %v with %v, want %v and nil", time.Since(began), err, at)
			}
		}
	})
}

func TestRestartingKeepsAnErrorOfStopping(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := Restarting(Policy{}, func(context.Context) error { cancel(); return errBroken })(ctx)
	if !errors.Is(err, errBroken) {
		t.Errorf("Restarting = %v, want errBroken", err)
	}
}

func TestRestartingStopsAtDone(t *testing.T) {
	runs := 0
	err := Restarting(Policy{}, func(context.Context) error {
		runs++
		return fmt.Errorf("job finished: %w", ErrDone)
	})(t.Context())
	if !errors.Is(err, ErrDone) || runs != 1 {
		t.Errorf("Restarting = %v after %d runs, want ErrDone after 1", err, runs)
	}
}

func TestRestartingGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		run := Restarting(Policy{Backoff: plain, GiveUp: 2.5}, func(context.Context) error {
			runs++
			if runs == 1 {
				return nil // an end without an error counts too
			}
			return errBroken
		})
		if err := run(t.Context()); !errors.Is(err, errBroken) || runs != 3 {
			t.Errorf("Restarting = %v after %d runs, want errBroken after 3", err, runs)
		}
		runs = 1
		if err := run(t.Context()); !errors.Is(err, errBroken) || runs != 4 {
			t.Errorf("second call: %v after %d runs; the count must be its own", err, runs)
		}
	})
}

func TestRestartingDoesNotGiveUpOnRareFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := pauses(t, Policy{Backoff: plain, HalfLife: time.Second, GiveUp: 2}, time.Hour, time.Minute)
		if len(got) < 50 {
			t.Errorf("restarted %d times in an hour of failures a minute apart, want all", len(got))
		}
	})
}

func TestDecaying(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	d := decaying{halfLife: time.Minute}
	for i, step := range []struct {
		after time.Duration
		want  float64
	}{{0, 1}, {0, 2}, {time.Minute, 2}, {time.Minute, 2}, {2 * time.Minute, 1.5}, {time.Hour, 1}} {
		now = now.Add(step.after)
		if got := d.add(now); got < step.want-1e-6 || got > step.want+1e-6 {
			t.Errorf("step %d: count %v, want %v", i, got, step.want)
		}
	}
}
