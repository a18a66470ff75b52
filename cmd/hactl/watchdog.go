package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/api"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
)

func watchdogCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "watchdog",
		Usage: "what restarts hung processes: status, pause, resume",
		Subcommands: []*cli.Command{
			{
				Name: "status", Usage: "what the watchdog thinks of each unit of this master, and why",
				Description: "One line a unit: what it would do, the reason, the failures that count now, and the restarts within\n" +
					"the window; then what it cannot heal: a disk nearly full, clocks that differ. Exit code 0 when the\n" +
					"watchdogs answered, whatever they say; 5 when none did.",
				Flags: append(watchdogFlags(), outputFlag()),
				Action: func(c *cli.Context) error {
					return watchdogDo(c, e, "", func(ctx context.Context, a *api.Client) (*api.WatchdogStatus, error) { return a.Watchdog(ctx) })
				},
			},
			{
				Name: "pause", Usage: "restart nothing until `hactl watchdog resume`, or for a time",
				Description: "The watchdog goes on looking and tells what it would do. A pause outlives the agent and a reboot;\n" +
					"hactl status warns of it.",
				Flags: append(watchdogFlags(), outputFlag(), dryRunFlag(),
					&cli.DurationFlag{Name: "for", EnvVars: []string{"HACTL_FOR"}, Usage: "how long; 0: until it is resumed"},
					unitFlag("only this `UNIT`, such as kube-apiserver; default: all")),
				Action: func(c *cli.Context) error {
					o := api.PauseOrder{Unit: c.String("unit"), Seconds: c.Duration("for").Seconds(), By: by()}
					if o.Seconds < 0 {
						return exitcode.Errorf(exitcode.Usage, "--for %v: want more than 0", c.Duration("for"))
					}
					return watchdogDo(c, e, "pause the watchdog", func(ctx context.Context, a *api.Client) (*api.WatchdogStatus, error) {
						return a.PauseWatchdog(ctx, o)
					})
				},
			},
			{
				Name: "resume", Usage: "end a pause",
				Flags: append(watchdogFlags(), outputFlag(), dryRunFlag(), unitFlag("only of this `UNIT`; default: of all")),
				Action: func(c *cli.Context) error {
					o := api.PauseOrder{Unit: c.String("unit"), By: by()}
					return watchdogDo(c, e, "resume the watchdog", func(ctx context.Context, a *api.Client) (*api.WatchdogStatus, error) {
						return a.ResumeWatchdog(ctx, o)
					})
				},
			},
		},
	}
}

func watchdogFlags() []cli.Flag {
	return []cli.Flag{rootFlag(), &cli.BoolFlag{Name: "all", EnvVars: []string{"HACTL_ALL"}, Usage: "on every master, not on this one alone"}}
}

func unitFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "unit", EnvVars: []string{"HACTL_UNIT"}, Usage: usage}
}

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", EnvVars: []string{"HACTL_OUTPUT"}, Usage: "table or json"}
}

// outputOf reads outputFlag.
func outputOf(c *cli.Context) (string, error) {
	out := c.String("output")
	if out != "table" && out != "json" {
		return "", exitcode.Errorf(exitcode.Usage, "--output %q: want table or json", out).WithHint("%s --help", c.Command.HelpName)
	}
	return out, nil
}

// agentTimeout is how long one agent may take to answer a command.
const agentTimeout = 3 * time.Second

// agentAt is one master's agent, as far as it can be called.
type agentAt struct {
	master string // empty: this machine's, whose name its answer tells
	client *api.Client
	err    error
}

// agentsOf are the agents that a command is for: this machine's at its socket, or
// all masters' over the network.
func agentsOf(l layout.Layout, all bool) ([]agentAt, error) {
	if !all {
		client, err := api.NewClient(api.ClientConfig{Socket: l.AgentSocket()})
		return []agentAt{{client: client, err: err}}, nil
	}
	cluster, err := config.Load(l)
	if err != nil {
		return nil, err
	}
	var agents []agentAt
	for _, m := range cluster.Masters {
		a := agentAt{master: m.Name}
		conf, err := api.ClientTLS(l, m.Name)
		if err == nil {
			a.client, err = api.NewClient(api.ClientConfig{Address: cluster.AgentAddress(m), TLS: conf})
		}
		a.err = err
		agents = append(agents, a)
	}
	return agents, nil
}

// askAgents calls every agent at the same time; the answers are in their order.
func askAgents[T any](ctx context.Context, agents []agentAt, ask func(context.Context, agentAt) (T, error)) ([]T, []error) {
	values, errs := make([]T, len(agents)), make([]error, len(agents))
	var wg sync.WaitGroup
	for i, a := range agents {
		if a.err != nil {
			errs[i] = a.err
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, agentTimeout)
			defer cancel()
			values[i], errs[i] = ask(ctx, a)
			a.client.Close()
		})
	}
	wg.Wait()
	return values, errs
}

// silentAgent is a master whose agent did not answer.
type silentAgent struct {
	Master string `json:"master,omitempty"`
	Error  string `json:"error"`
}

// watchdogReport is what `hactl watchdog -o json` prints.
type watchdogReport struct {
	Watchdogs   []*api.WatchdogStatus `json:"watchdogs"`
	Unreachable []silentAgent         `json:"unreachable"`
}

// watchdogDo asks, or orders when what is not empty, and prints the state then.
func watchdogDo(c *cli.Context, e *env, what string, ask func(context.Context, *api.Client) (*api.WatchdogStatus, error)) error {
	if c.Args().Present() {
		return exitcode.Errorf(exitcode.Usage, "%s takes no argument, got %q", c.Command.HelpName, c.Args().First()).WithHint("%s --help", c.Command.HelpName)
	}
	out, err := outputOf(c)
	if err != nil {
		return err
	}
	agents, err := agentsOf(layoutOf(c), c.Bool("all"))
	if err != nil {
		return err
	}
	if what != "" && c.Bool("dry-run") {
		return dryWatchdog(e, what, c.String("unit"), c.Duration("for"), agents)
	}
	statuses, errs := askAgents(c.Context, agents, func(ctx context.Context, a agentAt) (*api.WatchdogStatus, error) { return ask(ctx, a.client) })
	r := watchdogReport{Watchdogs: []*api.WatchdogStatus{}, Unreachable: []silentAgent{}}
	for i, err := range errs {
		if err == nil {
			r.Watchdogs = append(r.Watchdogs, statuses[i])
			continue
		}
		var refused *api.Error
		if errors.As(err, &refused) && refused.Code == 404 && c.String("unit") != "" {
			return exitcode.Errorf(exitcode.Usage, "%s", refused.Text).WithHint("hactl watchdog status")
		}
		r.Unreachable = append(r.Unreachable, silentAgent{agents[i].master, err.Error()})
	}
	if err := printWatchdogs(e.stdout, r, out, time.Now()); err != nil {
		return err
	}
	return unreachableAgents(r.Unreachable, len(r.Watchdogs), what != "")
}

func dryWatchdog(e *env, what, unit string, d time.Duration, agents []agentAt) error {
	text := "would " + what
	if unit != "" {
		text += " for " + unit
	}
	if d > 0 {
		text += " for " + d.String()
	}
	for _, a := range agents {
		where := a.master
		if where == "" {
			where = "this master"
		}
		fmt.Fprintf(e.stdout, "%s on %s\n", text, where)
	}
	return nil
}

// unreachableAgents is the error of those that did not answer; an order must
// reach them all.
func unreachableAgents(silent []silentAgent, answered int, order bool) error {
	if len(silent) == 0 || answered > 0 && !order {
		return nil
	}
	var names []string
	for _, s := range silent {
		name := s.Master
		if name == "" {
			name = "this master"
		}
		names = append(names, name+": "+s.Error)
	}
	return exitcode.Errorf(exitcode.Unreachable, "no answer of the agent of %s", strings.Join(names, "; ")).
		WithHint("systemctl status hactl-agent; hactl status")
}

func printWatchdogs(w io.Writer, r watchdogReport, out string, now time.Time) error {
	if out == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	if len(r.Watchdogs) == 0 {
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "MASTER\tUNIT\tDECISION\tSINCE\tFAILS\tRESTARTS\tNOTE")
	for _, s := range r.Watchdogs {
		for _, u := range s.Units {
			since := "-"
			if !u.Since.IsZero() {
				since = now.Sub(u.Since).Truncate(time.Second).String()
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", s.Master, u.Unit, u.Action, since, u.Fails, len(u.Restarts), dash(pauseNote(s, u.Unit)))
		}
		for _, n := range s.Notices {
			fmt.Fprintf(tw, "%s\t%s\twarn (%s)\t%s\t-\t-\t%s\n", s.Master, n.Name, n.Reason, now.Sub(n.Since).Truncate(time.Second), n.Detail)
		}
	}
	for _, s := range r.Unreachable {
		fmt.Fprintf(tw, "%s\t-\tunknown\t-\t-\t-\t%s\n", dash(s.Master), s.Error)
	}
	return tw.Flush()
}

// pauseNote says whether a unit is paused, and until when.
func pauseNote(s *api.WatchdogStatus, unit string) string {
	for _, key := range []string{unit, ""} {
		if p, ok := s.Pauses[key]; ok {
			return strings.TrimSpace("paused " + p.String())
		}
	}
	return ""
}
