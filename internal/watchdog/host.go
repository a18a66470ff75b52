package watchdog

import (
	"fmt"
	"time"
)

// Mark says that a host cannot be healed by restarts of its units: others should
// take its work, and a person look at it. The zero value is a good host.
type Mark struct {
	On     bool      `json:"on"`
	Reason string    `json:"reason,omitempty"` // for people
	Since  time.Time `json:"since,omitzero"`   // of On
	// IllSince and WellSince are since when all looks have said the same.
	IllSince  time.Time `json:"illSince,omitzero"`
	WellSince time.Time `json:"wellSince,omitzero"`
}

// MarkPolicy says when a host is given up, and taken back. Zero fields get the
// defaults.
type MarkPolicy struct {
	After time.Duration // how long restarts must have been of no use; default 2m
	Until time.Duration // how long all must be well before the mark goes; default 1m
}

// MarkPolicy's defaults.
const (
	markAfter = 2 * time.Minute
	markUntil = time.Minute
)

// Next returns the mark after one more look at the host's units. It is pure. Only
// the vital ones count, those that the host is a master for. A pause is somebody's
// wish, and a sick dependency is not this host's fault: neither marks.
func (m Mark) Next(p MarkPolicy, vital map[string]bool, units []TargetStatus, now time.Time) Mark {
	if p.After <= 0 {
		p.After = markAfter
	}
	if p.Until <= 0 {
		p.Until = markUntil
	}
	why, well := "", true
	for _, u := range units {
		if !vital[u.Unit] {
			continue
		}
		if u.Action.Reason != Healthy {
			well = false
		}
		if beyondHelp(u.Action) && why == "" {
			why = fmt.Sprintf("%s: %s", u.Unit, u.Action)
		}
	}
	m.IllSince, m.WellSince = since(m.IllSince, why != "", now), since(m.WellSince, well, now)
	switch {
	case !m.On && why != "" && now.Sub(m.IllSince) >= p.After:
		m.On, m.Reason, m.Since = true, why, now
	case m.On && well && now.Sub(m.WellSince) >= p.Until:
		m.On, m.Reason, m.Since = false, "", time.Time{}
	}
	return m
}

// beyondHelp reports whether the watchdog has done what it can.
func beyondHelp(a Action) bool {
	return a.Kind == Hold && (a.Reason == BudgetUsed || a.Reason == Blind || a.Reason == Crashing)
}

// since keeps the first moment of something that goes on.
func since(t time.Time, now bool, at time.Time) time.Time {
	switch {
	case !now:
		return time.Time{}
	case t.IsZero():
		return at
	default:
		return t
	}
}
