package lease_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/leasetest"
)

// The model: three electors on one lock in memory, in a synctest bubble. Between
// an elector and the lock lies a network that delays, loses, cuts off and repeats;
// each party has a clock of its own speed and is frozen at times; the lock is at
// times away, or deleted. The work is effective from its start to its stop, and a
// judge looks at all of it by the one true clock, the bubble's.

// window is a stretch of true time.
type window struct{ from, to time.Duration }

func inWindow(ws []window, now time.Duration) (end time.Duration, in bool) {
	for _, w := range ws {
		if now >= w.from && now < w.to {
			return w.to, true
		}
	}
	return 0, false
}

// world is what all parties share.
type world struct {
	start time.Time
	mem   *leasetest.Memory
	away  []window // the lock answers nobody
	judge *judge
	fence bool // a dead man's switch ends the work at the deadline
	deaf  bool // no watch ever tells anything: only reads and renewals do
	loss  int  // one answer in so many is lost
	cfg   lease.Config
}

func (w *world) now() time.Duration { return time.Since(w.start) }

// party is one candidate with its host.
type party struct {
	w      *world
	name   string
	rate   float64 // own seconds per true second
	offset time.Duration
	frozen []window // the elector's process does not run
	cut    []window // no network

	mu   sync.Mutex
	rng  *rand.Rand
	seen bool // a record with a term was read
}

func (p *party) intn(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rng.IntN(n)
}

// delay returns a delay that is mostly short and at times long.
func (p *party) delay() time.Duration {
	switch n := p.intn(100); {
	case n < 70 || p.w.now() > chaos:
		return time.Duration(p.intn(5)) * time.Millisecond
	case n < 95:
		return time.Duration(p.intn(300)) * time.Millisecond
	default:
		return time.Duration(p.intn(4000)) * time.Millisecond
	}
}

// thaw blocks while the process is frozen: called wherever it could notice.
func (p *party) thaw() {
	for {
		end, in := inWindow(p.frozen, p.w.now())
		if !in {
			return
		}
		time.Sleep(end - p.w.now())
	}
}

func (p *party) own() time.Duration { return p.offset + time.Duration(float64(p.w.now())*p.rate) }

// Now is the party's clock; a frozen process reads it after its thaw.
func (p *party) Now() time.Duration {
	p.thaw()
	return p.own()
}

// At fires by the party's clock, but not while the process is frozen.
func (p *party) At(t time.Duration) (<-chan struct{}, func()) {
	fired, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		if p.sleepUntil(t, stopped) {
			p.thaw()
			close(fired)
		}
	}()
	return fired, sync.OnceFunc(func() { close(stopped) })
}

// sleepUntil waits by the party's clock; frozen or not, as the dead man's switch does.
func (p *party) sleepUntil(t time.Duration, stopped <-chan struct{}) bool {
	for {
		left := t - p.own()
		if left <= 0 {
			return true
		}
		select {
		case <-time.After(time.Duration(float64(left)/p.rate) + time.Nanosecond):
		case <-stopped:
			return false
		}
	}
}

// leave leaves the lock to others now and then, and asks somebody for it first, which
// takes its time.
func (p *party) leave(context.Context, lease.Record) time.Duration {
	time.Sleep(p.delay())
	p.thaw()
	return time.Duration(p.intn(3)) * 100 * time.Millisecond
}

var errLink = errors.New("no answer")

// send takes a request to the lock and the answer back. What was sent may arrive
// after the sender has given up, and may arrive twice.
func send[T any](ctx context.Context, p *party, f func() (T, error)) (T, error) {
	p.thaw()
	type answer struct {
		v   T
		err error
	}
	got := make(chan answer, 2)
	copies := 1
	if p.intn(10) == 0 {
		copies = 2
	}
	for range copies {
		there, back, lost := p.delay(), p.delay(), p.w.now() < chaos && p.intn(p.w.loss) == 0
		go func() {
			if _, in := inWindow(p.cut, p.w.now()); in {
				return
			}
			time.Sleep(there)
			if end, in := inWindow(p.w.away, p.w.now()); in {
				if p.rateCoin() {
					return // lost with the old leader
				}
				time.Sleep(end - p.w.now()) // kept until there is a new one
			}
			v, err := f()
			time.Sleep(back)
			if _, in := inWindow(p.cut, p.w.now()); !in && !lost {
				got <- answer{v, err}
			}
		}()
	}
	select {
	case a := <-got:
		p.thaw()
		return a.v, a.err
	case <-ctx.Done():
		p.thaw()
		var zero T
		return zero, errLink
	}
}

func (p *party) rateCoin() bool { return p.intn(2) == 0 }

// link is the party's lease.Lock.
type link struct{ p *party }

func (l link) Read(ctx context.Context) (lease.Record, error) {
	rec, err := send(ctx, l.p, func() (lease.Record, error) { return l.p.w.mem.Read(context.Background()) })
	if err == nil && rec.Token != 0 {
		l.p.mu.Lock()
		l.p.seen = true
		l.p.mu.Unlock()
	}
	return rec, err
}

func (l link) Take(ctx context.Context, seen lease.Record, c lease.Claim) (lease.Held, error) {
	var first sync.Mutex
	var won lease.Held
	h, err := send(ctx, l.p, func() (lease.Held, error) {
		first.Lock()
		defer first.Unlock()
		if won != nil { // a copy of the request sees the first one's claim
			return won, nil
		}
		h, err := l.p.w.mem.Take(context.Background(), seen, c)
		if err == nil {
			won = h
		}
		return h, err
	})
	if err != nil {
		return nil, err
	}
	return heldLink{l.p, h}, nil
}

func (l link) Watch(ctx context.Context, after lease.Record) <-chan lease.Record {
	out := make(chan lease.Record)
	go func() {
		defer close(out)
		if l.p.w.deaf {
			<-ctx.Done()
			return
		}
		inner, cancel := context.WithCancel(ctx)
		defer cancel()
		for rec := range l.p.w.mem.Watch(inner, after) {
			time.Sleep(l.p.delay())
			if _, in := inWindow(l.p.cut, l.p.w.now()); in {
				if l.p.rateCoin() {
					return // the stream breaks
				}
				<-ctx.Done() // or hangs
				return
			}
			l.p.thaw()
			select {
			case out <- rec:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

type heldLink struct {
	p *party
	h lease.Held
}

func (h heldLink) Token() int64 { return h.h.Token() }

func (h heldLink) Renew(ctx context.Context) error {
	_, err := send(ctx, h.p, func() (struct{}, error) { return struct{}{}, h.h.Renew(context.Background()) })
	return err
}

func (h heldLink) Release(ctx context.Context, r lease.Release) error {
	_, err := send(ctx, h.p, func() (struct{}, error) { return struct{}{}, h.h.Release(context.Background(), r) })
	return err
}

// lead is the work: effective from here until it is stopped, which takes up to
// the stop time, or until the dead man's switch ends it.
func (p *party) lead(ctx context.Context, term *lease.Term) error {
	dead := make(chan struct{})
	var once sync.Once
	end := func(how string) {
		once.Do(func() {
			p.w.judge.end(p, term.Token(), how)
			close(dead)
		})
	}
	if d, _ := term.Deadline(); p.w.fence && p.own() >= d {
		return nil // the guard refuses to start it
	}
	p.w.judge.begin(p, term.Token())
	returned := make(chan struct{})
	defer close(returned)
	if p.w.fence {
		go p.guard(term, returned, end)
	}
	var life <-chan time.Time
	if p.intn(4) == 0 {
		life = time.After(time.Duration(p.intn(20_000)) * time.Millisecond)
	}
	select {
	case <-ctx.Done():
	case <-dead:
		return &lease.Yield{Reason: "killed"}
	case <-life:
		end("by itself")
		return &lease.Yield{Reason: "crashed"}
	}
	p.thaw()
	took := p.w.cfg.StopTime
	if p.rateCoin() {
		took = time.Duration(p.intn(int(took)))
	}
	if !errors.Is(context.Cause(ctx), lease.ErrLost) && p.rateCoin() {
		took = time.Duration(p.intn(3000)) * time.Millisecond // politely, unless time runs out
	}
	timer, stopTimer := p.At(p.Now() + took)
	defer stopTimer()
	select {
	case <-timer:
	case <-dead:
	case <-term.Lost():
		if !errors.Is(context.Cause(ctx), lease.ErrLost) {
			kill, stopKill := p.At(p.Now() + p.w.cfg.StopTime)
			defer stopKill()
			select {
			case <-kill:
			case <-dead:
			case <-timer:
			}
		} else {
			select {
			case <-timer:
			case <-dead:
			}
		}
	}
	end("stopped")
	return nil
}

// guard is the dead man's switch: not frozen with the elector.
func (p *party) guard(term *lease.Term, returned <-chan struct{}, end func(string)) {
	for {
		d, changed := term.Deadline()
		stopped := make(chan struct{})
		stop := sync.OnceFunc(func() { close(stopped) })
		fired := make(chan struct{})
		go func() {
			if p.sleepUntil(d, stopped) {
				close(fired)
			}
		}()
		select {
		case <-fired:
			end("killed by the guard")
			return
		case <-changed:
			stop()
		case <-returned:
			stop()
			return
		}
	}
}

// judge watches for two effective terms at once, and for tokens that go back.
type judge struct {
	w      *world
	mu     sync.Mutex
	now    map[string]int64 // who is effective, with which token
	last   int64
	terms  int
	faults []string
	trace  []string
}

func (j *judge) note(format string, args ...any) {
	j.trace = append(j.trace, fmt.Sprintf("%10v ", j.w.now().Round(100*time.Microsecond))+fmt.Sprintf(format, args...))
}

func (j *judge) begin(p *party, token int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.note("%s begins, token %d", p.name, token)
	if len(j.now) > 0 {
		j.faults = append(j.faults, fmt.Sprintf("%s began while %v worked", p.name, j.now))
	}
	if token <= j.last {
		j.faults = append(j.faults, fmt.Sprintf("%s began with token %d after %d", p.name, token, j.last))
	}
	j.last = token
	j.terms++
	j.now[p.name] = token
}

func (j *judge) end(p *party, token int64, how string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.note("%s ends, token %d, %s", p.name, token, how)
	delete(j.now, p.name)
}

func (j *judge) verdict() (faults []string, working bool, terms int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.faults), len(j.now) > 0, j.terms
}

func (j *judge) story() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.trace, "\n")
}
