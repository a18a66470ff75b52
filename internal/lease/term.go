package lease

import "time"

// Term is one holder's reign, as lead gets it.
type Term struct {
	token    int64
	clock    Clock
	deadline *latest[time.Duration]
	lost     chan struct{}
}

func newTerm(token int64, clock Clock, deadline time.Duration) *Term {
	return &Term{token: token, clock: clock, deadline: newLatest(deadline), lost: make(chan struct{})}
}

// Token is the fencing token. A sink that remembers the greatest token it saw,
// and refuses smaller ones, is safe against every late write.
func (t *Term) Token() int64 { return t.token }

// Deadline is the moment on the Clock at which the work must have stopped, and a
// channel that is closed when a renewal moved it. It never moves back.
func (t *Term) Deadline() (time.Duration, <-chan struct{}) { return t.deadline.get() }

// Lost is closed when there is no time left, also during a polite stop that began
// for another reason: whatever still works must be killed now.
func (t *Term) Lost() <-chan struct{} { return t.lost }

// Valid reports whether the deadline lies ahead. What matters must be asked right
// before it is done; a gate asks before each forwarded read.
func (t *Term) Valid() bool {
	d, _ := t.deadline.get()
	return t.clock.Now() < d
}

// extend moves the deadline, never back.
func (t *Term) extend(to time.Duration) {
	if d, _ := t.deadline.get(); to > d {
		t.deadline.update(func(d *time.Duration) { *d = to })
	}
}
