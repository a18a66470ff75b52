package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hactl/hactl/internal/logging"
)

// The defaults of Config. DESIGN.md shows the sum behind them.
const (
	DefaultTTL      = 3 * time.Second
	DefaultStopTime = 500 * time.Millisecond
	DefaultMaxSkew  = 0.01
)

// Config sets up an Elector. All times are on the party's own clock.
type Config struct {
	Lock     Lock
	Holder   string // this candidate's name, unique among the candidates
	Address  string // where it is, for people
	Priority int    // higher ones are preferred; 0 is usual

	// TTL is how long a term stands after its last renewal was sent. Default 3s.
	// Less: faster take-over. More: a longer loss of the store is survived.
	TTL time.Duration
	// RenewEvery is the pause between two renewals; each is a write. Default
	// 2/15 of TTL: 400ms of 3s. A renewal is sent whether or not the last was answered.
	RenewEvery time.Duration
	// StopTime is what the work needs to be certainly stopped: the term's context
	// ends that much before its deadline. Default 500ms, or a sixth of TTL.
	StopTime time.Duration
	// MaxSkew bounds by how much two machines' clocks may differ in speed: 0.01 is
	// 36 s in an hour; a bad crystal has 0.0001, NTP slews by at most 0.0005.
	// Candidates wait TTL·(1+MaxSkew). Default 0.01.
	MaxSkew float64
	// CallTimeout ends one call of the Lock. Default TTL - StopTime.
	CallTimeout time.Duration
	// LockDelay is added to the TTL by the others when this holder's end is not
	// confirmed. Default 0: right for work that a dead man's switch ends.
	LockDelay time.Duration
	// YieldFor is how long the others give way to a candidate that a release
	// names; one that handed over stays behind for twice that, unless the lock is
	// ordered to it. After a pause nobody stays behind. Default TTL.
	YieldFor time.Duration
	// Delay is asked once each time the lock is there for any candidate, as rec shows
	// it: ended, or expired by now. It returns how long from the call on to leave the
	// lock to others, and must itself return soon: the lock is not taken before. It
	// spreads several singletons over the candidates, and is not asked when the lock was
	// released, or ordered, to this one. nil: no delay.
	Delay func(ctx context.Context, rec Record) time.Duration

	// Once ends Run with ErrLost after a lost term, and after one that was left to
	// expire because its end is not confirmed, instead of campaigning again.
	Once bool

	// Wait bounds each campaign: Run ends with an ErrNotTaken when another one holds
	// the lock after it, and was heard of since the campaign began: a holder that died
	// is waited for, for its TTL, or nobody would ever take over from it. nil: no bound.
	Wait *time.Duration

	Clock  Clock        // nil: Boottime
	Logger *slog.Logger // nil: none
}

// withDefaults fills in what is not set.
func (c Config) withDefaults() Config {
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	if c.RenewEvery == 0 {
		c.RenewEvery = c.TTL * 2 / 15
	}
	if c.StopTime == 0 {
		c.StopTime = min(DefaultStopTime, c.TTL/6)
	}
	if c.MaxSkew == 0 {
		c.MaxSkew = DefaultMaxSkew
	}
	if c.CallTimeout == 0 {
		c.CallTimeout = c.TTL - c.StopTime
	}
	if c.YieldFor == 0 {
		c.YieldFor = c.TTL
	}
	if c.Clock == nil {
		c.Clock = Boottime{}
	}
	if c.Logger == nil {
		c.Logger = logging.Discard()
	}
	return c
}

// Validate tells every fault of c at once, after the defaults were filled in.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Holder != "", "holder: empty: two candidates without a name would be one")
	check(c.TTL >= time.Second, "ttl %v: at least 1s, since the store itself may need that to answer after losing its leader", c.TTL)
	check(c.RenewEvery > 0, "renew every %v: must be positive", c.RenewEvery)
	check(c.StopTime > 0, "stop time %v: must be positive: stopping takes time", c.StopTime)
	check(c.CallTimeout > 0, "call timeout %v: must be positive", c.CallTimeout)
	check(c.LockDelay >= 0, "lock delay %v: must not be negative", c.LockDelay)
	check(c.YieldFor >= 0, "yield for %v: must not be negative", c.YieldFor)
	check(c.Wait == nil || *c.Wait >= 0, "wait: must not be negative")
	check(c.MaxSkew > 0 && c.MaxSkew < 0.5, "max skew %v: between 0 and 0.5", c.MaxSkew)
	// After the last renewal that was answered, two more must fit before the stop.
	check(c.TTL >= c.StopTime+3*c.RenewEvery,
		"ttl %v cannot hold: stop time %v and 3 renewals every %v need %v", c.TTL, c.StopTime, c.RenewEvery, c.StopTime+3*c.RenewEvery)
	check(c.CallTimeout <= c.TTL, "call timeout %v: an answer after the ttl %v is worth nothing", c.CallTimeout, c.TTL)
	return errors.Join(errs...)
}
