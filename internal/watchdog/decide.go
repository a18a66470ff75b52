package watchdog

import (
	"fmt"
	"time"
)

// Kind is what to do.
type Kind string

// The kinds of action.
const (
	None    Kind = "none"    // nothing is wrong, or not yet enough
	Restart Kind = "restart" // stop it, by force unless it is for a leak, and start it
	Warn    Kind = "warn"    // something is wrong that no restart heals
	Hold    Kind = "hold"    // something is wrong, and a restart is not allowed or would not help

	PauseKind  Kind = "pause"  // somebody paused the watchdog
	ResumeKind Kind = "resume" // it goes on
)

// Reason is why.
type Reason string

// The reasons of actions.
const (
	Healthy    Reason = "healthy"
	NotRunning Reason = "not running"          // None: its supervisor's business
	Starting   Reason = "starting"             // None: fails probes within its grace
	Doubt      Reason = "in doubt"             // None: fails, not yet often enough
	Asleep     Reason = "watchdog was asleep"  // None: this very process did not run
	NoAnswer   Reason = "no answer"            // Restart
	Stopped    Reason = "stopped (state T)"    // Restart
	Frozen     Reason = "frozen (cgroup)"      // Restart
	Leak       Reason = "past a limit"         // Restart, not forced
	Ordered    Reason = "ordered"              // PauseKind, ResumeKind
	TimeOver   Reason = "its time is over"     // ResumeKind
	DiskLow    Reason = "disk nearly full"     // Warn
	ClockSkew  Reason = "clock skew"           // Warn
	Dependency Reason = "dependency is sick"   // Hold
	BackingOff Reason = "backing off"          // Hold
	BudgetUsed Reason = "budget spent"         // Hold
	Paused     Reason = "paused"               // Hold
	Blind      Reason = "supervisor silent"    // Hold: the process is not known
	Busy       Reason = "another restart"      // Hold: one at a time on a host
	Refused    Reason = "not permitted"        // Hold: Config.Permit said no
	Crashing   Reason = "ends again and again" // Hold: its supervisor starts it, and that does not help
)

// Action is a decision with its reason.
type Action struct {
	Kind   Kind   `json:"kind"`
	Reason Reason `json:"reason"`
	Detail string `json:"detail,omitempty"` // for people: "3 of 3", the dependency, until when
}

// String is "restart (no answer, 3 of 3)".
func (a Action) String() string {
	if a.Detail == "" {
		return fmt.Sprintf("%s (%s)", a.Kind, a.Reason)
	}
	return fmt.Sprintf("%s (%s, %s)", a.Kind, a.Reason, a.Detail)
}

// Decide says what to do about one unit, from what was seen of it until now. It
// is pure. The policy has its defaults.
func Decide(p Policy, h History, now time.Time) Action {
	if h.Blind {
		return Action{Hold, Blind, ""}
	}
	if h.PID == 0 {
		if h.crashing(p, now) {
			return crash(h)
		}
		return Action{None, NotRunning, ""}
	}
	var wrong Action
	switch {
	case h.Stops >= p.Fall:
		wrong = Action{Restart, h.StopReason, fmt.Sprintf("%d of %d", h.Stops, p.Fall)}
	case h.Fails >= p.Fall:
		wrong = Action{Restart, NoAnswer, fmt.Sprintf("%d of %d", h.Fails, p.Fall)}
	case h.leaks(p, now):
		wrong = Action{Restart, Leak, fmt.Sprintf("%s for %v", h.Over, p.LeakHold)}
	default:
		return mild(p, h, now)
	}
	if h.Paused {
		return Action{Hold, Paused, string(wrong.Reason)}
	}
	recent := h.recent(p.Window, now)
	if len(recent) >= p.Budget {
		return Action{Hold, BudgetUsed, fmt.Sprintf("%d restarts within %v", len(recent), p.Window)}
	}
	if n := len(recent); n > 0 {
		if next := recent[n-1].Add(p.pause(n)); now.Before(next) {
			return Action{Hold, BackingOff, fmt.Sprintf("%v after the last restart", p.pause(n))}
		}
	}
	return wrong
}

// crash is the decision about a unit whose processes end one after the other: its
// supervisor restarts it already.
func crash(h History) Action {
	if h.Paused {
		return Action{Hold, Paused, string(Crashing)}
	}
	span := h.Ends[len(h.Ends)-1].Sub(h.Ends[0]).Round(time.Second)
	return Action{Hold, Crashing, fmt.Sprintf("%d ends within %v", len(h.Ends), span)}
}

// mild is the decision where too little is wrong for a restart.
func mild(p Policy, h History, now time.Time) Action {
	switch {
	case h.Asleep:
		return Action{None, Asleep, ""}
	case h.crashing(p, now): // ends that a dependency excuses are not counted
		return crash(h)
	case h.Failing && h.Sick != "":
		return Action{Hold, Dependency, h.Sick}
	case h.Stops > 0:
		return Action{None, Doubt, fmt.Sprintf("stopped, %d of %d", h.Stops, p.Fall)}
	case h.Fails > 0:
		return Action{None, Doubt, fmt.Sprintf("%d of %d", h.Fails, p.Fall)}
	case h.Failing:
		return Action{None, Starting, ""}
	case h.Over != "":
		return Action{None, Doubt, h.Over}
	default:
		return Action{None, Healthy, ""}
	}
}
