package pool

import (
	"fmt"
	"time"
)

// State is how a backend stands.
type State int

// The states. Starting: no probe has decided yet.
const (
	Starting State = iota
	Ready
	Draining
	Ejected
)

func (s State) String() string { return [...]string{"starting", "ready", "draining", "ejected"}[s] }

// MarshalText writes the state's word.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the state's word.
func (s *State) UnmarshalText(p []byte) error {
	for c := Starting; c <= Ejected; c++ {
		if c.String() == string(p) {
			*s = c
			return nil
		}
	}
	return fmt.Errorf("backend state %q: want starting, ready, draining or ejected", p)
}

// Answer is what a probe found.
type Answer int

// The answers. They differ in what they say about old connections.
const (
	// OK: ready.
	OK Answer = iota
	// Red: it answers, and says (or shows, by a certificate that does not verify)
	// that it must get nothing new. Its old connections work.
	Red
	// Gone: nothing listens. If the process died, its kernel has ended the old
	// connections; if they still stand, it is shutting down gracefully and
	// finishing them. There is nothing to cut either way.
	Gone
	// Silent: no answer in time. It is frozen or cut off, and so are its old
	// connections.
	Silent
)

func (a Answer) String() string { return [...]string{"ok", "red", "gone", "silent"}[a] }

// Rules say how many answers decide.
type Rules struct {
	Rise int // good answers in a row that make a backend ready; default 1
	Fall int // bad answers in a row that take it out; default 2
}

// Health judges one backend by the answers to its probes. The zero value is a
// backend that nothing is known of.
type Health struct {
	State State
	Why   string    // what the last change was for
	Since time.Time // of the last change

	good, bad, silent int
}

// Change says what Observe changed.
type Change struct {
	From, To State
	Cut      bool // old connections hang: reset them
}

// Observe takes one answer. why is the answer in words. It reports whether the
// state changed, or old connections must be cut.
func (h *Health) Observe(r Rules, a Answer, why string, now time.Time) (Change, bool) {
	from := h.State
	if a == OK {
		h.good, h.bad, h.silent = h.good+1, 0, 0
		if from == Ready || h.good < max(1, r.Rise) {
			return Change{}, false
		}
		return h.to(Ready, why, now, false), true
	}
	fall := max(1, r.Fall)
	h.good, h.bad = 0, h.bad+1
	if a == Silent {
		h.silent++
	} else {
		h.silent = 0
	}
	if h.bad < fall {
		return Change{}, false
	}
	to, cut := Ejected, h.silent == fall
	switch {
	case a == Red:
		to = Draining
	case a == Silent && from == Draining && !cut:
		to = Draining // it finishes its old connections; silence must be sure to end that
	}
	if to == from {
		return Change{From: from, To: from, Cut: cut}, cut
	}
	return h.to(to, why, now, cut), true
}

func (h *Health) to(s State, why string, now time.Time, cut bool) Change {
	c := Change{From: h.State, To: s, Cut: cut}
	h.State, h.Why, h.Since = s, why, now
	return c
}
