package agent

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/hactl/hactl/internal/event"
	"github.com/hactl/hactl/internal/watchdog"
	"github.com/hactl/hactl/internal/workload"
)

// The sources of this package's events.
const (
	sourceWatchdog   = "watchdog"
	sourceSupervisor = "supervisor"
	sourceMeeting    = "rendezvous"
)

// decided makes an event of a decision of the watchdog.
func decided(d watchdog.Decision) event.Event {
	e := event.Event{
		Time: d.At, Source: sourceWatchdog, Unit: d.Unit, Action: string(d.Action.Kind), Reason: string(d.Action.Reason), Detail: d.Action.Detail,
	}
	if e.Unit == "" {
		e.Unit = "*"
	}
	switch {
	case d.Done:
		e.Took, e.Result = d.Took.Seconds(), "ok"
		if d.Error != "" {
			e.Result = d.Error
		}
	case d.Action.Kind == watchdog.Restart:
		e.Result = "begun"
		fallthrough
	default:
		if d.Error != "" && d.Error != e.Detail {
			if e.Detail != "" {
				e.Detail += ": "
			}
			e.Detail += d.Error
		}
	}
	return e
}

// followUnits records when a process ends and when its unit is active again,
// which is the supervisor's doing. A supervisor that sends signals is asked after
// each, another one every second.
func (a *Agent) followUnits(ctx context.Context) error {
	signals, _ := a.cfg.Manager.(interface{ Changed() <-chan struct{} })
	pause := time.Second
	if signals != nil {
		pause = 10 * time.Second
	}
	var known map[string]workload.State
	for {
		var changed <-chan struct{}
		if signals != nil {
			changed = signals.Changed() // before asking: nothing is missed between
		}
		asked, cancel := context.WithTimeout(ctx, 5*time.Second)
		states, err := a.cfg.Manager.Units(asked)
		cancel()
		if err == nil {
			var events []event.Event
			known, events = unitEvents(known, states)
			for _, e := range events {
				a.events.Record(e)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(pause):
		}
	}
}

// unitEvents compares the units' states with those known before; nil: none were.
// It is pure.
func unitEvents(known map[string]workload.State, states []workload.State) (map[string]workload.State, []event.Event) {
	now := make(map[string]workload.State, len(states))
	var events []event.Event
	for _, s := range states {
		now[s.Name] = s
		before, seen := known[s.Name]
		if !seen {
			continue
		}
		if before.MainPID != 0 && before.MainPID != s.MainPID {
			events = append(events, event.Event{
				Source: sourceSupervisor, Unit: s.Name, Action: "ended", Reason: orUnknown(s.LastExit), Detail: "pid " + strconv.Itoa(before.MainPID),
			})
		}
		active := s.Active == workload.Active
		if active && (before.Active != workload.Active || before.MainPID != s.MainPID) {
			events = append(events, event.Event{
				Source: sourceSupervisor, Unit: s.Name, Action: "active", Reason: "serves",
				Detail: fmt.Sprintf("pid %d, restarts %d", s.MainPID, s.Restarts), Result: "ok",
			})
		}
	}
	return now, events
}

func orUnknown(s string) string {
	if s == "" {
		return "not known why"
	}
	return s
}
