package watchdog

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/hactl/hactl/internal/backoff"
	"github.com/hactl/hactl/internal/config"
)

// Policy says when a process counts as hung and how often it may be restarted.
// Zero fields get the defaults.
type Policy struct {
	Every   time.Duration // between two rounds of probes; default 1s
	Timeout time.Duration // a probe that takes longer has failed; default 2s
	// Fall is how many failures make a process hung; default 3. With the other
	// defaults a hung API server is found within 6 s; fewer finds it sooner and
	// takes a short stall for a hang.
	Fall int
	// Rise is how many good answers in a row wipe failures out; default 2. With 1
	// a process that answers every third probe would never count as hung.
	Rise int
	// Grace is how long a new process may fail probes before it has answered one;
	// default 60s. A Target may have its own.
	Grace  time.Duration
	Window time.Duration // over which Budget counts; default 10m
	Budget int           // restarts of one unit within Window; default 5
	// Backoff is the least time from one restart of a unit to the next: the n-th
	// pause after n restarts within Window. Default 10s, doubling to 5m.
	Backoff backoff.Backoff
	// LeakHold is how long a unit must be past one of its limits before it is
	// restarted for that; default 5m. Less takes a burst of work for a leak.
	LeakHold time.Duration
	// Sample is the time between two measurements of what units use; default 10s.
	Sample time.Duration
}

// PolicyOf takes what the cluster's configuration says of the watchdog.
func PolicyOf(c config.Watchdog) Policy {
	return Policy{Every: c.Every, Timeout: c.Timeout, Fall: c.Fall, Window: c.Window, Budget: c.Budget}
}

func (p Policy) withDefaults() Policy {
	p.Every = cmp.Or(p.Every, time.Second)
	p.Timeout = cmp.Or(p.Timeout, 2*time.Second)
	p.Fall = cmp.Or(p.Fall, 3)
	p.Rise = cmp.Or(p.Rise, 2)
	p.Grace = cmp.Or(p.Grace, time.Minute)
	p.Window = cmp.Or(p.Window, 10*time.Minute)
	p.Budget = cmp.Or(p.Budget, 5)
	p.LeakHold = cmp.Or(p.LeakHold, 5*time.Minute)
	p.Sample = cmp.Or(p.Sample, 10*time.Second)
	p.Backoff.Base = cmp.Or(p.Backoff.Base, 10*time.Second)
	p.Backoff.Max = cmp.Or(p.Backoff.Max, 5*time.Minute)
	return p
}

// validate returns every fault of a policy that has its defaults.
func (p Policy) validate() error {
	var errs []error
	for _, f := range []struct {
		what string
		bad  bool
		is   any
	}{
		{"every", p.Every < 10*time.Millisecond, p.Every},
		{"timeout", p.Timeout <= 0, p.Timeout},
		{"fall", p.Fall < 1, p.Fall},
		{"rise", p.Rise < 1, p.Rise},
		{"grace", p.Grace < 0, p.Grace},
		{"window", p.Window <= 0, p.Window},
		{"budget", p.Budget < 1, p.Budget},
		{"limits.hold", p.LeakHold <= p.Sample, p.LeakHold},
	} {
		if f.bad {
			errs = append(errs, fmt.Errorf("watchdog.%s: %v is too small", f.what, f.is))
		}
	}
	if p.Backoff.Base > p.Window {
		errs = append(errs, fmt.Errorf("watchdog.window: %v is shorter than the first pause between restarts, %v: the budget would never count", p.Window, p.Backoff.Base))
	}
	return errors.Join(errs...)
}

// pause is the least time between the last of n recent restarts and the next.
func (p Policy) pause(n int) time.Duration {
	b := p.Backoff
	b.Jitter = -1 // a decision must not depend on chance
	b.Reset()
	for range n - 1 {
		b.Next()
	}
	return b.Peek()
}
