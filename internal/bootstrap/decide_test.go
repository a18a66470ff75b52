package bootstrap

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/rendezvous"
)

const (
	fresh, holding  = rendezvous.Fresh, rendezvous.Holding
	member, removed = rendezvous.Member, rendezvous.Removed
	ours            = "ours"
	theirs          = "theirs"
	alive, notThere = true, false
	m1, m2, m3      = "m1", "m2", "m3"
	stranger        = "m9"
)

func other(name string, p rendezvous.Phase, here bool) Other {
	return Other{Name: name, Phase: p, Config: ours, Alive: here}
}

func differing(name string, p rendezvous.Phase) Other {
	return Other{Name: name, Phase: p, Config: theirs, Alive: true}
}

func keyed(o Other, ca string) Other {
	o.CA = ca
	return o
}

func excepting(o Other, names ...string) Other {
	o.Without = names
	return o
}

type decision struct {
	what   string
	self   string
	own    rendezvous.Phase
	others []Other
	change func(*Situation)
	do     Do
	why    string // in Why
}

// check returns what is wrong; empty: nothing.
func (c decision) check(m mutant) string {
	s := Situation{Self: c.self, Masters: []string{m1, m2, m3}, Config: ours, Own: c.own, Others: c.others, mutant: m}
	if c.change != nil {
		c.change(&s)
	}
	if n := Decide(s); n.Do != c.do || !strings.Contains(n.Why, c.why) {
		return fmt.Sprintf("%s: %s (%s), want %s (%s)", c.what, n.Do, n.Why, c.do, c.why)
	}
	return ""
}

func decisions() []decision {
	return []decision{
		{"alone in the configuration", m1, fresh, nil, func(s *Situation) { s.Masters = []string{m1} }, MakeSecrets, "all masters are here"},
		{"the first sees nobody", m1, fresh, nil, nil, Wait, "m2 and m3 not here yet"},
		{"the first sees some", m1, fresh, []Other{other(m2, fresh, alive)}, nil, Wait, "m3 not here yet"},
		{"the first sees all", m1, fresh, []Other{other(m2, fresh, alive), other(m3, fresh, alive)}, nil, MakeSecrets, ""},
		{"one was here and left", m1, fresh, []Other{other(m2, fresh, alive), other(m3, fresh, notThere)}, nil, Wait, "m3 not here yet"},
		{"the second sees all", m2, fresh, []Other{other(m1, fresh, alive), other(m3, fresh, alive)}, nil, Wait, "m1, the first"},
		{"somebody has keys", m2, fresh, []Other{other(m1, holding, alive)}, nil, FetchSecrets, "from m1"},
		{"who had keys left", m2, fresh, []Other{other(m1, holding, notThere), other(m3, fresh, alive)}, nil, Wait, "m1 had the cluster's keys"},
		{"a wiped first sees a cluster", m1, fresh, []Other{other(m2, member, alive)}, nil, FetchSecrets, "from m2"},
		{"a wiped first sees nobody", m1, fresh, []Other{}, nil, Wait, "not here yet"},
		{"a wiped first saw a cluster", m1, fresh, []Other{other(m2, member, notThere), other(m3, fresh, alive)}, nil, Wait, "cannot be reached"},
		{"keys, and all are here", m1, holding, []Other{other(m2, fresh, alive), other(m3, holding, alive)}, nil, Found, ""},
		{"keys, and one is not here", m1, holding, []Other{other(m2, holding, alive)}, nil, Wait, "m3 not here yet"},
		{"keys, and the second", m2, holding, []Other{other(m1, holding, alive), other(m3, holding, alive)}, nil, Wait, "m1, the first"},
		{"keys, and somebody founded", m2, holding, []Other{other(m1, member, alive)}, nil, Join, "m1"},
		{"keys, and somebody founded and left", m1, holding, []Other{other(m2, member, notThere), other(m3, holding, alive)}, nil, Join, "m2"},
		{"keys, and a cluster with another configuration", m3, holding, []Other{differing(m1, member)}, nil, Wait, "another configuration on m1"},
		{"a cluster under a name that is not configured", m1, holding, []Other{other(stranger, member, alive), other(m2, fresh, alive), other(m3, fresh, alive)}, nil, Join, stranger},
		{"somebody was removed from a cluster", m1, holding, []Other{other(m2, removed, alive), other(m3, fresh, alive)}, nil, Wait, "m2 was removed"},
		{"a member goes on", m2, member, nil, nil, Resume, ""},
		{"a removed one stays out", m2, removed, []Other{other(m1, member, alive)}, nil, Refuse, "removed"},

		{"another configuration, before the keys", m1, fresh, []Other{differing(m2, fresh), other(m3, fresh, alive)}, nil, Wait, "another configuration on m2"},
		{"another configuration, with the keys", m2, fresh, []Other{differing(m1, holding)}, nil, Wait, "another configuration on m1"},
		{"another configuration, at the founding", m1, holding, []Other{differing(m2, holding), other(m3, fresh, alive)}, nil, Wait, "another configuration on m2"},
		{"the one with the same configuration is asked", m3, fresh, []Other{differing(m1, member), other(m2, holding, alive)}, nil, FetchSecrets, "from m2"},

		{"keys of another cluster than a member's", m3, holding, []Other{keyed(other(m1, member, alive), "ca1"), other(m2, fresh, alive)}, func(s *Situation) { s.CA = "ca2" }, Refuse, "m3 and m1 have the keys of two different clusters"},
		{"keys of another cluster, at the founding", m1, holding, []Other{keyed(other(m2, holding, alive), "ca2"), other(m3, fresh, alive)}, func(s *Situation) { s.CA = "ca1" }, Refuse, "m1 and m2"},
		{"two clusters to choose from", m3, fresh, []Other{keyed(other(m1, member, alive), "ca1"), keyed(other(m2, member, alive), "ca2")}, nil, Refuse, "m1 and m2"},
		{"the same keys", m3, holding, []Other{keyed(other(m1, member, alive), "ca1")}, func(s *Situation) { s.CA = "ca1" }, Join, ""},
		{"another cluster's machine is gone", m2, fresh, []Other{keyed(other(m1, member, alive), "ca1"), keyed(other(stranger, holding, notThere), "ca2")}, nil, FetchSecrets, "from m1"},

		{"join never makes keys", m1, fresh, []Other{other(m2, fresh, alive), other(m3, fresh, alive)}, func(s *Situation) { s.JoinOnly = true }, Wait, "no master of a cluster"},
		{"join never founds", m1, holding, []Other{other(m2, holding, alive), other(m3, holding, alive)}, func(s *Situation) { s.JoinOnly = true }, Wait, "no master of a cluster"},
		{"join joins", m3, holding, []Other{other(m1, member, alive)}, func(s *Situation) { s.JoinOnly = true }, Join, ""},

		{"without the third", m1, fresh, []Other{other(m2, fresh, alive)}, func(s *Situation) { s.Without = []string{m3} }, MakeSecrets, ""},
		{"without the first, the second begins", m2, fresh, []Other{other(m3, fresh, alive)}, func(s *Situation) { s.Without = []string{m1} }, MakeSecrets, ""},
		{"without one who is here", m1, fresh, []Other{other(m2, fresh, alive), other(m3, fresh, alive)}, func(s *Situation) { s.Without = []string{m3} }, Refuse, "m3 is here"},
		{"another was told to begin without us", m1, holding, []Other{excepting(other(m2, holding, alive), m1), other(m3, fresh, alive)}, nil, Wait, "told to begin without m1"},
		{"another was told to begin without a third", m1, holding, []Other{excepting(other(m2, holding, alive), m3)}, func(s *Situation) { s.Without = []string{stranger} }, Wait, "told to begin without m3"},
		{"both were told the same", m1, holding, []Other{excepting(other(m2, holding, alive), m3)}, func(s *Situation) { s.Without = []string{m3} }, Found, ""},
		{"without, but there is a cluster", m1, holding, []Other{other(m2, member, alive)}, func(s *Situation) { s.Without = []string{m3} }, Join, ""},
	}
}

func TestDecide(t *testing.T) {
	for _, c := range decisions() {
		if fault := c.check(whole); fault != "" {
			t.Error(fault)
		}
	}
}

func TestMembersAreAskedForKeysFirst(t *testing.T) {
	n := Decide(Situation{Self: m1, Masters: []string{m1, m2, m3}, Config: ours, Own: fresh,
		Others: []Other{other(m2, holding, alive), other(m3, member, alive)}})
	if !slices.Equal(n.From, []string{m3, m2}) {
		t.Errorf("from %v, want the member m3 before m2", n.From)
	}
}

// world is what happens to some machines: they decide at any time, seeing any of
// the others; they lose their disks; their bootstraps end and begin again.
type world struct {
	rng     *rand.Rand
	mutant  mutant
	names   []string
	phase   map[string]rendezvous.Phase
	known   map[string]map[string]rendezvous.Phase // by observer: the last card of each
	without map[string][]string
	pending map[string]Next // decided, and not yet done
	log     []string
}

func newWorld(seed uint64, m mutant) *world {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 1)), mutant: m, names: []string{m1, m2, m3}[:1+2*int(seed%2)],
		phase: map[string]rendezvous.Phase{}, known: map[string]map[string]rendezvous.Phase{}, without: map[string][]string{},
		pending: map[string]Next{},
	}
	for _, n := range w.names {
		w.phase[n], w.known[n] = fresh, map[string]rendezvous.Phase{}
	}
	return w
}

func (w *world) say(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }

// step lets one machine do one thing; it errs when a second cluster is founded.
func (w *world) step() error {
	self := w.names[w.rng.IntN(len(w.names))]
	switch w.rng.IntN(20) {
	case 0: // its disk is lost
		w.say("%s is wiped", self)
		w.phase[self] = fresh
		fallthrough
	case 1: // its bootstrap ends and begins anew: it has seen nobody
		w.known[self] = map[string]rendezvous.Phase{}
		delete(w.pending, self)
		return nil
	}
	if next, decided := w.pending[self]; decided {
		delete(w.pending, self)
		return w.act(self, next)
	}
	if next := w.decide(self); next.Do != Wait && next.Do != Refuse && next.Do != Resume {
		w.pending[self] = next // whatever happens before it acts
	}
	return nil
}

// decide lets self see some of the others.
func (w *world) decide(self string) Next {
	s := Situation{Self: self, Masters: w.names, Config: ours, Own: w.phase[self], Without: w.without[self], mutant: w.mutant}
	for _, n := range w.names {
		if n == self {
			continue
		}
		here := w.rng.IntN(4) > 0
		if here {
			w.known[self][n] = w.phase[n]
		}
		if p, seen := w.known[self][n]; seen {
			o := other(n, p, here)
			o.Without = w.without[n]
			s.Others = append(s.Others, o)
		}
	}
	return Decide(s)
}

func (w *world) act(self string, next Next) error {
	w.say("%s: %s (%s)", self, next.Do, next.Why)
	switch next.Do {
	case MakeSecrets, Found:
		for n, p := range w.phase {
			if p == member && !slices.Contains(w.without[self], n) {
				return fmt.Errorf("%s: %s, and %s is a member", self, next.Do, n)
			}
		}
		w.phase[self] = holding
		if next.Do == Found {
			w.phase[self] = member
		}
	case FetchSecrets:
		w.phase[self] = holding
	case Join:
		for _, p := range w.phase {
			if p == member { // somebody must answer
				w.phase[self] = member
				return nil
			}
		}
	}
	return nil
}

// run returns why the rule was broken; nil when it held.
func (w *world) run(steps int) error {
	for range steps {
		if err := w.step(); err != nil {
			return fmt.Errorf("%w\n%s", err, strings.Join(w.log, "\n"))
		}
	}
	return nil
}

const worlds = 3000

func TestOneClusterWhateverHappens(t *testing.T) {
	founded := 0
	for seed := range uint64(worlds) {
		w := newWorld(seed, whole)
		if seed%3 == 0 && len(w.names) > 1 { // the user excepts somebody, the same or not everywhere
			for _, n := range w.names {
				x := w.names[w.rng.IntN(len(w.names))]
				// Where two users except each other's machine, both have asked for it.
				if x != n && !slices.Contains(w.without[x], n) && w.rng.IntN(2) == 0 {
					w.without[n] = []string{x}
				}
			}
		}
		if err := w.run(100); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if slices.ContainsFunc(w.log, func(l string) bool { return strings.Contains(l, string(Found)) }) {
			founded++
		}
	}
	if founded < worlds/4 {
		t.Errorf("in %d of %d worlds a cluster was founded: nothing was tried", founded, worlds)
	}
}

// Each rule that is left out is noticed, by the worlds or by the table.
func TestMutantsAreCaught(t *testing.T) {
	for _, m := range []mutant{foundUnseen, foundAsAny, forgetGone, freshMayFound, anyKeys} {
		caught := ""
		for _, c := range decisions() {
			if fault := c.check(m); fault != "" && caught == "" {
				caught = "the table: " + fault
			}
		}
		for seed := uint64(1); seed < worlds; seed += 2 {
			if err := newWorld(seed, m).run(100); err != nil {
				caught = fmt.Sprintf("world %d: %v", seed, err)
				break
			}
		}
		if caught == "" {
			t.Errorf("mutant %d survives", m)
		}
		t.Logf("mutant %d is caught by %s", m, caught)
	}
}
