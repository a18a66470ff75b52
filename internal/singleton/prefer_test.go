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
		if got := p.look(tc.list, 7, 0); got != tc.want {
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
		if got := p.look(with(i, wait("m2", 9)), 7, 0); got != "" {
			t.Errorf("%s: hands over to %q", name, got)
		}
		p.rounds, p.better = 100, "m2"
	}
}

// What a person moved, or a preferred host could not keep running, does not go back
// while the term is young; nor when the holder's own term is not known.
func TestPreferenceLeavesAYoungTermAlone(t *testing.T) {
	list := []etcdlock.Info{{Name: "k", Holder: "m1", Waiting: []etcdlock.Candidate{{Name: "m2", Priority: 9}}}}
	p := preference{key: "k", me: "m1", after: 5 * time.Minute}
	at := func(token int64, now time.Duration, want string) {
		t.Helper()
		if got := p.look(list, token, now); got != want {
			t.Errorf("token %d at %v: %q, want %q", token, now, got, want)
		}
	}
	const day = 24 * time.Hour // the clock did not begin with the term
	for s := range 60 {
		at(7, day+time.Duration(s)*preferEvery, "")
	}
	at(7, day+5*time.Minute, "m2")
	// It went and came back, by a move: that is a new term.
	for s := range 60 {
		at(9, 2*day+time.Duration(s)*preferEvery, "")
	}
	at(0, 2*day+time.Hour, "")
	at(9, 2*day+time.Hour, "")
	at(9, 2*day+time.Hour+5*time.Minute, "m2")
}
