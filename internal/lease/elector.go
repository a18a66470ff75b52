package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/hactl/hactl/internal/backoff"
)

// Role is what an Elector does at the moment.
type Role string

// The roles.
const (
	Idle     Role = "idle"     // Run was not called, or has returned
	Waiting  Role = "waiting"  // a candidate
	Holding  Role = "holding"  // lead runs
	Stopping Role = "stopping" // lead was asked to stop
)

// Status is what an Elector knows of itself and the lock.
type Status struct {
	Role    Role
	Token   int64         // of our own term; 0 when we have none
	Renewed time.Duration // Clock: when the last renewal that was answered was sent
	Took    time.Duration // how long its answer took
	Round   time.Duration // Clock: when the store last answered anything, or the loop last went round
	Rounds  int           // how often the loop went round; it changes though the store is silent
	Record  Record        // as last seen
	Err     error         // why the store last gave no answer; nil when it did
}

// Elector campaigns for a Lock and leads while it holds it.
type Elector struct {
	cfg      Config
	id       string
	status   *latest[Status]
	campaign campaign // what was seen in an earlier Run still counts
	mutant   mutant   // tests only: New leaves it zero and nothing else sets it
}

// New checks cfg, all faults at once, and starts nothing.
func New(cfg Config) (*Elector, error) {
	if cfg.Lock == nil {
		return nil, errors.New("lease: no lock")
	}
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	e := &Elector{cfg: cfg, id: rand.Text(), status: newLatest(Status{Role: Idle})}
	e.campaign.e = e
	return e, nil
}

// Config returns the settings with their defaults filled in.
func (e *Elector) Config() Config { return e.cfg }

// Status returns what is known now, and a channel that is closed at the next change.
func (e *Elector) Status() (Status, <-chan struct{}) { return e.status.get() }

// Run campaigns, and calls lead for each term that it gets. lead must stop its
// work and return when its context ends, before the term's deadline; the context's
// cause says why: ErrStopped (there is time: renewals go on), ErrLost (there is
// none), a *Yield (an order from the store).
//
// What lead returns decides what comes next: nil ends Run with nil after the
// release; a *Yield or ErrYield hands over; ErrUnconfirmed keeps the lock till it
// expires, which counts as lost; any other error ends Run with it, after the release, unless the term
// was lost or an order ended it.
//
// Run must not be called again before it has returned. It returns nil when ctx ended, the term was released and lead
// had no error of its own, ErrLost with Config.Once, and ErrStuck at once when lead misses the deadline.
func (e *Elector) Run(ctx context.Context, lead func(context.Context, *Term) error) error {
	defer e.status.update(func(s *Status) { s.Role, s.Token = Idle, 0 })
	c := &e.campaign
	for {
		e.status.update(func(s *Status) { s.Role, s.Token = Waiting, 0 })
		held, sent, err := c.win(ctx)
		switch {
		case ctx.Err() != nil && held == nil:
			return nil
		case err != nil:
			return err
		}
		err = e.hold(ctx, held, sent, lead)
		if errors.Is(err, ErrUnconfirmed) {
			e.id = rand.Text() // our old claim is to be waited for like anybody's
		}
		var yield *Yield
		switch {
		case errors.Is(err, ErrStuck):
			return err
		case errors.Is(err, ErrLost):
			if ctx.Err() != nil {
				return nil
			}
			if e.cfg.Once {
				return err
			}
		case errors.As(err, &yield), errors.Is(err, ErrYield):
			if ctx.Err() != nil {
				return nil
			}
			if yield != paused {
				c.behind = e.cfg.Clock.Now() + 2*e.cfg.YieldFor
			}
		default:
			return err
		}
	}
}

// campaign is a candidate's memory between terms.
type campaign struct {
	e      *Elector
	sight  sight
	behind time.Duration
	giveUp time.Duration // when this campaign does, if Config.Wait says so
	told   int64         // token of the holder that was last logged as waited for
	paused bool          // that it is paused was logged
}

// win waits until the lock is ours. It returns the moment at which the claim that
// won was sent. It errs only when ctx ends, and with ErrNotTaken.
func (c *campaign) win(ctx context.Context) (Held, time.Duration, error) {
	cfg := c.e.cfg
	retry := backoff.Backoff{Base: cfg.RenewEvery / 8, Max: cfg.RenewEvery * 2}
	if cfg.Wait != nil {
		c.giveUp = cfg.Clock.Now() + *cfg.Wait
	}
	c.sight.heard = false
	for {
		start := cfg.Clock.Now()
		held, sent, err := c.round(ctx)
		c.e.noteRound(err)
		if held != nil {
			return held, sent, nil
		}
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		switch {
		case errors.Is(err, ErrNotTaken):
			cfg.Logger.Info("not taken in time", "wait", *cfg.Wait, "err", err)
			return nil, 0, err
		case err != nil && !errors.Is(err, ErrChanged) && c.late(cfg.Clock.Now()):
			return nil, 0, fmt.Errorf("%w: %w", ErrNotTaken, err)
		}
		// However a short round ended, the next one waits: never a hot loop.
		if err == nil && cfg.Clock.Now()-start >= cfg.RenewEvery {
			retry.Reset()
			continue
		}
		sleep(ctx, cfg.Clock, retry.Next())
	}
}

// round reads the record, follows its changes, and returns when it tried to take
// the lock, or when it is time to read again.
func (c *campaign) round(ctx context.Context) (Held, time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rec, err := c.e.read(ctx)
	if err != nil {
		return nil, 0, err
	}
	c.see(rec)
	changes := c.e.cfg.Lock.Watch(ctx, rec)
	clock := c.e.cfg.Clock
	for {
		now := clock.Now()
		act := decide(c.sight, c.self(), now)
		if act.ask {
			c.ask(ctx)
			continue
		}
		if act.take {
			return c.take(ctx)
		}
		c.tell()
		if c.late(now) && (c.sight.rec.Paused || c.sight.heard && c.sight.rec.Holder != c.e.cfg.Holder) {
			return nil, 0, c.notTaken()
		}
		// A watch may hang on a member that lost the others: read again when a
		// holder that should renew was not heard of, or when nothing happened long.
		until := now + c.e.cfg.TTL
		if !c.sight.rec.free() {
			silence := max(3*c.e.cfg.RenewEvery, c.sight.rec.TTL*2/5)
			until = max(now+c.e.cfg.RenewEvery, min(until, c.sight.at+silence))
		}
		if act.at != 0 {
			until = min(until, act.at)
		}
		if c.e.cfg.Wait != nil && now < c.giveUp {
			until = min(until, c.giveUp)
		}
		fired, stop := clock.At(until)
		select {
		case rec, ok := <-changes:
			stop()
			if !ok {
				return nil, 0, nil
			}
			c.see(rec)
			c.e.noteRound(nil)
		case <-fired:
			if until != act.at {
				return nil, 0, nil
			}
		case <-ctx.Done():
			stop()
			return nil, 0, ctx.Err()
		}
	}
}

// tell logs whom we wait for: once for each holder, and once for each pause.
func (c *campaign) tell() {
	rec, log := c.sight.rec, c.e.cfg.Logger
	switch {
	case rec.Paused && !c.paused:
		log.Info("waiting: it is paused")
	case !rec.Paused && !rec.free() && rec.Token != c.told:
		log.Info("waiting: another one holds the lock", "holder", rec.Holder, "address", rec.Address, "token", rec.Token)
		c.told = rec.Token
	}
	c.paused = rec.Paused
}

// late reports that this campaign has lasted as long as it may.
func (c *campaign) late(now time.Duration) bool { return c.e.cfg.Wait != nil && now >= c.giveUp }

func (c *campaign) notTaken() error {
	if rec := c.sight.rec; !rec.Paused {
		return fmt.Errorf("%w: %s at %s holds it with token %d", ErrNotTaken, rec.Holder, rec.Address, rec.Token)
	}
	return fmt.Errorf("%w: it is paused", ErrNotTaken)
}

func (c *campaign) self() self {
	cfg := c.e.cfg
	return c.e.mutant.self(self{id: c.e.id, name: cfg.Holder, maxSkew: cfg.MaxSkew, yieldFor: cfg.YieldFor, behind: c.behind})
}

// ask finds out how long to leave the lock to others, from now on.
func (c *campaign) ask(ctx context.Context) {
	cfg, wait := c.e.cfg, time.Duration(0)
	now := cfg.Clock.Now()
	if cfg.Delay != nil {
		wait = cfg.Delay(ctx, c.sight.rec)
	}
	if wait > 0 {
		cfg.Logger.Debug("the lock is left to others first", "pause", wait)
	}
	c.sight = c.sight.leaveUntil(now + wait)
}

func (c *campaign) see(rec Record) {
	now := c.e.cfg.Clock.Now()
	c.sight = c.e.mutant.sight(c.sight, c.sight.see(rec, now))
	if now >= c.behind || (!rec.free() && rec.ID != c.e.id) {
		c.behind = 0 // another one has taken it, or none wants it
	}
	c.e.status.update(func(s *Status) { s.Record = c.sight.rec })
}

func (c *campaign) take(ctx context.Context) (Held, time.Duration, error) {
	cfg := c.e.cfg
	claim := Claim{
		ID: c.e.id, Holder: cfg.Holder, Address: cfg.Address, Priority: cfg.Priority,
		TTL: cfg.TTL, LockDelay: cfg.LockDelay,
	}
	call, cancel := context.WithTimeout(ctx, cfg.CallTimeout)
	defer cancel()
	sent := cfg.Clock.Now()
	held, err := cfg.Lock.Take(call, c.sight.rec, claim)
	if err != nil {
		return nil, 0, fmt.Errorf("take: %w", err)
	}
	return held, c.e.mutant.sent(sent, cfg.Clock), nil
}

func (e *Elector) read(ctx context.Context) (Record, error) {
	call, cancel := context.WithTimeout(ctx, e.cfg.CallTimeout)
	defer cancel()
	rec, err := e.cfg.Lock.Read(call)
	if err != nil {
		return Record{}, fmt.Errorf("read: %w", err)
	}
	return rec, nil
}

// noteRound tells that the loop is alive, and how the store is. It logs changes only.
func (e *Elector) noteRound(err error) {
	if errors.Is(err, ErrChanged) || errors.Is(err, ErrNotTaken) || errors.Is(err, context.Canceled) {
		err = nil
	}
	old, _ := e.status.get()
	switch {
	case err != nil && old.Err == nil:
		e.cfg.Logger.Warn("the store does not answer", "err", err)
	case err == nil && old.Err != nil:
		e.cfg.Logger.Info("the store answers again")
	}
	now := e.cfg.Clock.Now()
	e.status.update(func(s *Status) { s.Err, s.Round, s.Rounds = err, now, s.Rounds+1 })
}

func sleep(ctx context.Context, clock Clock, d time.Duration) {
	fired, stop := clock.At(clock.Now() + d)
	defer stop()
	select {
	case <-fired:
	case <-ctx.Done():
	}
}
