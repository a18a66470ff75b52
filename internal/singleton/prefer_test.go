package singleton

import (
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease/etcdlock"
)

func TestPreference(t *testing.T) {
	wait := func(name string, priority int) etcdlock.Candidate {
		return etcdlock.Candidate{Name: name, Priority: priority}
	}
	mine := etcdlock.Info{Name: "k", Holder: "m1"}
	with := func(i etcdlock.Info, cands ...etcdlock.Candidate) []etcdlock.Info {
		i.Waiting = cands
		return []etcdlock.Info{i}
	}
	p := preference{key: "k", me: "m1", priority: 5}
	for i, tc := range []struct {
		list []etcdlock.Info
		want string
	}{
		{with(mine, wait("m2", 5)), ""},                // not better
		{with(mine, wait("m2", 6)), ""},                // seen once
		{with(mine, wait("m2", 6)), ""},                // twice
		{with(mine, wait("m2", 5)), ""},                // not any more
		{with(mine, wait("m2", 6)), ""},                // once
		{with(mine, wait("m2", 6)), ""},                // twice
		{with(mine, wait("m2", 6), wait("m3", 7)), ""}, // another one is better still
		{with(mine, wait("m2", 6), wait("m3", 7)), ""},
		{with(mine, wait("m2", 6), wait("m3", 7)), "m3"},
		{with(mine, wait("m2", 6), wait("m3", 7)), ""}, // ordered: it counts anew
	} {
		if got := p.look(tc.list); got != tc.want {
			t.Errorf("step %d: %q, want %q", i, got, tc.want)
		}
	}
	p = preference{key: "k", me: "m1", rounds: 100, better: "m2"}
	for name, i := range map[string]etcdlock.Info{
		"not ours": {Name: "k", Holder: "m3"},
		"moving":   {Name: "k", Holder: "m1", MoveTo: "m4"},
		"paused":   {Name: "k", Holder: "m1", Paused: true},
		"another":  {Name: "other", Holder: "m1"},
	} {
		if got := p.look(with(i, wait("m2", 9))); got != "" {
			t.Errorf("%s: hands over to %q", name, got)
		}
		p.rounds, p.better = 100, "m2"
	}
}

func TestSpread(t *testing.T) {
	var s Spread
	p := preference{key: "k", me: "m1", spread: &s}
	if s.Delay() != 0 {
		t.Errorf("delay %v before anything is known", s.Delay())
	}
	p.look([]etcdlock.Info{{Name: "k", Holder: "m1"}, {Name: "a", Holder: "m1"}, {Name: "b", Holder: "m1"}, {Name: "c", Holder: "m2"}})
	if s.Delay() != 200*time.Millisecond {
		t.Errorf("delay %v with two others", s.Delay())
	}
	p.look([]etcdlock.Info{{Name: "k", Holder: "m1"}})
	if s.Delay() != 0 {
		t.Errorf("delay %v with none", s.Delay())
	}
}
