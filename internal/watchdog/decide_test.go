package watchdog

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	noon   = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	policy = Policy{}.withDefaults()
	errBad = errors.New("bad")
)

func ago(ds ...time.Duration) []time.Time {
	var out []time.Time
	for _, d := range ds {
		out = append(out, noon.Add(-d))
	}
	return out
}

func TestDecide(t *testing.T) {
	hung := History{PID: 1, Fails: 3, Failing: true}
	with := func(change func(*History)) History { h := hung; change(&h); return h }
	for name, c := range map[string]struct {
		h    History
		want string
	}{
		"nothing known":         {History{}, "none (not running)"},
		"well":                  {History{PID: 1}, "none (healthy)"},
		"starting":              {History{PID: 1, Failing: true}, "none (starting)"},
		"in doubt":              {History{PID: 1, Fails: 2}, "none (in doubt, 2 of 3)"},
		"stopped in doubt":      {History{PID: 1, Stops: 2, Fails: 1}, "none (in doubt, stopped, 2 of 3)"},
		"hung":                  {hung, "restart (no answer, 3 of 3)"},
		"stopped":               {History{PID: 1, Stops: 3, StopReason: Stopped}, "restart (stopped (state T), 3 of 3)"},
		"stopped beats hung":    {with(func(h *History) { h.Stops, h.StopReason = 4, Stopped }), "restart (stopped (state T), 4 of 3)"},
		"no process":            {with(func(h *History) { h.PID = 0 }), "none (not running)"},
		"blind":                 {with(func(h *History) { h.Blind = true }), "hold (supervisor silent)"},
		"paused":                {with(func(h *History) { h.Paused = true }), "hold (paused, no answer)"},
		"paused and well":       {History{PID: 1, Paused: true}, "none (healthy)"},
		"sick dependency":       {History{PID: 1, Failing: true, Sick: "etcd"}, "hold (dependency is sick, etcd)"},
		"sick, but answers":     {History{PID: 1, Sick: "etcd"}, "none (healthy)"},
		"asleep":                {History{PID: 1, Failing: true, Asleep: true}, "none (watchdog was asleep)"},
		"just restarted":        {with(func(h *History) { h.Restarts = ago(9 * time.Second) }), "hold (backing off, 10s after the last restart)"},
		"back-off over":         {with(func(h *History) { h.Restarts = ago(10 * time.Second) }), "restart (no answer, 3 of 3)"},
		"second back-off":       {with(func(h *History) { h.Restarts = ago(time.Minute, 19*time.Second) }), "hold (backing off, 20s after the last restart)"},
		"old restarts are free": {with(func(h *History) { h.Restarts = ago(11*time.Minute, 10*time.Minute) }), "restart (no answer, 3 of 3)"},
		"budget": {with(func(h *History) {
			h.Restarts = ago(9*time.Minute, 8*time.Minute, 7*time.Minute, 6*time.Minute, 5*time.Minute)
		}), "hold (budget spent, 5 restarts within 10m0s)"},
		"the future counts not": {with(func(h *History) { h.Restarts = ago(-time.Hour) }), "restart (no answer, 3 of 3)"},
		"budget comes back": {with(func(h *History) {
			h.Restarts = ago(10*time.Minute, 9*time.Minute, 8*time.Minute, 7*time.Minute, 6*time.Minute)
		}), "restart (no answer, 3 of 3)"},
		"frozen":                  {History{PID: 1, Stops: 3, StopReason: Frozen}, "restart (frozen (cgroup), 3 of 3)"},
		"past a limit, not yet":   {History{PID: 1, Over: "memory", OverSince: noon.Add(-time.Minute)}, "none (in doubt, memory)"},
		"past a limit":            {History{PID: 1, Over: "memory", OverSince: noon.Add(-5 * time.Minute)}, "restart (past a limit, memory for 5m0s)"},
		"a leak and paused":       {History{PID: 1, Paused: true, Over: "memory", OverSince: noon.Add(-5 * time.Minute)}, "hold (paused, past a limit)"},
		"a leak backs off":        {History{PID: 1, Over: "memory", OverSince: noon.Add(-5 * time.Minute), Restarts: ago(time.Second)}, "hold (backing off, 10s after the last restart)"},
		"paused even when budget": {with(func(h *History) { h.Paused = true; h.Restarts = ago(time.Second) }), "hold (paused, no answer)"},
	} {
		if got := Decide(policy, c.h, noon).String(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestObserveKeepsItsArgument(t *testing.T) {
	h := History{PID: 1, Fails: 2, Restarts: ago(time.Hour, time.Minute)}
	before := History{PID: 1, Fails: 2, Restarts: ago(time.Hour, time.Minute)}
	h.Observe(policy, time.Minute, Observation{At: noon, PID: 2, Err: errBad})
	got := h.Restarted(policy, noon)
	if !reflect.DeepEqual(h, before) {
		t.Errorf("changed: %+v", h)
	}
	if want := append(ago(time.Minute), noon); !reflect.DeepEqual(got.Restarts, want) {
		t.Errorf("Restarted kept %v, want %v: what is older than the window goes", got.Restarts, want)
	}
}

func TestObserveTakesTheGraceFromTheProcessStart(t *testing.T) {
	for name, c := range map[string]struct {
		since time.Time
		fails int
	}{
		"young":   {noon.Add(-30 * time.Second), 0},
		"old":     {noon.Add(-2 * time.Minute), 1}, // this watchdog is new, the process is not
		"unknown": {time.Time{}, 0},
	} {
		h := History{}.Observe(policy, time.Minute, Observation{At: noon, PID: 1, Since: c.since, Err: errBad})
		if h.Fails != c.fails || !h.Failing {
			t.Errorf("%s: %+v, want %d failures", name, h, c.fails)
		}
	}
}

// Whatever is seen, some things never happen.
func TestNeverRestarts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{Fall: rapid.IntRange(1, 4).Draw(t, "fall"), Rise: rapid.IntRange(1, 3).Draw(t, "rise"), Budget: rapid.IntRange(1, 3).Draw(t, "budget")}.withDefaults()
		var h History
		now, bad := noon, 0
		var restarts []time.Time
		for range rapid.IntRange(1, 200).Draw(t, "rounds") {
			now = now.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "gap")) * time.Second)
			o := Observation{
				At: now, PID: rapid.IntRange(0, 2).Draw(t, "pid"), Blind: rapid.IntRange(0, 9).Draw(t, "blind") == 0,
				Stopped: rapid.SampledFrom([]Reason{"", Stopped, Frozen}).Draw(t, "stopped"), Late: rapid.IntRange(0, 5).Draw(t, "late") == 0,
			}
			if rapid.IntRange(0, 3).Draw(t, "fails") > 0 {
				o.Err = errBad
			}
			if rapid.IntRange(0, 3).Draw(t, "sick") == 0 {
				o.Sick = "etcd"
			}
			if !o.Blind && o.PID != h.PID {
				bad = 0
			}
			if !o.Blind && !o.Late && (o.Err != nil || o.Stopped != "") {
				bad++
			}
			h = h.Observe(p, 0, o)
			a := Decide(p, h, now)
			if a.Kind != Restart {
				continue
			}
			recent := 0
			for _, r := range restarts {
				if now.Sub(r) < p.Window {
					recent++
				}
			}
			switch {
			case o.Blind, o.PID == 0:
				t.Fatalf("restart of an unknown process: %+v", o)
			case bad < p.Fall:
				t.Fatalf("restart after %d bad rounds of this process, fall is %d", bad, p.Fall)
			case recent >= p.Budget:
				t.Fatalf("restart %d within the window, budget is %d", recent+1, p.Budget)
			case recent > 0 && now.Sub(restarts[len(restarts)-1]) < p.Backoff.Base:
				t.Fatalf("restart %v after the last one", now.Sub(restarts[len(restarts)-1]))
			case a.Reason == NoAnswer && o.Sick != "" && o.Err != nil && !o.Late:
				t.Fatalf("restart for no answer while a dependency is sick: %+v", h)
			}
			restarts = append(restarts, now)
			h = h.Restarted(p, now)
		}
	})
}

func TestPolicyPauses(t *testing.T) {
	for n, want := range map[int]time.Duration{1: 10 * time.Second, 2: 20 * time.Second, 3: 40 * time.Second, 9: 5 * time.Minute} {
		if got := policy.pause(n); got != want {
			t.Errorf("pause after %d restarts: %v, want %v", n, got, want)
		}
	}
}

func TestTurnsNeverOverlap(t *testing.T) {
	const slot, guard = 30 * time.Second, 3 * time.Second
	const restart = slot / 2 // no restart takes so long
	for masters := 2; masters <= 5; masters++ {
		round := slot * time.Duration(masters)
		last := make([]time.Time, masters) // last moment each may begin
		for at := noon; at.Before(noon.Add(2 * round)); at = at.Add(100 * time.Millisecond) {
			for m := range masters {
				skew := time.Duration(m%2) * (2*guard - time.Millisecond) // the clocks of odd ones are ahead
				if (Turns{Index: m, Masters: masters}).wait(at.Add(skew)) > 0 {
					continue
				}
				last[m] = at
				for other, l := range last {
					if other != m && !l.IsZero() && at.Sub(l) < restart {
						t.Fatalf("%d masters: m%d may begin at %v, m%d might at %v", masters, m, at, other, l)
					}
				}
			}
		}
		for m, l := range last {
			if l.IsZero() {
				t.Errorf("%d masters: m%d never gets its turn", masters, m)
			}
		}
	}
}

func TestTurnsSayWhen(t *testing.T) {
	turns := Turns{Index: 1, Masters: 3, Slot: 20 * time.Second, Guard: 2 * time.Second}
	start := time.Unix(0, 0)
	for into, want := range map[time.Duration]time.Duration{
		0: 22 * time.Second, 21 * time.Second: time.Second, 22 * time.Second: 0, 27 * time.Second: 0,
		28 * time.Second: 54 * time.Second, 59 * time.Second: 23 * time.Second,
	} {
		if got := turns.wait(start.Add(into)); got != want {
			t.Errorf("%v into the round: wait %v, want %v", into, got, want)
		}
	}
	if _, err := (Turns{Index: 0, Masters: 1}).Permit(t.Context(), Ask{Unit: "u"}); err != nil {
		t.Errorf("alone: %v", err)
	}
}

func ExampleDecide() {
	p := Policy{Every: time.Second, Timeout: 2 * time.Second, Fall: 3, Rise: 2, Window: 10 * time.Minute, Budget: 5}
	h := History{}
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for range 3 {
		now = now.Add(time.Second)
		h = h.Observe(p, 0, Observation{At: now, PID: 4711, Err: errors.New("no answer within 2s")})
		fmt.Println(Decide(p, h, now))
	}
	// Output:
	// none (in doubt, 1 of 3)
	// none (in doubt, 2 of 3)
	// restart (no answer, 3 of 3)
}
