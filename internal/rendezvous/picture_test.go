package rendezvous

import (
	"fmt"
	"testing"
	"time"
)

func testPicture() *picture {
	return &picture{
		self:   entry{node: nodeName{"m1", "a", "1"}, from: "10.0.0.1:7947", alive: true},
		others: map[string]*entry{}, conflict: map[Conflict]time.Time{},
	}
}

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestConflicts(t *testing.T) {
	for name, c := range map[string]struct {
		node, from string
		want       string
	}{
		"another master":                {"m2/b/1", "10.0.0.2:7947", ""},
		"our own name elsewhere":        {"m1/b/1", "10.0.0.2:7947", "the name m1"},
		"our own name and address":      {"m1/b/1", "10.0.0.1:7947", "the name m1"},
		"a clone of this very machine":  {"m1/a/2", "10.0.0.2:7947", "the name m1"},
		"our address":                   {"m2/b/1", "10.0.0.1:7947", "the address 10.0.0.1"},
		"our address, mapped":           {"m2/b/1", "[::ffff:10.0.0.1]:7947", "the address 10.0.0.1"},
		"our former process":            {"m1/a/0", "10.0.0.1:7947", ""},
		"our former process, as m2":     {"m2/a/0", "10.0.0.1:7947", ""},
		"a clone that has its own name": {"m2/a/1", "10.0.0.2:7947", ""},
	} {
		p := testPicture()
		p.came(c.node, c.from, true, now)
		fresh, changed := p.review(now)
		if c.want == "" {
			if len(fresh) > 0 || changed {
				t.Errorf("%s: %v", name, fresh)
			}
			continue
		}
		if len(fresh) != 1 || fresh[0].What != c.want || !changed {
			t.Errorf("%s: %v, want %s", name, fresh, c.want)
		}
		if again, changed := p.review(now.Add(time.Second)); len(again) > 0 || changed || len(p.conflicts()) != 1 {
			t.Errorf("%s: seen again, it is news: %v", name, again)
		}
		p.came(c.node, c.from, false, now)
		if p.review(now.Add(time.Second + conflictShown)); len(p.conflicts()) != 1 {
			t.Errorf("%s: forgotten too early", name)
		}
		if _, changed := p.review(now.Add(2*time.Second + conflictShown)); !changed || len(p.conflicts()) != 0 {
			t.Errorf("%s: still shown: %v", name, p.conflicts())
		}
	}
}

func (p *picture) add(node, from string, alive bool, at time.Time) {
	p.came(node, from, alive, at)
	n, _ := parseNodeName(node)
	p.said(node, Card{Name: n.name, Machine: n.machine, Release: n.process}, 1, at)
}

func TestListShowsWhoIsThereOrWasLast(t *testing.T) {
	p := testPicture()
	p.came("m5/e/1", "10.0.0.5:7947", true, now) // no card yet
	p.add("m2/b/old", "10.0.0.2:7947", true, now)
	p.add("m2/b/new", "10.0.0.2:7947", true, now.Add(time.Second)) // the old one was killed, which nobody noticed yet
	p.add("m3/c/old", "10.0.0.3:7947", false, now.Add(time.Second))
	p.add("m3/d/new", "10.0.0.3:7947", true, now) // a replaced machine
	p.add("m4/f/old", "10.0.0.4:7947", false, now)
	p.add("m4/f/last", "10.0.0.4:7947", false, now.Add(time.Second))
	p.add("m6/x/1", "10.0.0.6:7947", true, now)
	p.add("m6/y/1", "10.0.0.7:7947", true, now.Add(time.Second))
	var got []string
	for _, s := range p.list() {
		got = append(got, fmt.Sprintf("%s %s %v", s.Name, s.Release, s.Alive))
	}
	want := []string{"m2 new true", "m3 new true", "m4 last false", "m6 1 true", "m6 1 true"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := p.find("m6"); err == nil {
		t.Error("one of two m6 was asked")
	}
	if node, err := p.find("m2"); err != nil || node != "m2/b/new" {
		t.Errorf("m2 is %q, %v", node, err)
	}
	if _, err := p.find("m4"); err == nil {
		t.Error("somebody was asked who is gone")
	}
}

func TestCards(t *testing.T) {
	p := testPicture()
	card := Card{Name: "m2", Machine: "b", Clock: now.Add(-time.Hour)}
	if !p.said("m2/b/1", card, 5, now) {
		t.Error("the first card is no news")
	}
	if got := p.others["m2/b/1"].card; got.Skew != -time.Hour {
		t.Errorf("a clock an hour behind has the skew %v", got.Skew)
	}
	card.Clock = now
	if p.said("m2/b/1", card, 6, now) {
		t.Error("a card that differs in its time only is news")
	}
	old := card
	old.Phase = Holding
	if p.said("m2/b/1", old, 6, now) || p.said("m2/b/1", old, 4, now) {
		t.Error("an older card replaced a newer one")
	}
	for _, c := range []Card{{Name: "m3", Machine: "b"}, {Name: "m2", Machine: "c"}} {
		if p.said("m2/b/1", c, 9, now) {
			t.Errorf("a card of somebody else was taken: %+v", c)
		}
	}
	if p.said("m1/a/1", Card{Name: "m1", Machine: "a"}, 1, now) {
		t.Error("our own card was taken for another's")
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	p := testPicture()
	for i := range 2 * maxEntries {
		p.came(fmt.Sprintf("m%d/x/1", i), "10.0.0.2:7947", i%2 == 0, now.Add(time.Duration(i)))
	}
	if len(p.others) != maxEntries {
		t.Errorf("%d entries", len(p.others))
	}
	for i := range 2 * maxEntries {
		p.came(fmt.Sprintf("n%d/x/1", i), "10.0.0.2:7947", true, now)
	}
	if len(p.others) != maxEntries {
		t.Errorf("%d entries", len(p.others))
	}
}
