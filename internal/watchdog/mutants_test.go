package watchdog

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
)

// mutants are watchdogs with one rule broken. Each must decide differently in
// the named scenario, else that rule is not tested. DESIGN.md has the table.
var mutants = map[string]struct {
	killedBy string
	change   mutate
}{
	"one bad answer kills": {"one-bad-answer", func(w *Watchdog) { w.cfg.Policy.Fall = 1 }},
	"one good answer heals": {"flapping", func(w *Watchdog) {
		w.cfg.Policy.Rise = 1
	}},
	"no grace": {"slow-start", func(w *Watchdog) {
		for _, t := range w.targets {
			t.Grace = 0
		}
	}},
	"one grace for all": {"own-grace", func(w *Watchdog) {
		for _, t := range w.targets {
			t.Grace = w.cfg.Policy.Grace
		}
	}},
	"grace after the first answer too": {"slow-start", observing(func(h *History, _ *Observation) { h.Answered = false })},
	"a sick dependency is no excuse":   {"sick-etcd", observing(func(_ *History, o *Observation) { o.Sick = "" })},
	"any sick dependency is an excuse": {"other-dependency", func(w *Watchdog) {
		for _, t := range w.targets {
			t.Needs = []string{"etcd"}
		}
	}},
	"failures before the sickness count": {"sick-etcd-then-hung", func(w *Watchdog) {
		observe := w.observe
		w.observe = func(h History, p Policy, g time.Duration, o Observation) History {
			fails := h.Fails
			h = observe(h, p, g, o)
			if o.Sick != "" {
				h.Fails = fails
			}
			return h
		}
	}},
	"a sick dependency excuses a stopped process": {"stopped-process", func(w *Watchdog) {
		decide := w.decide
		w.decide = func(p Policy, h History, now time.Time) Action {
			if h.Sick != "" {
				h.Stops = 0
			}
			return decide(p, h, now)
		}
	}},
	"state T is not looked at": {"stopped-process", func(w *Watchdog) { w.stopped = func(int) Reason { return "" } }},
	"one moment in state T is enough": {"stopped-for-a-moment", func(w *Watchdog) {
		decide := w.decide
		w.decide = func(p Policy, h History, now time.Time) Action {
			h.Stops *= p.Fall
			return decide(p, h, now)
		}
	}},
	"moments in state T add up": {"stopped-for-a-moment", func(w *Watchdog) {
		observe := w.observe
		w.observe = func(h History, p Policy, g time.Duration, o Observation) History {
			stops := h.Stops
			h = observe(h, p, g, o)
			h.Stops = max(h.Stops, stops)
			return h
		}
	}},
	"no back-off": {"never-starts", func(w *Watchdog) { w.cfg.Policy.Backoff.Base = time.Nanosecond; w.cfg.Policy.Backoff.Max = 1 }},
	"the back-off does not grow": {"never-starts", func(w *Watchdog) {
		w.cfg.Policy.Backoff.Max = w.cfg.Policy.Backoff.Base
	}},
	"no budget":                       {"budget", func(w *Watchdog) { w.cfg.Policy.Budget = 1 << 20 }},
	"the budget never comes back":     {"budget", func(w *Watchdog) { w.cfg.Policy.Window = time.Hour }},
	"a new process has a new budget":  {"budget", observing(func(h *History, o *Observation) { h.forgetIfNew(o) })},
	"a new watchdog has a new budget": {"budget-outlives-the-watchdog", func(w *Watchdog) { w.cfg.StateFile = "" }},
	"pause is forgotten":              {"paused", func(w *Watchdog) { w.cfg.StateFile = "" }},
	"a pause outlives its time": {"paused-unit", func(w *Watchdog) {
		w.cfg.StateFile = ""
		for _, t := range w.targets {
			w.pauses[t.Unit] = Pause{}
		}
	}},
	"a pause of one is a pause of all": {"paused-unit", observing(func(h *History, _ *Observation) { h.Paused = h.Paused || h.PID == 11 })},
	"a frozen group is not looked at": {"frozen", func(w *Watchdog) {
		stopped := w.stopped
		w.stopped = func(pid int) Reason {
			if r := stopped(pid); r != Frozen {
				return r
			}
			return ""
		}
	}},
	"one measurement is a leak":           {"leak", func(w *Watchdog) { w.cfg.Policy.LeakHold = 1 }},
	"measurements add up over a good one": {"leak", observing(func(_ *History, o *Observation) { o.Sampled = o.Sampled && o.Over != "" })},
	"a leak is not looked at":             {"leak", observing(func(_ *History, o *Observation) { o.Over = "" })},
	"a leak is restarted by force": {"leak", func(w *Watchdog) {
		decide := w.decide
		w.decide = func(p Policy, h History, now time.Time) Action {
			a := decide(p, h, now)
			if a.Reason == Leak {
				a.Reason = NoAnswer
			}
			return a
		}
	}},
	"what piles up while etcd is sick is a leak": {"leak-sick-etcd", observing(func(_ *History, o *Observation) { o.Sick = "" })},
	"a leak grows while the host is frozen":      {"leak-asleep", observing(func(_ *History, o *Observation) { o.Late = false })},
	"a leak needs no permit":                     {"leak-not-permitted", func(w *Watchdog) { w.cfg.Permit = nil }},
	"one bad look at a disk is a warning":        {"disk-low", func(w *Watchdog) { w.cfg.Policy.Fall = 1 }},
	"a full disk is not told": {"disk-low", func(w *Watchdog) {
		w.decideNotice = func(Reason, NoticeHistory) Action { return Action{None, Healthy, ""} }
	}},
	"a full disk is a reason to restart": {"disk-low", func(w *Watchdog) {
		w.decideNotice = func(r Reason, h NoticeHistory) Action {
			a := DecideNotice(r, h)
			if a.Kind == Warn {
				a.Kind = Restart
			}
			return a
		}
	}},
	"pause is ignored":                    {"paused", func(w *Watchdog) { w.decide = unpaused }},
	"no permit is asked for":              {"not-permitted", func(w *Watchdog) { w.cfg.Permit = nil }},
	"two restarts at once":                {"one-at-a-time", observing(nil)},
	"a process that ended is restarted":   {"ended-process", func(w *Watchdog) { w.decide = alwaysThere }},
	"ends are not counted":                {"crash-loop", observing(func(_ *History, o *Observation) { o.Again = 0 })},
	"a moment's answer ends a crash loop": {"crash-loop", func(w *Watchdog) { w.cfg.Policy.Grace = 1 }},
	"ends before a stop count":            {"crash-loop", observing(func(_ *History, o *Observation) { o.Off = false })},
	"an end for want of etcd counts":      {"crash-sick-etcd", observing(func(_ *History, o *Observation) { o.Excused = false })},
	"a busy machine excuses a crash loop": {"crash-busy", func(w *Watchdog) {
		decide := w.decide
		w.decide = func(p Policy, h History, now time.Time) Action {
			if h.Failing && h.Sick != "" {
				return Action{Hold, Dependency, h.Sick}
			}
			return decide(p, h, now)
		}
	}},
	"a crash loop excuses a hang": {"crash-sick-etcd", func(w *Watchdog) {
		decide := w.decide
		w.decide = func(p Policy, h History, now time.Time) Action {
			if h.crashing(p, now) {
				return crash(h)
			}
			return decide(p, h, now)
		}
	}},
	"a late round counts":                    {"watchdog-asleep", observing(func(_ *History, o *Observation) { o.Late = false })},
	"a silent supervisor means no processes": {"silent-supervisor", observing(func(_ *History, o *Observation) { o.Blind = false })},
}

// observing puts change before the observation of each round; nil: the
// watchdog forgets that a restart is under way.
func observing(change func(*History, *Observation)) mutate {
	return func(w *Watchdog) {
		observe := w.observe
		w.observe = func(h History, p Policy, g time.Duration, o Observation) History {
			if change == nil {
				w.busy = "" // called with the mutex held
			} else {
				change(&h, &o)
			}
			return observe(h, p, g, o)
		}
	}
}

func (h *History) forgetIfNew(o *Observation) {
	if o.PID != h.PID {
		h.Restarts = nil
	}
}

func unpaused(p Policy, h History, now time.Time) Action {
	h.Paused = false
	return Decide(p, h, now)
}

func alwaysThere(p Policy, h History, now time.Time) Action {
	if h.PID == 0 {
		return Action{Restart, NoAnswer, ""}
	}
	return Decide(p, h, now)
}

func TestMutantsAreCaught(t *testing.T) {
	all := scenarios(t)
	for name, m := range mutants {
		t.Run(name, func(t *testing.T) {
			s, ok := all[m.killedBy]
			if !ok {
				t.Fatalf("no scenario %s", m.killedBy)
			}
			if got := s.play(t, m.change); slices.Equal(got, s.want) {
				t.Errorf("scenario %s does not notice that %s:\n  => %s", m.killedBy, name, strings.Join(got, "\n  => "))
			}
		})
	}
}

// A permit that hangs must not stop the watchdog from looking: the mutant that
// waits for it in the round is caught by the other unit's decision.
func TestMutantThatWaitsForThePermitIsCaught(t *testing.T) {
	s := scenarios(t)["permit-hangs"]
	got := s.play(t, func(w *Watchdog) {
		decide := w.decide
		w.decide = func(p Policy, h History, now time.Time) Action {
			a := decide(p, h, now)
			if a.Kind == Restart {
				_, _ = w.permit(context.Background(), Ask{Unit: "kube-apiserver"})
			}
			return a
		}
	})
	if slices.Equal(got, s.want) {
		t.Errorf("scenario permit-hangs does not notice it:\n  => %s", strings.Join(got, "\n  => "))
	}
}
