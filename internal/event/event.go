package event

import (
	"slices"
	"strings"
	"time"
)

// Event is one decision, or one step, with its outcome.
type Event struct {
	Time   time.Time `json:"time"`             // by the master's clock
	Master string    `json:"master"`           // where
	Source string    `json:"source"`           // who decided: "watchdog", "supervisor", "bootstrap", …
	Unit   string    `json:"unit"`             // what it is about: a unit, "host", "disk:/var/lib/hactl", …
	Action string    `json:"action"`           // what was done, or not: "restart", "hold", "warn", "none", …
	Reason string    `json:"reason"`           // why, in the source's stable words
	Detail string    `json:"detail,omitempty"` // for people: "3 of 3", until when, an error
	Result string    `json:"result,omitempty"` // "ok", or what went wrong; empty where nothing was to be done
	Took   float64   `json:"tookSeconds,omitempty"`
}

// Query chooses events. The zero value is all of them.
type Query struct {
	After time.Time // only later ones
	Unit  string    // only of this unit; a prefix with "*" at the end
	Limit int       // at most so many, the latest; 0: all
}

// Match reports whether e is asked for, but for the limit.
func (q Query) Match(e Event) bool {
	if !e.Time.After(q.After) {
		return false
	}
	if prefix, ok := strings.CutSuffix(q.Unit, "*"); ok {
		return strings.HasPrefix(e.Unit, prefix)
	}
	return q.Unit == "" || e.Unit == q.Unit
}

// Sort orders events of several masters by time.
func Sort(events []Event) {
	slices.SortStableFunc(events, func(a, b Event) int { return a.Time.Compare(b.Time) })
}
