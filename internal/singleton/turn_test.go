package singleton

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
)

func cands(names ...string) []etcdlock.Candidate {
	var cs []etcdlock.Candidate
	for _, n := range names {
		cs = append(cs, etcdlock.Candidate{Name: n})
	}
	return cs
}

// byLot returns the names in the order that lots give for a singleton.
func byLot(singleton string, names ...string) []string {
	slices.SortFunc(names, func(a, b string) int {
		if lot(singleton, a) < lot(singleton, b) {
			return -1
		}
		return 1
	})
	return names
}

func TestTurn(t *testing.T) {
	x := byLot("x", "m1", "m2", "m3") // whom the lot gives x, and who comes next
	y := "y"                          // another one, behind x by name, that the lot gives to the same
	for byLot(y, "m1", "m2", "m3")[0] != x[0] {
		y += "y"
	}
	free := func(name string, rev int64, waiting ...string) etcdlock.Info {
		return etcdlock.Info{Name: name, Rev: rev, Waiting: cands(waiting...)}
	}
	held := func(name, by string) etcdlock.Info { return etcdlock.Info{Name: name, Holder: by, Rev: 99} }
	edit := func(i etcdlock.Info, f func(*etcdlock.Info)) etcdlock.Info { f(&i); return i }
	all := free("x", 10, "m1", "m2", "m3")
	for name, tc := range map[string]struct {
		list []etcdlock.Info
		key  string
		want []string // in their turns
	}{
		"alone":                   {[]etcdlock.Info{free("x", 10, "m1")}, "x", []string{"m1"}},
		"alone with a burden":     {[]etcdlock.Info{free("x", 10, "m1"), held("a", "m1"), held("b", "m1")}, "x", []string{"m1"}},
		"by lot":                  {[]etcdlock.Info{all}, "x", x},
		"who holds one is second": {[]etcdlock.Info{all, held("a", x[0])}, "x", []string{x[1], x[2], x[0]}},
		"who holds two is last":   {[]etcdlock.Info{all, held("a", x[0]), held("b", x[0]), held("c", x[1])}, "x", []string{x[2], x[1], x[0]}},
		"priority beats the count": {[]etcdlock.Info{edit(all, func(i *etcdlock.Info) {
			i.Waiting = []etcdlock.Candidate{{Name: x[2], Priority: 1}, {Name: x[0]}, {Name: x[1]}}
		}), held("a", x[2])}, "x", []string{x[2], x[0], x[1]}},
		"who had it last comes last": {[]etcdlock.Info{edit(all, func(i *etcdlock.Info) {
			i.Last = x[0]
			i.Waiting = []etcdlock.Candidate{{Name: x[0], Priority: 9}, {Name: x[1]}, {Name: x[2]}}
		})}, "x", []string{x[1], x[2], x[0]}},
		"an order beats all": {[]etcdlock.Info{edit(all, func(i *etcdlock.Info) {
			i.Last, i.MoveTo = x[2], x[2]
		}), held("a", x[2])}, "x", []string{x[2], x[0], x[1]}},

		// Two that are free at once: who gets the one counts as its holder already.
		"the first of two":                       {[]etcdlock.Info{all, free(y, 20, "m1", "m2", "m3")}, "x", x},
		"the second reckons with the first":      {[]etcdlock.Info{free("x", 10, x[0], x[1]), free(y, 20, x[0], x[1])}, y, []string{x[1], x[0]}},
		"the second, when the first is taken":    {[]etcdlock.Info{held("x", x[0]), free(y, 20, x[0], x[1])}, y, []string{x[1], x[0]}},
		"the first by time, not by name":         {[]etcdlock.Info{free("x", 20, x[0], x[1]), free(y, 10, x[0], x[1])}, "x", []string{x[1], x[0]}},
		"at one time by name":                    {[]etcdlock.Info{free("x", 0, x[0], x[1]), free(y, 0, x[0], x[1])}, y, []string{x[1], x[0]}},
		"a paused one is nobody's":               {[]etcdlock.Info{edit(free("x", 10, x[0], x[1]), func(i *etcdlock.Info) { i.Paused = true }), free(y, 20, x[0], x[1])}, y, x[:2]},
		"one that nobody wants is nobody's":      {[]etcdlock.Info{free("x", 10), free(y, 20, x[0], x[1])}, y, x[:2]},
		"one that only another wants is its own": {[]etcdlock.Info{free("x", 10, x[0]), free(y, 20, x[0], x[1])}, y, []string{x[1], x[0]}},
	} {
		for n, me := range tc.want {
			for _, turned := range [][]etcdlock.Info{tc.list, reversed(tc.list)} {
				if got := turn(turned, tc.key, me); got != n {
					t.Errorf("%s: %s's turn is %d, want %d", name, me, got, n)
				}
			}
		}
		if got := turn(tc.list, tc.key, "unlisted"); got != len(tc.want) {
			t.Errorf("%s: who is not listed has turn %d", name, got)
		}
	}
	if got := turn(nil, "x", "m1"); got != 0 {
		t.Errorf("nothing is known, and the turn is %d", got)
	}
}

// reversed has the list and its candidates backwards: their order must not matter.
func reversed(list []etcdlock.Info) []etcdlock.Info {
	list = slices.Clone(list)
	slices.Reverse(list)
	for n := range list {
		list[n].Waiting = slices.Clone(list[n].Waiting)
		slices.Reverse(list[n].Waiting)
	}
	return list
}

// However many become free at once, and whoever decides on which of them first, they
// are spread evenly, and the lots do not favour one name.
func TestTurnsSpreadEvenly(t *testing.T) {
	names := []string{"m1", "m2", "m3"}
	chosen := func(list []etcdlock.Info, key string) (who string) {
		for _, me := range names {
			if turn(list, key, me) == 0 {
				who += me
			}
		}
		return who
	}
	wins := map[string]int{}
	for run := range 200 {
		var list []etcdlock.Info
		for k := range 3 {
			list = append(list, etcdlock.Info{Name: fmt.Sprintf("s%d-%d", run, k^run%2), Rev: int64(10 * (k * 7 % 3)), Waiting: cands(names...)})
		}
		for order := range 3 { // of the takes
			now, got := slices.Clone(list), map[string]bool{}
			for k := range now {
				i := &now[(k+order)%3]
				i.Holder, i.Rev = chosen(now, i.Name), 100
				got[i.Holder] = true
			}
			if len(got) != 3 {
				t.Fatalf("run %d, order %d: %v", run, order, now)
			}
		}
		// One that was decided on before the other became free, and is not taken yet.
		first, both := list[:1], list[:2]
		first[0].Rev, both[1].Rev = int64(run), int64(run+1)
		if one, two := chosen(first, first[0].Name), chosen(both, both[1].Name); one == two {
			t.Fatalf("run %d: %s gets both of %v", run, one, both)
		}
		wins[chosen(list, list[0].Name)]++
	}
	for _, n := range names {
		if wins[n] < 40 {
			t.Errorf("of 200 lots: %v", wins)
		}
	}
}

// One look at the list when a holder has expired tells which other holders are dead.
func TestLiving(t *testing.T) {
	const ttl = 3 * time.Second
	expired := lease.Record{Token: 5, Beat: 100, Claim: lease.Claim{TTL: ttl}}
	ended := expired
	ended.Ended = true
	for name, tc := range map[string]struct {
		i    etcdlock.Info
		rec  lease.Record
		want string
	}{
		"our own":                         {etcdlock.Info{Name: "k", Rev: 100, TTL: ttl}, expired, ""},
		"our own, taken meanwhile":        {etcdlock.Info{Name: "k", Rev: 120, TTL: ttl}, expired, ""},
		"renewed after the dead one":      {etcdlock.Info{Name: "o", Rev: 101, TTL: ttl}, expired, "m9"},
		"renewed before the dead one":     {etcdlock.Info{Name: "o", Rev: 99, TTL: ttl}, expired, ""},
		"its TTL is longer":               {etcdlock.Info{Name: "o", Rev: 99, TTL: 2 * ttl}, expired, "m9"},
		"ours was released, none is dead": {etcdlock.Info{Name: "o", Rev: 99, TTL: ttl}, ended, "m9"},
		"ours was deleted":                {etcdlock.Info{Name: "o", Rev: 99, TTL: ttl}, lease.Record{}, "m9"},
	} {
		s := &Spread{key: "k", clock: lease.Boottime{}, beats: beats{}}
		tc.i.Holder, tc.i.Beat = "m9", tc.i.Rev
		if got := s.living([]etcdlock.Info{tc.i}, tc.rec); got[0].Holder != tc.want {
			t.Errorf("%s: holder %q, want %q", name, got[0].Holder, tc.want)
		}
	}
}

// setClock is a Clock that is set by hand.
type setClock struct {
	lease.Boottime
	now time.Duration
}

func (c *setClock) Now() time.Duration { return c.now }

// A singleton whose holder died, and that nobody took over, does not count.
func TestCountForgetsTheDead(t *testing.T) {
	clock := &setClock{}
	s := &Spread{key: "k", me: "m1", clock: clock, beats: beats{}}
	others := []etcdlock.Info{{Name: "k", Holder: "m1", Beat: 7}, {Name: "free"}, {Name: "m2's", Holder: "m2"}}
	for _, tc := range []struct {
		now  time.Duration
		beat int64
		want int
	}{{0, 1, 2}, {2 * time.Second, 1, 2}, {5 * time.Second, 1, 1}, {10 * time.Second, 2, 2}} {
		clock.now = tc.now
		others[0].Beat++
		if got := s.count(append(others, etcdlock.Info{Name: "o", Holder: "m1", TTL: 3 * time.Second, Beat: tc.beat})); got != tc.want {
			t.Errorf("at %v: %d, want %d", tc.now, got, tc.want)
		}
	}
}
