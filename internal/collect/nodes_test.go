package collect

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/status"
)

func dead(context.Context, config.Master) (*status.Node, error) { return nil, errDown }

// hung ignores its context.
func hung(release chan struct{}) func(context.Context, config.Master) (*status.Node, error) {
	return func(context.Context, config.Master) (*status.Node, error) { <-release; return nil, errDown }
}

func processes(context.Context) ([]status.Process, error) {
	return []status.Process{{Name: "hactl-agent", Active: "failed"}}, nil
}

func TestWhoTellsOfAMaster(t *testing.T) {
	m1, m2 := config.Master{Name: "m1"}, config.Master{Name: "m2"}
	here := map[string]layout.Layout{"m1": {Root: "/r"}}
	ownSources := func(l layout.Layout) Sources {
		if l.Root != "/r" {
			return Sources{}
		}
		return Sources{Processes: processes, Balancer: func(context.Context) (*status.LocalLB, error) { return nil, errDown }}
	}
	bySocket := func(ctx context.Context, _ layout.Layout) (*status.Node, error) { return wellNode(ctx, m1) }
	cases := []struct {
		name      string
		cfg       Config
		master    config.Master
		reachable bool
		from      string
		unknown   []string
	}{
		{"the agent", Config{Node: wellNode}, m1, true, "agent", nil},
		{"nobody, on another machine", Config{Node: dead, Locals: here}, m2, false, "", []string{"balancer", "certificates", "processes"}},
		{"the agent's socket, when the network is not to be had", Config{Node: dead, Locals: here, Socket: bySocket}, m1, false, "agent", nil},
		{"the supervisor, when the agent is dead", Config{
			Node: dead, Locals: here, Local: ownSources,
			Socket: func(context.Context, layout.Layout) (*status.Node, error) { return nil, errDown },
		}, m1, false, "supervisor", []string{"balancer", "certificates"}},
		{"the supervisor, without a socket", Config{Node: dead, Locals: here, Local: ownSources}, m1, false, "supervisor", []string{"balancer", "certificates"}},
		{"nobody, here", Config{Node: dead, Locals: here, Local: func(layout.Layout) Sources { return Sources{} }}, m1, false, "",
			[]string{"balancer", "certificates", "processes"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			col := &Collector{cfg: c.cfg, call: patience}
			got := col.node(t.Context(), c.master)
			if got.agent.Reachable != c.reachable || got.from != c.from || !slices.Equal(slices.Sorted(maps.Keys(got.unknown)), c.unknown) {
				t.Errorf("%+v, want reachable %v, from %q, unknown %q", got, c.reachable, c.from, c.unknown)
			}
			if !c.reachable && got.agent.Error == "" {
				t.Error("no reason why the agent is not reachable")
			}
		})
	}
}

// Whatever hangs, a master costs less than the whole report may.
func TestHungAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		col := &Collector{call: CallTimeout, cfg: Config{
			Node:   hung(release),
			Locals: map[string]layout.Layout{"m1": {}},
			Socket: func(ctx context.Context, _ layout.Layout) (*status.Node, error) {
				return hung(release)(ctx, config.Master{})
			},
			Local: func(layout.Layout) Sources {
				return Sources{Processes: func(context.Context) ([]status.Process, error) { <-release; return nil, nil }}
			},
		}}
		began := time.Now()
		got := col.node(t.Context(), config.Master{Name: "m1"})
		if took := time.Since(began); took != CallTimeout+SourceTimeout || took >= Timeout {
			t.Errorf("took %v", took) // the bubble's clock
		}
		if got.agent.Error != "no answer in time" || got.unknown[SectionProcesses] != "no answer in time" {
			t.Errorf("%+v", got)
		}
		close(release)
	})
}

func TestSkew(t *testing.T) {
	sent := time.Date(2026, 11, 22, 15, 0, 0, 0, time.UTC)
	const rtt = 100 * time.Millisecond
	for _, c := range []struct{ shown, want time.Duration }{
		{0, 0}, {50 * time.Millisecond, 0}, {100 * time.Millisecond, 0}, // anything within the round trip fits
		{700 * time.Millisecond, 600 * time.Millisecond},
		{-time.Second, -time.Second},
		{time.Hour, time.Hour - rtt},
	} {
		if got := Skew(sent.Add(c.shown), sent, rtt); got != c.want {
			t.Errorf("skew of a clock that shows %v later = %v, want %v", c.shown, got, c.want)
		}
	}
	if got := Skew(time.Time{}, sent, rtt); got != 0 {
		t.Errorf("skew of no time = %v", got)
	}
}

func TestLocals(t *testing.T) {
	l := root(t)
	c := cluster("127.0.0.1", "127.0.0.2")
	if got := Locals(c, l); len(got) != 1 || got["m1"] != l {
		t.Errorf("on m1: %v", got)
	}
	c.Masters = c.Masters[1:]
	if got := Locals(c, l); len(got) != 0 {
		t.Errorf("with another cluster's certificate: %v", got)
	}
	if got := Locals(c, layout.Layout{Root: t.TempDir()}); len(got) != 0 {
		t.Errorf("on a machine that is no master: %v", got)
	}
}

func TestLocalCertificates(t *testing.T) {
	l := root(t)
	certs, err := Local{Layout: l}.Certificates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(certs, func(c status.Certificate) bool { return c.File == "hactl/agent.crt" })
	if at < 0 || certs[at].Subject != "m1" || certs[at].NotAfter.Before(time.Now()) || certs[at].Error != "" {
		t.Errorf("certificates: %+v", certs)
	}
	if _, err := (Local{Layout: layout.Layout{Root: t.TempDir()}}).Certificates(t.Context()); err == nil {
		t.Error("an empty folder has certificates")
	}
}

// What does not run is said in words that fit a table.
func TestLocalWithNothingRunning(t *testing.T) {
	n := Gather(t.Context(), Local{Layout: root(t)}.Sources())
	for _, section := range []string{SectionProcesses, SectionBalancer} {
		if why := n.Errors[section]; why == "" || strings.Contains(why, "\n") || len(why) > 150 {
			t.Errorf("Errors[%s] = %q", section, why)
		}
	}
	if len(n.Certificates) == 0 {
		t.Errorf("no certificates: %v", n.Errors)
	}
}
