package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/event"
	"github.com/hactl/hactl/internal/watchdog"
	"github.com/hactl/hactl/internal/workload"
)

func testCluster() *config.Cluster {
	c := config.Default()
	c.Name = "test"
	c.Masters = []config.Master{{Name: "m1", Address: "127.0.1.1"}, {Name: "m2", Address: "127.0.1.2"}, {Name: "m3", Address: "127.0.1.3"}}
	return c
}

func TestDecidedTellsEverything(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	hung := watchdog.Action{Kind: watchdog.Restart, Reason: watchdog.NoAnswer, Detail: "3 of 3"}
	for name, c := range map[string]struct {
		d    watchdog.Decision
		want event.Event
	}{
		"a restart begins": {
			watchdog.Decision{At: at, Unit: "u", Action: hung, Error: "timeout"},
			event.Event{Time: at, Source: "watchdog", Unit: "u", Action: "restart", Reason: "no answer", Detail: "3 of 3: timeout", Result: "begun"},
		},
		"its result": {
			watchdog.Decision{At: at, Unit: "u", Action: hung, Done: true, Took: 2 * time.Second},
			event.Event{Time: at, Source: "watchdog", Unit: "u", Action: "restart", Reason: "no answer", Detail: "3 of 3", Result: "ok", Took: 2},
		},
		"a bad result": {
			watchdog.Decision{At: at, Unit: "u", Action: hung, Done: true, Took: time.Second, Error: "job failed"},
			event.Event{Time: at, Source: "watchdog", Unit: "u", Action: "restart", Reason: "no answer", Detail: "3 of 3", Result: "job failed", Took: 1},
		},
		"a pause of all": {
			watchdog.Decision{At: at, Action: watchdog.Action{Kind: watchdog.PauseKind, Reason: watchdog.Ordered, Detail: "by me"}},
			event.Event{Time: at, Source: "watchdog", Unit: "*", Action: "pause", Reason: "ordered", Detail: "by me"},
		},
		"a hold": {
			watchdog.Decision{At: at, Unit: "u", Action: watchdog.Action{Kind: watchdog.Hold, Reason: watchdog.Dependency, Detail: "etcd"}, Error: "500"},
			event.Event{Time: at, Source: "watchdog", Unit: "u", Action: "hold", Reason: "dependency is sick", Detail: "etcd: 500"},
		},
	} {
		if got := decided(c.d); got != c.want {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, c.want)
		}
	}
}

func TestUnitEvents(t *testing.T) {
	running := workload.State{Name: "u", Active: workload.Active, MainPID: 7}
	tell := func(before, now workload.State) string {
		known, events := unitEvents(nil, []workload.State{before})
		if len(events) > 0 {
			t.Errorf("the first look tells %+v", events)
		}
		_, events = unitEvents(known, []workload.State{now})
		var words []string
		for _, e := range events {
			words = append(words, fmt.Sprintf("%s (%s)", e.Action, e.Reason))
		}
		return strings.Join(words, ", ")
	}
	for want, c := range map[string][2]workload.State{
		"":                                       {running, {Name: "u", Active: workload.Active, MainPID: 7, Status: "busy"}},
		"ended (signal: killed)":                 {running, {Name: "u", Active: workload.Activating, LastExit: "signal: killed"}},
		"ended (watchdog), active (serves)":      {running, {Name: "u", Active: workload.Active, MainPID: 8, LastExit: "watchdog"}},
		"active (serves)":                        {{Name: "u", Active: workload.Activating, MainPID: 7}, running},
		"ended (not known why), active (serves)": {running, {Name: "u", Active: workload.Active, MainPID: 9}},
	} {
		if got := tell(c[0], c[1]); got != want {
			t.Errorf("%+v:\n got %q\nwant %q", c, got, want)
		}
	}
}

// A crash loop does not push everything else out, and its end is told.
func TestThrift(t *testing.T) {
	few, now := thrift{}, time.Unix(1000, 0)
	one := func(unit, what string) []event.Event {
		return []event.Event{{Unit: unit, Action: what, Detail: "pid 1"}}
	}
	passed := 0
	for range 500 {
		passed += len(few.pass(one("u", "ended"), now))
		now = now.Add(100 * time.Millisecond)
	}
	if passed != thriftMost {
		t.Errorf("%d of 500 events within 50 s passed, want %d", passed, thriftMost)
	}
	if got := few.pass(one("other", "active"), now); len(got) != 1 || got[0].Unit != "other" {
		t.Errorf("another unit's event: %+v", got)
	}
	if got := few.pass(one("u", "active"), now); len(got) != 0 {
		t.Errorf("passed: %+v", got)
	}
	last := now
	if got := few.pass(nil, now.Add(thriftQuiet-1)); len(got) != 0 {
		t.Errorf("not quiet yet, and told: %+v", got)
	}
	got := few.pass(nil, now.Add(thriftQuiet))
	if len(got) != 1 || got[0].Action != "active" || !got[0].Time.Equal(last) || got[0].Detail != "pid 1; 480 events before it are left out" {
		t.Errorf("quiet, and told: %+v", got)
	}
	if got := few.pass(nil, now.Add(time.Hour)); len(got) != 0 {
		t.Errorf("told twice: %+v", got)
	}
	if got := few.pass(one("u", "ended"), now.Add(time.Hour)); len(got) != 1 || got[0].Detail != "pid 1" {
		t.Errorf("in the next window: %+v", got)
	}
}

func TestClocks(t *testing.T) {
	var c clocks
	if err := c.check(t.Context()); err != nil {
		t.Errorf("nobody was asked: %v", err)
	}
	c.set("m2", 400*time.Millisecond, nil)
	if err := c.check(t.Context()); err != nil {
		t.Errorf("within the limit: %v", err)
	}
	c.set("m3", -time.Hour, nil)
	c.set("m2", 3*time.Second, nil)
	if err := c.check(t.Context()); err == nil || err.Error() != "m2 is 3s ahead of this master's clock, m3 is 1h0m0s behind this master's clock" {
		t.Errorf("check = %v", err)
	}
	c.set("m2", 0, nil)
	c.set("m3", 0, errors.New("gone"))
	if err := c.check(t.Context()); err != nil {
		t.Errorf("healed, and gone: %v", err)
	}
}

func TestDiskLow(t *testing.T) {
	for _, c := range []struct {
		was         bool
		free, total uint64
		want        bool
	}{
		{false, 100, 1000, false}, {false, 99, 1000, true}, // 10 %
		{true, 119, 1000, true}, {true, 120, 1000, false}, // until 12 %
		{false, 0, 1000, true}, {false, 0, 0, false},
	} {
		if got := diskLow(c.was, c.free, c.total, 10); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
