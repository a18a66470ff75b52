package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/collect"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/event"
	"github.com/hactl/hactl/internal/exitcode"
)

func eventsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "events",
		Usage: "what was decided and done on the masters, and why",
		Description: "Asks the agents of all masters and prints their events in the order of time: decisions of the watchdog\n" +
			"with their results, ends and starts of processes, steps of commands. Each master keeps its own, about\n" +
			"the last 4000 to 8000, in /var/lib/hactl/events.jsonl. Masters that did not answer are named on stderr;\n" +
			"a dead agent of this machine does not matter, its file is read. Exit code 5: no master's were found.",
		Flags: []cli.Flag{
			rootFlag(), outputFlag(), unitFlag("only of this `UNIT`; a prefix with * at the end"),
			&cli.StringFlag{Name: "since", Value: "24h", EnvVars: []string{"HACTL_SINCE"}, Usage: "how far back: a duration, a time (RFC 3339), or all"},
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, EnvVars: []string{"HACTL_FOLLOW"}, Usage: "go on with new ones until Ctrl-C; -o json: one a line"},
		},
		Action: func(c *cli.Context) error { return runEvents(c, e) },
	}
}

// sinceOf reads --since.
func sinceOf(s string, now time.Time) (time.Time, error) {
	if s == "all" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, exitcode.Errorf(exitcode.Usage, "--since %q: want a duration as in 1h, a time as in 2026-11-22T12:00:00Z, or all", s)
	}
	return t, nil
}

// eventReport is what `hactl events -o json` prints.
type eventReport struct {
	Events      []event.Event `json:"events"`
	Unreachable []silentAgent `json:"unreachable"`
}

func runEvents(c *cli.Context, e *env) error {
	if c.Args().Present() {
		return exitcode.Errorf(exitcode.Usage, "events takes no argument, got %q", c.Args().First()).WithHint("hactl events --help")
	}
	out, err := outputOf(c)
	if err != nil {
		return err
	}
	since, err := sinceOf(c.String("since"), time.Now())
	if err != nil {
		return err
	}
	g := &eventGatherer{cli: c, after: map[string]time.Time{}, since: since, unit: c.String("unit")}
	r, err := g.gather(c.Context)
	if err != nil {
		return err
	}
	for _, s := range r.Unreachable {
		fmt.Fprintf(e.stderr, "not from %s: %s\n", s.Master, s.Error)
	}
	if len(g.after) == 0 {
		return exitcode.Errorf(exitcode.Unreachable, "no master's events can be read from here").WithHint("hactl status; systemctl status hactl-agent")
	}
	if c.Bool("follow") {
		return g.follow(c.Context, e, out, r)
	}
	if out == "json" {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	return printEvents(e.stdout, r.Events, true)
}

// eventGatherer asks all masters for what they have not told yet.
type eventGatherer struct {
	cli   *cli.Context
	since time.Time
	unit  string
	after map[string]time.Time // master that answered → time of its latest event
}

func (g *eventGatherer) gather(ctx context.Context) (eventReport, error) {
	r := eventReport{Events: []event.Event{}, Unreachable: []silentAgent{}}
	l := layoutOf(g.cli)
	agents, err := agentsOf(l, true)
	if err != nil {
		return r, err
	}
	cluster, err := config.Load(l)
	if err != nil {
		return r, err
	}
	locals := collect.Locals(cluster, l)
	answers, errs := askAgents(ctx, agents, func(ctx context.Context, a agentAt) ([]event.Event, error) {
		return a.client.Events(ctx, g.query(a.master))
	})
	for i, a := range agents {
		events, err := answers[i], errs[i]
		if local, here := locals[a.master]; err != nil && here {
			if read, ferr := event.Read(local.EventsFile(), g.query(a.master)); ferr == nil {
				events, err = read, nil
			}
		}
		if err != nil {
			r.Unreachable = append(r.Unreachable, silentAgent{a.master, err.Error()})
			continue
		}
		latest := g.query(a.master).After
		if n := len(events); n > 0 {
			latest = events[n-1].Time
		}
		g.after[a.master] = latest
		r.Events = append(r.Events, events...)
	}
	event.Sort(r.Events)
	return r, nil
}

func (g *eventGatherer) query(master string) event.Query {
	after, ok := g.after[master]
	if !ok {
		after = g.since
	}
	return event.Query{After: after, Unit: g.unit}
}

// follow prints what there is, and what comes until ctx ends.
func (g *eventGatherer) follow(ctx context.Context, e *env, out string, r eventReport) error {
	silent := map[string]bool{}
	for _, s := range r.Unreachable {
		silent[s.Master] = true
	}
	first := true
	for {
		if out == "json" {
			enc := json.NewEncoder(e.stdout)
			for _, ev := range r.Events {
				if err := enc.Encode(ev); err != nil {
					return err
				}
			}
		} else if err := printEvents(e.stdout, r.Events, first); err != nil {
			return err
		}
		first = false
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
		var err error
		if r, err = g.gather(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		now := map[string]bool{}
		for _, s := range r.Unreachable {
			now[s.Master] = true
			if !silent[s.Master] {
				fmt.Fprintf(e.stderr, "no longer from %s: %s\n", s.Master, s.Error)
			}
		}
		for m := range silent {
			if !now[m] {
				fmt.Fprintf(e.stderr, "again from %s\n", m)
			}
		}
		silent = now
	}
}

func printEvents(w io.Writer, events []event.Event, head bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if head {
		fmt.Fprintln(tw, "TIME\tMASTER\tUNIT\tACTION\tREASON\tRESULT\tDETAIL")
	}
	for _, ev := range events {
		result := dash(ev.Result)
		if ev.Took > 0 {
			result += fmt.Sprintf(" after %.1fs", ev.Took)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			ev.Time.UTC().Format("2006-01-02T15:04:05.000Z"), ev.Master, ev.Unit, ev.Action, ev.Reason, result, dash(ev.Detail))
	}
	return tw.Flush()
}
