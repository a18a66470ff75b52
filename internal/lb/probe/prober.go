package probe

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hactl/hactl/internal/lb/pool"
)

// Check asks once. fresh asks over a new connection, which tests the accepting
// too. It should end with its context; a Prober does not rely on it.
type Check func(ctx context.Context, fresh bool) Result

// Result is what a check found.
type Result struct {
	Answer pool.Answer
	Why    string        // in words
	Took   time.Duration // from the start to the answer
}

// Config configures a Prober. Check and Report are required.
type Config struct {
	Check  Check
	Report func(Result)  // called in Run's goroutine, one result at a time
	Every  time.Duration // between the starts of two probes; default 500ms, shortened at random by up to a tenth
	// Timeout is when a probe has failed; default 1s. A backend whose answers
	// take long gets more: slowFactor times the slowest of its last answers, at
	// most maxTimeouts times Timeout. An overloaded machine looks like a hung one
	// otherwise, and cutting its connections adds to its load.
	Timeout time.Duration
	// FreshEvery is how many probes share one connection; default 60. A kept
	// connection spares the backend a TLS handshake for each probe.
	FreshEvery int
	Close      func() // called when Run ends; may be nil
}

// How far Config.Timeout adapts to slow answers.
const (
	recentAnswers = 10 // 5s at the default interval
	slowFactor    = 4
	maxTimeouts   = 5
)

// lateBy is how late a Prober's own timer may be before it distrusts its clock.
const lateBy = 250 * time.Millisecond

// kickPause is the shortest time between two probes asked for by Kick.
const kickPause = 100 * time.Millisecond

// Prober probes one backend until its Run ends.
type Prober struct {
	cfg    Config
	kick   chan struct{}
	factor atomic.Int64 // of Every

	running sync.Mutex                   // held by Run
	recent  [recentAnswers]time.Duration // how long the last answers took; Run's alone
	answers int
}

// New makes a prober. It starts nothing.
func New(cfg Config) *Prober {
	if cfg.Every == 0 {
		cfg.Every = 500 * time.Millisecond
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Second
	}
	if cfg.FreshEvery == 0 {
		cfg.FreshEvery = 60
	}
	p := &Prober{cfg: cfg, kick: make(chan struct{}, 1)}
	p.factor.Store(1)
	return p
}

// Kick asks for a probe at once, over a fresh connection. It never blocks.
func (p *Prober) Kick() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Slow makes the interval factor times as long; 1 is the configured one.
func (p *Prober) Slow(factor int) { p.factor.Store(int64(max(1, factor))) }

// flight is a probe on its way.
type flight struct {
	start   time.Time
	timeout time.Duration
	cancel  context.CancelFunc
}

type landed struct {
	f *flight
	r Result
}

// Run probes until ctx ends; a run that follows another waits for its end. It does not wait for checks that ignore their
// context.
func (p *Prober) Run(ctx context.Context) error {
	p.running.Lock() // a backend that comes back at once finds the run before on its way out
	defer p.running.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if p.cfg.Close != nil {
		defer p.cfg.Close()
	}
	var (
		results = make(chan landed)
		flying  = map[*flight]bool{}
		count   int
		kicked  time.Time
		timer   = time.NewTimer(0)
		due     = time.Now()
	)
	defer timer.Stop()
	launch := func(fresh bool) {
		timeout := p.timeout()
		fctx, stop := context.WithTimeout(ctx, timeout)
		f := &flight{start: time.Now(), timeout: timeout, cancel: stop}
		flying[f] = true
		go p.fly(fctx, ctx, f, fresh, results)
	}
	for {
		var (
			land landed
			kick bool
		)
		select {
		case <-ctx.Done():
			return nil
		case land = <-results:
		case <-p.kick:
			kick = true
		case <-timer.C:
		}
		now := time.Now()
		if now.Sub(due) > lateBy {
			for f := range flying {
				f.cancel()
			}
			clear(flying)
		}
		if land.f != nil && flying[land.f] {
			delete(flying, land.f)
			p.settle(land, flying, now)
		}
		if kick && now.Sub(kicked) >= kickPause {
			kicked = now
			launch(true)
		}
		if !now.Before(due) {
			launch(count%p.cfg.FreshEvery == 0)
			count++
			due = now.Add(p.pause())
			timer.Reset(due.Sub(now))
		}
	}
}

// settle reports a landed probe, and after a silent one those that share its fate.
func (p *Prober) settle(land landed, flying map[*flight]bool, now time.Time) {
	p.cfg.Report(land.r)
	if land.r.Answer != pool.Silent {
		p.recent[p.answers%recentAnswers] = land.r.Took
		p.answers++
		return
	}
	for f := range flying {
		if age := now.Sub(f.start); age >= min(p.cfg.Every, p.cfg.Timeout)*9/20 {
			f.cancel()
			delete(flying, f)
			p.cfg.Report(Result{Answer: pool.Silent, Why: land.r.Why, Took: age})
		}
	}
}

func (p *Prober) fly(ctx, run context.Context, f *flight, fresh bool, results chan<- landed) {
	defer f.cancel()
	start := time.Now()
	done := make(chan Result, 1)
	go func() { done <- p.cfg.Check(ctx, fresh) }()
	land := landed{f: f}
	select {
	case land.r = <-done:
	case <-ctx.Done():
		land.r = Result{Answer: pool.Silent, Why: "no answer within " + f.timeout.String()}
	}
	land.r.Took = time.Since(start)
	select {
	case results <- land:
	case <-run.Done():
	}
}

// timeout is Config.Timeout, or more for a backend that has been slow.
func (p *Prober) timeout() time.Duration {
	slow := slowFactor * slices.Max(p.recent[:])
	return min(max(p.cfg.Timeout, slow), maxTimeouts*p.cfg.Timeout).Round(10 * time.Millisecond)
}

func (p *Prober) pause() time.Duration {
	d := p.cfg.Every * time.Duration(p.factor.Load())
	return d - time.Duration(rand.Int64N(int64(d)/10+1))
}
