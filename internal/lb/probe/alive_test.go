package probe

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hactl/hactl/internal/lb/pool"
)

func TestASlowAnswerIsNotAHang(t *testing.T) {
	const timeout = time.Second
	after := func(d time.Duration, r Result) func(context.Context) Result {
		return func(ctx context.Context) Result {
			select {
			case <-time.After(d):
				return r
			case <-ctx.Done():
				return Result{Answer: pool.Silent, Why: "no answer in time"}
			}
		}
	}
	ok, red, gone := Result{Answer: pool.OK}, Result{Answer: pool.Red, Why: "says 401"}, Result{Answer: pool.Gone}
	never := after(time.Hour, ok)
	cases := []struct {
		name         string
		ready, alive func(context.Context) Result
		want         pool.Answer
		wantAsked    bool // alive
	}{
		{"quick", after(10*time.Millisecond, ok), never, pool.OK, false},
		{"slow, but in time", after(900*time.Millisecond, ok), after(0, ok), pool.OK, true},
		{"too slow, alive", never, after(100*time.Millisecond, ok), pool.Red, true},
		{"too slow, alive enough to refuse", never, after(100*time.Millisecond, red), pool.Red, true},
		{"frozen", never, never, pool.Silent, true},
		{"died meanwhile", never, after(0, gone), pool.Silent, true},
		{"says red slowly", after(700*time.Millisecond, red), after(0, ok), pool.Red, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				began := time.Now()
				asked := false
				got := twice(ctx,
					func() Result { return c.ready(ctx) },
					func() Result { asked = true; return c.alive(ctx) })
				if got.Answer != c.want {
					t.Errorf("answer %v (%s), want %v", got.Answer, got.Why, c.want)
				}
				// A prober takes what comes at the deadline for silence.
				if took := time.Since(began); got.Answer != pool.Silent && took >= timeout {
					t.Errorf("took %v, want less than %v", took, timeout)
				}
				cancel()
				synctest.Wait()
				if asked != c.wantAsked {
					t.Errorf("asked whether it lives: %v, want %v", asked, c.wantAsked)
				}
			})
		})
	}
}
