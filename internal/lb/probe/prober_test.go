package probe

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/hactl/hactl/internal/lb/pool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// log keeps what a prober reports, with the time since the start.
type log struct {
	mu    sync.Mutex
	start time.Time
	at    []time.Duration
	r     []Result
}

func (l *log) report(r Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at, l.r = append(l.at, time.Since(l.start)), append(l.r, r)
}

func (l *log) count(a pool.Answer) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.r {
		if r.Answer == a {
			n++
		}
	}
	return n
}

// run probes with check in a bubble for d of its time.
func run(t *testing.T, cfg Config, d time.Duration, during func(*Prober)) *log {
	t.Helper()
	l := &log{start: time.Now()}
	cfg.Report = l.report
	p := New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	if during != nil {
		during(p)
	}
	time.Sleep(d) // the bubble's time
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	return l
}

func TestProbesEveryInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fresh atomic.Int32
		l := run(t, Config{FreshEvery: 10, Check: func(_ context.Context, f bool) Result {
			if f {
				fresh.Add(1)
			}
			return Result{Answer: pool.OK}
		}}, 10*time.Second, nil)
		if n := l.count(pool.OK); n < 20 || n > 23 {
			t.Errorf("%d probes in 10s", n)
		}
		if n := fresh.Load(); n < 2 || n > 3 {
			t.Errorf("%d over a new connection", n)
		}
	})
}

// Many balancers must not ask in step.
func TestIntervalsAreJittered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := run(t, Config{Check: func(context.Context, bool) Result { return Result{Answer: pool.OK} }}, 60*time.Second, nil)
		seen := map[time.Duration]bool{}
		for i := range l.at[1:] {
			d := l.at[i+1] - l.at[i]
			if d < 450*time.Millisecond || d > 500*time.Millisecond {
				t.Errorf("interval %v, want 450 to 500ms", d)
			}
			seen[d.Round(10*time.Millisecond)] = true
		}
		if len(seen) < 4 {
			t.Errorf("all intervals are much the same: %v", seen)
		}
	})
}

// Two silent answers, which eject at the default fall, are there within interval
// plus timeout after the freeze, even for a check that ignores its context.
func TestFrozenIsKnownInTime(t *testing.T) {
	for name, obeys := range map[string]bool{"check obeys its context": true, "check ignores it": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var frozen atomic.Bool
				release := make(chan struct{})
				l := run(t, Config{Check: func(ctx context.Context, _ bool) Result {
					if !frozen.Load() {
						return Result{Answer: pool.OK}
					}
					if obeys {
						<-ctx.Done()
					} else {
						<-release
					}
					return Result{Answer: pool.Silent, Why: "no answer in time"}
				}}, 4*time.Second, func(*Prober) {
					time.Sleep(5001 * time.Millisecond)
					frozen.Store(true)
				})
				close(release)
				first := slices.IndexFunc(l.r, func(r Result) bool { return r.Answer == pool.Silent })
				if first < 0 || l.at[first+1]-5*time.Second > 1510*time.Millisecond {
					t.Fatalf("second silent answer %v after the freeze", l.at[first+1]-5*time.Second)
				}
			})
		})
	}
}

// One slow answer is no freeze: the younger probes were answered.
func TestSlowAnswerCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		l := run(t, Config{Check: func(ctx context.Context, _ bool) Result {
			if n.Add(1) == 4 {
				<-ctx.Done()
				return Result{Answer: pool.Silent}
			}
			return Result{Answer: pool.OK}
		}}, 5*time.Second, nil)
		if got := l.count(pool.Silent); got != 1 {
			t.Errorf("%d silent answers", got)
		}
	})
}

// A backend whose answers take long gets more time, up to a bound, and soon as
// little as before when it is quick again.
func TestTimeoutFollowsSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var given []time.Duration
		var mu sync.Mutex
		took := 400 * time.Millisecond
		run(t, Config{Check: func(ctx context.Context, _ bool) Result {
			deadline, _ := ctx.Deadline()
			mu.Lock()
			given = append(given, time.Until(deadline).Round(100*time.Millisecond))
			d := took
			mu.Unlock()
			time.Sleep(d)
			return Result{Answer: pool.OK}
		}}, 10*time.Second, func(*Prober) {
			time.Sleep(5 * time.Second)
			mu.Lock()
			defer mu.Unlock()
			if last := given[len(given)-1]; given[0] != time.Second || last != 1600*time.Millisecond {
				t.Errorf("time given: first %v, last %v, want 1s and 1.6s", given[0], last)
			}
			took = 10 * time.Millisecond
		})
		if last := given[len(given)-1]; last != time.Second {
			t.Errorf("time given after quick answers: %v", last)
		}
	})
}

func TestKickProbesAtOnceOverANewConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fresh atomic.Int32
		run(t, Config{Every: time.Hour, Check: func(_ context.Context, f bool) Result {
			if f {
				fresh.Add(1)
			}
			return Result{Answer: pool.OK}
		}}, time.Second, func(p *Prober) {
			time.Sleep(time.Second)
			for range 50 { // a storm of hints is one probe in kickPause
				p.Kick()
				time.Sleep(10 * time.Millisecond)
			}
		})
		if n := fresh.Load(); n < 5 || n > 7 {
			t.Errorf("%d probes, want the first one and about five for half a second of kicks", n)
		}
	})
}

func TestSlowLengthensTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		run(t, Config{Check: func(context.Context, bool) Result { n.Add(1); return Result{Answer: pool.Gone} }},
			20*time.Second, func(p *Prober) { p.Slow(4) })
		if got := n.Load(); got < 10 || got > 12 {
			t.Errorf("%d probes in 20s at a quarter of the pace", got)
		}
	})
}

// A prober that was held up itself must not call its backend silent.
func TestOwnStallIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		var calls atomic.Int32
		held := false
		l := &log{start: time.Now()}
		p := New(Config{
			Check: func(ctx context.Context, _ bool) Result {
				if calls.Add(1) == 2 { // on its way when the prober stalls
					<-ctx.Done()
					return Result{Answer: pool.Silent}
				}
				return Result{Answer: pool.OK}
			},
			Report: func(r Result) {
				l.report(r)
				if r.Answer == pool.OK && calls.Load() == 3 && !held {
					held = true
					<-hold // a stopped process: nothing of it goes on
				}
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		time.Sleep(10 * time.Second)
		close(hold)
		time.Sleep(3 * time.Second)
		cancel()
		<-done
		if n := l.count(pool.Silent); n != 0 {
			t.Errorf("%d silent answers blamed on the backend", n)
		}
	})
}
