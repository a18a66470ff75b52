package lease_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/leasetest"
)

// bubbleClock is a Clock on the bubble's time.
type bubbleClock struct{ start time.Time }

func (c bubbleClock) Now() time.Duration { return time.Since(c.start) }

func (c bubbleClock) At(t time.Duration) (<-chan struct{}, func()) {
	fired := make(chan struct{})
	timer := time.AfterFunc(t-c.Now(), func() { close(fired) })
	return fired, func() { timer.Stop() }
}

// bench has electors on one lock, and keeps a diary of their leads.
type bench struct {
	t     *testing.T
	mem   leasetest.Memory
	clock bubbleClock
	mu    sync.Mutex
	diary []string
	wg    sync.WaitGroup
	ctx   context.Context
}

func inBubble(t *testing.T, f func(b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := &bench{t: t, clock: bubbleClock{time.Now()}, ctx: ctx}
		f(b)
		cancel()
		b.wg.Wait()
	})
}

func (b *bench) write(line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.diary = append(b.diary, line)
}

func (b *bench) wantDiary(want ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.diary, want) {
		b.t.Errorf("diary %q, want %q", b.diary, want)
	}
}

func (b *bench) elector(name string, edit func(*lease.Config)) *lease.Elector {
	b.t.Helper()
	cfg := lease.Config{Lock: &b.mem, Holder: name, Clock: b.clock}
	if edit != nil {
		edit(&cfg)
	}
	e, err := lease.New(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

// run runs an elector whose work stops at once; it returns Run's error and its stop.
func (b *bench) run(name string, e *lease.Elector, lead func(context.Context, *lease.Term) error) (stop func(), result chan error) {
	ctx, cancel := context.WithCancel(b.ctx)
	result = make(chan error, 1)
	if lead == nil {
		lead = func(ctx context.Context, _ *lease.Term) error { <-ctx.Done(); return nil }
	}
	b.wg.Go(func() {
		result <- e.Run(ctx, func(ctx context.Context, term *lease.Term) error {
			b.write(name + " begins")
			err := lead(ctx, term)
			b.write(name + " ends")
			return err
		})
	})
	return cancel, result
}

func TestHandOverOnStop(t *testing.T) {
	inBubble(t, func(b *bench) {
		stop1, res1 := b.run("m1", b.elector("m1", nil), nil)
		synctest.Wait()
		b.run("m2", b.elector("m2", nil), nil)
		time.Sleep(30 * time.Second)
		b.wantDiary("m1 begins")
		before := b.clock.Now()
		stop1()
		if err := <-res1; err != nil {
			t.Errorf("run: %v", err)
		}
		synctest.Wait()
		b.wantDiary("m1 begins", "m1 ends", "m2 begins")
		if took := b.clock.Now() - before; took > 0 {
			t.Errorf("a clean hand-over took %v", took)
		}
	})
}

// Who leaves a free lock to others does so once, and takes it when none of them did;
// a lock that was released to it is not left to anybody.
func TestDelay(t *testing.T) {
	inBubble(t, func(b *bench) {
		type call struct {
			at    time.Duration
			ended bool
		}
		var asked []call
		late := func(c *lease.Config) {
			c.Delay = func(_ context.Context, rec lease.Record) time.Duration {
				asked = append(asked, call{b.clock.Now(), rec.Ended})
				time.Sleep(50 * time.Millisecond) // counts
				return 300 * time.Millisecond
			}
		}
		stop1, _ := b.run("m1", b.elector("m1", nil), nil)
		synctest.Wait()
		begins := make(chan time.Duration, 3)
		b.run("m2", b.elector("m2", late), func(ctx context.Context, _ *lease.Term) error {
			begins <- b.clock.Now()
			<-ctx.Done()
			return nil
		})
		time.Sleep(30 * time.Second)
		free := b.clock.Now()
		stop1()
		if took := <-begins - free; took != 300*time.Millisecond {
			t.Errorf("m2 left it to others for %v", took)
		}
		if want := []call{{free, true}}; !slices.Equal(asked, want) {
			t.Errorf("m2 asked %v, want %v", asked, want)
		}
		b.run("m1", b.elector("m1", nil), nil)
		time.Sleep(time.Second)
		b.mem.Move("m1")
		time.Sleep(time.Second)
		free = b.clock.Now()
		b.mem.Move("m2")
		if took := <-begins - free; took != 0 || len(asked) != 1 {
			t.Errorf("an ordered hand-over took %v, and others were thought of %d times", took, len(asked)-1)
		}
	})
}

func TestRenewalsGoOnDuringAPoliteStop(t *testing.T) {
	inBubble(t, func(b *bench) {
		stop1, _ := b.run("m1", b.elector("m1", nil), func(ctx context.Context, term *lease.Term) error {
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), lease.ErrStopped) {
				t.Errorf("cause %v", context.Cause(ctx))
			}
			time.Sleep(20 * time.Second) // slow to stop, but there is time
			if !term.Valid() {
				t.Error("the term ran out during a polite stop")
			}
			return nil
		})
		synctest.Wait()
		b.run("m2", b.elector("m2", nil), nil)
		time.Sleep(time.Second)
		stop1()
		time.Sleep(19 * time.Second)
		b.wantDiary("m1 begins")
		time.Sleep(2 * time.Second)
		b.wantDiary("m1 begins", "m1 ends", "m2 begins")
	})
}

func TestOrders(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.run("m1", b.elector("m1", nil), nil)
		synctest.Wait()
		b.run("m2", b.elector("m2", nil), nil)
		b.run("m3", b.elector("m3", nil), nil)
		time.Sleep(5 * time.Second)
		b.mem.Move("m3")
		time.Sleep(10 * time.Second)
		b.wantDiary("m1 begins", "m1 ends", "m3 begins")
		b.mem.Move("m3") // it has it
		time.Sleep(10 * time.Second)
		b.mem.Pause()
		time.Sleep(time.Minute)
		b.wantDiary("m1 begins", "m1 ends", "m3 begins", "m3 ends")
		b.mem.Move("m2") // lifts the pause, and says who
		time.Sleep(time.Second)
		b.wantDiary("m1 begins", "m1 ends", "m3 begins", "m3 ends", "m2 begins")
		b.mem.Move("nobody")
		time.Sleep(10 * time.Second)
		b.mu.Lock()
		defer b.mu.Unlock()
		if n := len(b.diary); n != 7 || b.diary[5] != "m2 ends" || b.diary[6] == "m2 begins" {
			t.Errorf("after a move to nobody: %q", b.diary)
		}
	})
}

// After a pause nobody stays behind: the only candidate begins at the resume, and
// the one that an order names at the order.
func TestNobodyStaysBehindAfterAPause(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.run("m1", b.elector("m1", nil), nil)
		synctest.Wait()
		b.mem.Pause()
		synctest.Wait()
		b.wantDiary("m1 begins", "m1 ends")
		b.mem.Unpause()
		synctest.Wait()
		b.wantDiary("m1 begins", "m1 ends", "m1 begins")
	})
}

// Who handed over stays behind, but not if an order names it meanwhile.
func TestAnOrderToOneThatStaysBehind(t *testing.T) {
	inBubble(t, func(b *bench) {
		first := true
		b.run("m1", b.elector("m1", nil), func(ctx context.Context, _ *lease.Term) error {
			if first {
				first = false
				return &lease.Yield{To: "m9", Reason: "crashed"}
			}
			<-ctx.Done()
			return nil
		})
		synctest.Wait()
		b.run("m2", b.elector("m2", nil), nil)
		time.Sleep(time.Second) // m2 leaves it to m9 for a TTL, m1 for two
		b.wantDiary("m1 begins", "m1 ends")
		b.mem.Move("m1")
		synctest.Wait()
		b.wantDiary("m1 begins", "m1 ends", "m1 begins")
	})
}

// What lead says of its own end is Run's, also when Run was told to stop.
func TestLeadsErrorAtAStop(t *testing.T) {
	inBubble(t, func(b *bench) {
		half := errors.New("half done")
		stop, res := b.run("m1", b.elector("m1", nil), func(ctx context.Context, _ *lease.Term) error { <-ctx.Done(); return half })
		synctest.Wait()
		stop()
		if err := <-res; !errors.Is(err, half) {
			t.Errorf("run: %v", err)
		}
		if rec, _ := b.mem.Read(b.t.Context()); !rec.Ended || rec.Reason != "stopped" {
			t.Errorf("%+v", rec)
		}
	})
}

// A candidate says once whom it waits for, and again when that changes; giving up
// is no fault of the store's.
func TestWaitingIsTold(t *testing.T) {
	inBubble(t, func(b *bench) {
		var out strings.Builder
		wait := 20 * time.Second
		e := b.elector("m3", func(c *lease.Config) {
			c.Logger = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))
			c.Wait = &wait
		})
		b.run("m1", b.elector("m1", nil), nil)
		synctest.Wait()
		b.run("m2", b.elector("m2", nil), nil)
		synctest.Wait()
		_, res := b.run("m3", e, nil)
		time.Sleep(5 * time.Second)
		b.mem.Move("m2")
		if err := <-res; !errors.Is(err, lease.ErrNotTaken) {
			t.Fatalf("run: %v", err)
		}
		log := out.String()
		for text, n := range map[string]int{"waiting: another one": 2, "holder=m1": 1, "holder=m2": 1, "not taken in time": 1, "level=WARN": 0} {
			if got := strings.Count(log, text); got != n && (text != "not taken in time" || got == 0) {
				t.Errorf("%q %d times, want %d:\n%s", text, got, n, log)
			}
		}
	})
}

func TestYieldFindsAnother(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.run("m1", b.elector("m1", nil), func(context.Context, *lease.Term) error {
			return &lease.Yield{Reason: "crashed"}
		})
		synctest.Wait()
		b.run("m2", b.elector("m2", nil), nil)
		time.Sleep(time.Minute)
		b.mu.Lock()
		defer b.mu.Unlock()
		if last := b.diary[len(b.diary)-1]; last != "m2 begins" {
			t.Errorf("diary %q", b.diary)
		}
	})
}

func TestYieldWithNobodyElseGoesOn(t *testing.T) {
	inBubble(t, func(b *bench) {
		n := 0
		b.run("m1", b.elector("m1", nil), func(ctx context.Context, _ *lease.Term) error {
			if n++; n < 3 {
				return lease.ErrYield
			}
			<-ctx.Done()
			return nil
		})
		time.Sleep(time.Minute)
		b.wantDiary("m1 begins", "m1 ends", "m1 begins", "m1 ends", "m1 begins")
	})
}

func TestLeadsErrorEndsRunAndReleases(t *testing.T) {
	boom := errors.New("boom")
	for name, want := range map[string]error{"done": nil, "failed": boom} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				_, res := b.run("m1", b.elector("m1", nil), func(context.Context, *lease.Term) error { return want })
				if err := <-res; !errors.Is(err, want) {
					t.Errorf("run: %v", err)
				}
				rec, _ := b.mem.Read(b.ctx)
				if !rec.Ended {
					t.Errorf("not released: %+v", rec)
				}
			})
		})
	}
}

func TestUnconfirmedIsNotReleased(t *testing.T) {
	inBubble(t, func(b *bench) {
		first := true
		b.run("m1", b.elector("m1", func(c *lease.Config) { c.LockDelay = 2 * time.Second }), func(ctx context.Context, _ *lease.Term) error {
			if first {
				first = false
				return lease.ErrUnconfirmed
			}
			<-ctx.Done()
			return nil
		})
		synctest.Wait()
		b.run("m2", b.elector("m2", nil), nil)
		time.Sleep(5 * time.Second) // TTL 3 s · 1.01 + 2 s: not even the same one takes it again
		b.wantDiary("m1 begins", "m1 ends")
		time.Sleep(100 * time.Millisecond)
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.diary) != 3 {
			t.Errorf("diary %q", b.diary)
		}
	})
}

// With Once a term that is not released is a lost one, whatever ended it: Run does
// not campaign again.
func TestUnconfirmedEndsRunWithOnce(t *testing.T) {
	for name, lead := range map[string]func(context.Context) error{
		"the term was lost":   func(ctx context.Context) error { <-ctx.Done(); return lease.ErrUnconfirmed },
		"the work gave it up": func(context.Context) error { return lease.ErrUnconfirmed },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				_, res := b.run("m1", b.elector("m1", func(c *lease.Config) { c.Once = true }), func(ctx context.Context, _ *lease.Term) error { return lead(ctx) })
				synctest.Wait()
				b.mem.Delete()
				time.Sleep(time.Minute)
				select {
				case err := <-res:
					if !errors.Is(err, lease.ErrLost) || !errors.Is(err, lease.ErrUnconfirmed) {
						t.Errorf("run: %v", err)
					}
				default:
					t.Error("it campaigns again")
				}
				b.wantDiary("m1 begins", "m1 ends")
			})
		})
	}
}

// A lead that was caught at its start by the loss may call it a hand-over: it is none.
func TestLossIsNoHandOver(t *testing.T) {
	inBubble(t, func(b *bench) {
		_, res := b.run("m1", b.elector("m1", func(c *lease.Config) { c.Once = true }), func(ctx context.Context, _ *lease.Term) error {
			<-ctx.Done()
			return &lease.Yield{Reason: "the guard could not be started"}
		})
		synctest.Wait()
		b.mem.Delete()
		time.Sleep(time.Minute)
		select {
		case err := <-res:
			if !errors.Is(err, lease.ErrLost) {
				t.Errorf("run: %v", err)
			}
		default:
			t.Error("it campaigns again")
		}
	})
}

// What is unconfirmed stays so when Run is called again.
func TestUnconfirmedIsWaitedForByTheNextRun(t *testing.T) {
	inBubble(t, func(b *bench) {
		e := b.elector("m1", nil)
		stop, res := b.run("m1", e, func(ctx context.Context, _ *lease.Term) error { <-ctx.Done(); return lease.ErrUnconfirmed })
		synctest.Wait()
		stop()
		if err := <-res; err != nil {
			t.Errorf("run: %v", err)
		}
		b.run("m1", e, nil)
		time.Sleep(3 * time.Second)
		b.wantDiary("m1 begins", "m1 ends")
		time.Sleep(time.Second)
		b.wantDiary("m1 begins", "m1 ends", "m1 begins")
	})
}

type brokenLock struct{ leasetest.Memory }

func (*brokenLock) Read(context.Context) (lease.Record, error) {
	return lease.Record{}, errors.New("no answer")
}

// Who waits for so long only runs nothing after it; but nobody gives way to the dead.
func TestWait(t *testing.T) {
	for name, tc := range map[string]struct {
		wait    time.Duration
		prepare func(*bench)
		lock    lease.Lock
		want    string // in the error; empty: the term begins
		after   time.Duration
	}{
		"free, now or never":        {0, nil, nil, "", 0},
		"held, now or never":        {0, func(b *bench) { b.run("m1", b.elector("m1", nil), nil) }, nil, "m1 at  holds it", 800 * time.Millisecond},
		"held, for longer":          {10 * time.Second, func(b *bench) { b.run("m1", b.elector("m1", nil), nil) }, nil, "m1 at  holds it", 11 * time.Second},
		"released in time":          {10 * time.Second, func(b *bench) { b.stopAfter("m1", 5*time.Second) }, nil, "", 5 * time.Second},
		"held by a dead one":        {0, func(b *bench) { b.dead(3 * time.Second) }, nil, "", 3100 * time.Millisecond},
		"its record vanishes":       {0, func(b *bench) { b.dead(time.Hour); time.AfterFunc(time.Millisecond, b.mem.Delete) }, nil, "", 2 * time.Hour},
		"paused":                    {time.Second, func(b *bench) { b.mem.Pause() }, nil, "paused", 2 * time.Second},
		"paused, resumed in time":   {time.Second, func(b *bench) { b.mem.Pause(); time.AfterFunc(time.Second/2, b.mem.Unpause) }, nil, "", time.Second},
		"the store does not answer": {time.Second, nil, &brokenLock{}, "no answer", 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				if tc.prepare != nil {
					tc.prepare(b)
					synctest.Wait()
				}
				before := b.clock.Now()
				var began bool
				e := b.elector("m2", func(c *lease.Config) {
					c.Wait = &tc.wait
					if tc.lock != nil {
						c.Lock = tc.lock
					}
				})
				err := e.Run(b.ctx, func(context.Context, *lease.Term) error { began = true; return nil })
				if took := b.clock.Now() - before; took > tc.after {
					t.Errorf("after %v", took)
				}
				if tc.want == "" && (err != nil || !began) || tc.want != "" && (!errors.Is(err, lease.ErrNotTaken) || !strings.Contains(err.Error(), tc.want) || began) {
					t.Errorf("began %v, %v", began, err)
				}
			})
		})
	}
}

// stopAfter runs an elector that is stopped after d.
func (b *bench) stopAfter(name string, d time.Duration) {
	stop, _ := b.run(name, b.elector(name, nil), nil)
	time.AfterFunc(d, stop)
}

// dead leaves the claim of one that will never renew it.
func (b *bench) dead(ttl time.Duration) {
	b.t.Helper()
	rec, err := b.mem.Read(b.ctx)
	if err == nil {
		_, err = b.mem.Take(b.ctx, rec, lease.Claim{ID: "dead", Holder: "m1", TTL: ttl})
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// deafLock is a lock that stops answering.
type deafLock struct {
	*leasetest.Memory
	mu   sync.Mutex
	deaf bool
}

func (l *deafLock) set(deaf bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deaf = deaf
}

func (l *deafLock) Take(ctx context.Context, seen lease.Record, c lease.Claim) (lease.Held, error) {
	h, err := l.Memory.Take(ctx, seen, c)
	return deafHeld{l, h}, err
}

type deafHeld struct {
	l *deafLock
	lease.Held
}

func (h deafHeld) Renew(ctx context.Context) error {
	h.l.mu.Lock()
	deaf := h.l.deaf
	h.l.mu.Unlock()
	if deaf {
		<-ctx.Done()
		return ctx.Err()
	}
	return h.Held.Renew(ctx)
}

func TestLossInTime(t *testing.T) {
	inBubble(t, func(b *bench) {
		lock := &deafLock{Memory: &b.mem}
		var told, deadline time.Duration
		e := b.elector("m1", func(c *lease.Config) { c.Lock, c.Once = lock, true })
		_, res := b.run("m1", e, func(ctx context.Context, term *lease.Term) error {
			<-ctx.Done()
			told = b.clock.Now()
			deadline, _ = term.Deadline()
			if !errors.Is(context.Cause(ctx), lease.ErrLost) {
				t.Errorf("cause %v", context.Cause(ctx))
			}
			select {
			case <-term.Lost():
			default:
				t.Error("Lost is not closed")
			}
			return nil
		})
		time.Sleep(10 * time.Second)
		lock.set(true)
		if err := <-res; !errors.Is(err, lease.ErrLost) {
			t.Errorf("run: %v", err)
		}
		if margin := deadline - told; margin != lease.DefaultStopTime {
			t.Errorf("told %v before the deadline, want %v", margin, lease.DefaultStopTime)
		}
		// The work was stopped: the others need not wait for the rest of the TTL.
		if rec, _ := b.mem.Read(b.ctx); !rec.Ended {
			t.Errorf("not released: %+v", rec)
		}
	})
}

func TestStuck(t *testing.T) {
	inBubble(t, func(b *bench) {
		lock := &deafLock{Memory: &b.mem}
		release := make(chan struct{})
		_, res := b.run("m1", b.elector("m1", func(c *lease.Config) { c.Lock = lock }), func(context.Context, *lease.Term) error {
			<-release
			return nil
		})
		time.Sleep(10 * time.Second)
		before := b.clock.Now()
		lock.set(true)
		if err := <-res; !errors.Is(err, lease.ErrStuck) {
			t.Errorf("run: %v", err)
		}
		if took := b.clock.Now() - before; took > lease.DefaultTTL {
			t.Errorf("told %v after the last renewal", took)
		}
		if rec, _ := b.mem.Read(b.ctx); rec.Ended {
			t.Error("released though the work is stuck")
		}
		close(release)
	})
}

// thawed is a clock of a party that is frozen at times: its timers fire late.
type thawed struct {
	bubbleClock
	frozen *atomic.Int64 // for how long, ns
}

func (c thawed) Now() time.Duration {
	return c.bubbleClock.Now() + time.Duration(c.frozen.Load())
}

func (c thawed) At(t time.Duration) (<-chan struct{}, func()) {
	return c.bubbleClock.At(t - time.Duration(c.frozen.Load()))
}

// A holder that slept beyond its term waits for the news of its work's end, which
// somebody else has brought about: it stays a candidate.
func TestThawedHolderCampaignsAgain(t *testing.T) {
	for name, told := range map[string]bool{"frozen while it held": false, "frozen when it had been told to stop": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				clock := thawed{b.clock, new(atomic.Int64)}
				lock := &deafLock{Memory: &b.mem}
				stop, res := b.run("m1", b.elector("m1", func(c *lease.Config) { c.Lock, c.Clock = lock, clock }), func(ctx context.Context, _ *lease.Term) error {
					<-ctx.Done()
					if told {
						lock.set(false)
						clock.frozen.Store(int64(time.Minute))
					}
					time.Sleep(2 * time.Second)
					return nil
				})
				time.Sleep(10 * time.Second)
				if told {
					lock.set(true)
				} else {
					clock.frozen.Store(int64(time.Minute))
				}
				time.Sleep(20 * time.Second)
				b.mu.Lock()
				again := len(b.diary) > 2
				b.mu.Unlock()
				if !again {
					t.Errorf("diary %q: no second term", b.diary)
				}
				stop()
				if err := <-res; err != nil {
					t.Errorf("run: %v", err)
				}
			})
		})
	}
}

func TestStatus(t *testing.T) {
	inBubble(t, func(b *bench) {
		e := b.elector("m1", nil)
		if s, _ := e.Status(); s.Role != lease.Idle {
			t.Errorf("before: %+v", s)
		}
		stop, res := b.run("m1", e, nil)
		time.Sleep(10 * time.Second)
		s, changed := e.Status()
		if s.Role != lease.Holding || s.Token == 0 || s.Err != nil || b.clock.Now()-s.Renewed > time.Second {
			t.Errorf("holding: %+v", s)
		}
		<-changed // a renewal
		stop()
		<-res
		if s, _ := e.Status(); s.Role != lease.Idle || s.Token != 0 {
			t.Errorf("after: %+v", s)
		}
	})
}

func TestStandingCost(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.run("m1", b.elector("m1", nil), nil)
		synctest.Wait()
		b.run("m2", b.elector("m2", nil), nil)
		before, _ := b.mem.Read(b.ctx)
		time.Sleep(100 * time.Second)
		after, _ := b.mem.Read(b.ctx)
		if writes := after.Rev - before.Rev; writes > 3*100 || writes < 100 {
			t.Errorf("%d writes in 100 s", writes)
		}
	})
}
