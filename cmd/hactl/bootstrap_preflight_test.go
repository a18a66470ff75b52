package main

import (
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/bootstrap"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/preflight"
	"github.com/hactl/hactl/internal/rendezvous"
)

// What bootstrap hears of the others is judged as well.
func TestPreflightJudgesTheOthersCards(t *testing.T) {
	c := config.Default()
	c.Name = "prod"
	c.Masters = []config.Master{{Name: "m1", Address: "127.203.8.1"}, {Name: "m2", Address: "127.203.8.2"}, {Name: "m3", Address: "127.203.8.3"}}
	l := layout.Layout{Root: t.TempDir()}
	if err := l.MkdirAll(); err != nil {
		t.Fatal(err)
	}
	card := func(name, machine string, alive bool, skew time.Duration) rendezvous.Seen {
		m, _ := c.MasterByName(name)
		return rendezvous.Seen{Card: rendezvous.Card{Name: name, Address: m.Address, Machine: machine}, Alive: alive, Skew: skew}
	}
	own, err := rendezvous.MachineID(l)
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	check := bootstrapPreflight(&env{stderr: &stderr}, "", "", nil)
	p := bootstrap.Preflight{Cluster: c, Self: c.Masters[0], Layout: l, Seen: []rendezvous.Seen{
		card("m1", own, true, 0), card("m2", "other", true, time.Hour), card("m3", "third", false, -time.Hour),
	}}
	if err := check(t.Context(), p); exitcode.Of(err) != exitcode.Unhealthy {
		t.Fatalf("a clock is off by an hour, and preflight says %v", err)
	}
	text := stderr.String()
	if !strings.Contains(text, preflight.CheckSkew+": the clock of master m2 is 1h0m0s ahead") {
		t.Errorf("no word of m2's clock:\n%s", text)
	}
	for _, no := range []string{"master m3 is", "another machine"} { // m3 is not there; m1 is this machine
		if strings.Contains(text, no) {
			t.Errorf("%q in\n%s", no, text)
		}
	}
	stderr.Reset()
	p.Seen[1].Skew += 10 * time.Millisecond // it is judged again and again while bootstrap waits
	if err := check(t.Context(), p); exitcode.Of(err) != exitcode.Unhealthy || stderr.Len() > 0 {
		t.Errorf("the same again: %v, and it says\n%s", err, stderr.String())
	}
	p.Seen[0] = card("m1", "impostor", true, 0)
	if err := check(t.Context(), p); err == nil || !strings.Contains(stderr.String(), "another machine, at 127.203.8.1, says that it is master m1 too") {
		t.Errorf("two machines of one name: %v\n%s", err, stderr.String())
	}
}
