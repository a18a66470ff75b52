package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
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
	few := thrift{}
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
			for _, e := range few.pass(events, time.Now()) {
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

// A unit that ends ten times a second would push everything else out of the file
// within minutes: of each only the first so many events of a window are kept, and
// the last one, once it has been quiet for a while.
const (
	thriftMost   = 20
	thriftWindow = 10 * time.Minute
	thriftQuiet  = 10 * time.Second
)

// thrift bounds the events of each unit. Its zero value is not ready: make it.
type thrift map[string]*kept

// kept is what thrift knows of a unit.
type kept struct {
	began   time.Time // of the window
	passed  int       // events within it
	left    int       // events left out since the last one that passed
	held    event.Event
	heldAt  time.Time // of held, the last one left out
	waiting bool      // held is to be told once the unit is quiet
}

// pass returns those of the events, all of now, that are kept, and those held back
// whose unit is quiet. It is pure but for t.
func (t thrift) pass(events []event.Event, now time.Time) []event.Event {
	var out []event.Event
	for _, e := range events {
		k := t[e.Unit]
		if k == nil || now.Sub(k.began) >= thriftWindow {
			left := 0
			if k != nil {
				left = k.left
			}
			k = &kept{began: now, left: left}
			t[e.Unit] = k
		}
		e.Time = now
		if k.passed++; k.passed > thriftMost {
			k.left, k.held, k.heldAt, k.waiting = k.left+1, e, now, true
			continue
		}
		out = append(out, k.told(e, k.left))
		k.left, k.waiting = 0, false
	}
	for _, unit := range slices.Sorted(maps.Keys(t)) {
		if k := t[unit]; k.waiting && now.Sub(k.heldAt) >= thriftQuiet {
			out = append(out, k.told(k.held, k.left-1))
			k.left, k.waiting = 0, false
		}
	}
	return out
}

func (k *kept) told(e event.Event, left int) event.Event {
	if left > 0 {
		e.Detail += fmt.Sprintf("; %d events before it are left out", left)
	}
	return e
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
