package watchdog

import (
	"slices"
	"time"
)

// Observation is what one round saw of one unit.
type Observation struct {
	At      time.Time
	Blind   bool      // the supervisor did not say which process it is
	PID     int       // of the main process; 0: there is none
	Since   time.Time // when that process started; zero: not known
	Stopped Reason    // Stopped when the process is in state T, Frozen when its control group is; else empty
	Err     error     // of the probe
	Sick    string    // a dependency that fails its check; empty: all are well
	Late    bool      // the round came much too late: this process did not run
	Sampled bool      // what the process uses was measured in this round
	Over    string    // with Sampled: what is past its limit, for people; empty: nothing
	Off     bool      // stopped, and not to be started by its supervisor
	Again   int       // how often its supervisor has started it again
	Excused bool      // a dependency is sick without which its process may end
}

// History is what was seen of one unit, as far as Decide needs it. The zero
// value knows nothing.
type History struct {
	Blind    bool
	Paused   bool
	PID      int
	Since    time.Time
	Answered bool        // this process has answered a probe
	Failing  bool        // the last probe failed
	Fails    int         // failures that count
	Good     int         // good answers in a row
	Stops    int         // rounds in a row in state T, or frozen
	Sick     string      // the dependency that was sick at the last round
	Asleep   bool        // the last round came too late to count
	Restarts []time.Time // by the watchdog, oldest first; outlive the process
	Ends     []time.Time // of processes by themselves, the last Policy.Budget within the window; outlive the process
	Again    int         // Observation's, at the last look
	Counted  bool        // Again is known

	StopReason Reason    // of Stops
	Over       string    // what was past its limit at the last measurement
	OverSince  time.Time // of the first of the measurements in a row that found something so
}

// Observe returns the history with one more observation. It is pure; grace is
// the unit's.
func (h History) Observe(p Policy, grace time.Duration, o Observation) History {
	h.Blind = o.Blind
	if o.Blind {
		return h
	}
	h = h.ended(p, o)
	if o.PID != h.PID {
		h = History{
			Paused: h.Paused, Restarts: h.Restarts, Ends: h.Ends, Again: h.Again, Counted: h.Counted,
			PID: o.PID, Since: o.Since,
		}
		if h.Since.IsZero() {
			h.Since = o.At
		}
	}
	h.Sick, h.Asleep = o.Sick, o.Late
	if o.PID == 0 {
		return h
	}
	switch {
	case o.Stopped == "":
		h.Stops = 0
	case !o.Late:
		h.Stops++
		h.StopReason = o.Stopped
	}
	h = h.measured(o)
	h.Failing = o.Err != nil
	switch {
	case o.Err == nil:
		h.Answered = true
		h.Good++
		if h.Good >= p.Rise {
			h.Fails = 0
		}
	case o.Late:
		h.Good = 0
	case o.Sick != "":
		// Nothing counts while it may be the dependency's fault, nor what led to it.
		h.Good, h.Fails = 0, 0
	case !h.Answered && o.At.Sub(h.Since) < grace:
		h.Good = 0
	default:
		h.Good = 0
		h.Fails++
	}
	return h
}

// ended counts the processes that ended by themselves. Who stops the unit ends the
// count.
func (h History) ended(p Policy, o Observation) History {
	more, known := o.Again-h.Again, h.Counted
	h.Again, h.Counted = o.Again, true
	if o.Off || o.Excused {
		h.Ends = nil
		return h
	}
	ends := within(h.Ends, p.Window, o.At)
	if known && more > 0 {
		ends = append(ends, slices.Repeat([]time.Time{o.At}, min(more, p.Budget))...)
	}
	h.Ends = ends[max(0, len(ends)-p.Budget):]
	return h
}

// crashing reports whether its processes end as often as a budget of restarts
// allows, and none has lived and answered for a grace since.
func (h History) crashing(p Policy, now time.Time) bool {
	settled := h.PID != 0 && h.Answered && now.Sub(h.Since) >= p.Grace
	return !settled && len(within(h.Ends, p.Window, now)) >= p.Budget
}

// measured takes what is past its limit. Only an unbroken row of measurements
// counts, and none while a dependency is sick: requests that wait for it pile up.
func (h History) measured(o Observation) History {
	switch {
	case o.Late, o.Sick != "":
		h.Over, h.OverSince = "", time.Time{}
	case !o.Sampled:
	case o.Over == "":
		h.Over, h.OverSince = "", time.Time{}
	default:
		if h.OverSince.IsZero() {
			h.OverSince = o.At
		}
		h.Over = o.Over
	}
	return h
}

// leaks reports whether something has been past its limit for long enough.
func (h History) leaks(p Policy, now time.Time) bool {
	return h.Over != "" && now.Sub(h.OverSince) >= p.LeakHold
}

// Restarted returns the history after a restart was begun at now.
func (h History) Restarted(p Policy, now time.Time) History {
	h.Restarts = append(h.recent(p.Window, now), now)
	h.Counted = false // a supervisor may count this one
	return h
}

// recent returns the restarts of the last window. Times that lie in the future,
// after the clock was set back, are left out: they would count for ever.
func (h History) recent(window time.Duration, now time.Time) []time.Time {
	return within(h.Restarts, window, now)
}

func within(times []time.Time, window time.Duration, now time.Time) []time.Time {
	var out []time.Time
	for _, t := range times {
		if !t.After(now) && now.Sub(t) < window {
			out = append(out, t)
		}
	}
	return out
}
