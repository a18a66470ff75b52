package watchdog

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// Ask is a wish for a restart.
type Ask struct {
	Unit   string
	Reason Reason
	// Gentle: the unit works, and the restart can wait (Leak).
	Gentle bool
}

// Permit asks whether a unit may be restarted now. It returns why not, or a func
// (which may be nil) that is called when the restart is over. It should answer
// within a few seconds; without an answer the restart is held and asked for
// again.
type Permit func(ctx context.Context, ask Ask) (release func(), err error)

// Turns is the rule for when the masters cannot ask each other: time is cut into
// slots by the wall clock, and each master begins restarts only in the first half
// of its own. No two masters restart at the same time as long as their clocks
// differ by less than twice Guard and a restart takes less than half a Slot.
type Turns struct {
	Index   int           // of this master among Masters, from 0, the same order everywhere
	Masters int           // how many there are
	Slot    time.Duration // default 30s: an API server takes less than half of it to serve again
	Guard   time.Duration // at both ends of the half slot nothing begins; default Slot/10
}

// Permit implements the type Permit.
func (t Turns) Permit(context.Context, Ask) (release func(), err error) {
	if wait := t.wait(time.Now()); wait > 0 {
		return nil, fmt.Errorf("another master's turn, ours is in %v", wait.Round(time.Second))
	}
	return func() {}, nil
}

// wait is how long after now this master's turn comes; 0: it is now.
func (t Turns) wait(now time.Time) time.Duration {
	if t.Masters <= 1 {
		return 0
	}
	slot := cmp.Or(t.Slot, 30*time.Second)
	guard := cmp.Or(t.Guard, slot/10)
	round := slot * time.Duration(t.Masters)
	into := time.Duration(now.UnixNano() % int64(round))
	from := slot*time.Duration(t.Index) + guard
	if into >= from && into < from+slot/2-2*guard {
		return 0
	}
	return (from - into + round) % round
}
