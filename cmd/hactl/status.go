package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/hactl/hactl/internal/api"
	"github.com/hactl/hactl/internal/collect"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/status"
)

// statusOptions says what runStatus shows and whom it asks.
type statusOptions struct {
	cluster *config.Cluster
	layout  layout.Layout            // CAs and client certificates
	locals  map[string]layout.Layout // masters on this machine; nil: found out from layout
	// frontDoor is host:port; empty: what the configuration says.
	frontDoor string
	dev       bool   // hactl dev: other hints
	devDir    string // of hactl dev, if not the default one

	output string // see status.Formats
	watch  bool
	every  time.Duration // between two reports of watch; 0: 1s
}

func statusFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "output", Aliases: []string{"o"}, Value: status.FormatTable, EnvVars: []string{"HACTL_OUTPUT"},
			Usage: "table, wide, json or yaml",
		},
		&cli.BoolFlag{
			Name: "watch", Aliases: []string{"w"}, EnvVars: []string{"HACTL_WATCH"},
			Usage: "go on: redraw on a terminal, else print a report for every change",
		},
		&cli.DurationFlag{
			Name: "every", Value: time.Second, EnvVars: []string{"HACTL_EVERY"},
			Usage: "pause between two reports of --watch",
		},
	}
}

func statusCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "one verdict about the cluster, with its reasons",
		Description: "Asks every part of the cluster itself, within 3 seconds; it needs neither the local agent nor etcd's quorum.\n" +
			"Exit code 0: healthy; 4: degraded or down; 5: nothing answered.",
		Flags: append(statusFlags(), rootFlag(), &cli.StringFlag{
			Name: "front-door", EnvVars: []string{"HACTL_FRONT_DOOR"},
			Usage: "host:port of the address that all clients use; empty: what the configuration says",
		}),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return exitcode.Errorf(exitcode.Usage, "status takes no arguments, and got %q", c.Args().First()).WithHint("hactl status --help")
			}
			opts, err := statusOptionsOf(c)
			if err != nil {
				return err
			}
			opts.layout = layoutOf(c)
			if opts.cluster, err = config.Load(opts.layout); err != nil {
				return err
			}
			if door := c.String("front-door"); door != "" {
				if _, _, err := net.SplitHostPort(door); err != nil {
					return exitcode.Errorf(exitcode.Usage, "--front-door %q: want host:port", door)
				}
				opts.frontDoor = door
			}
			return runStatus(c.Context, e, opts)
		},
	}
}

// statusOptionsOf reads statusFlags.
func statusOptionsOf(c *cli.Context) (statusOptions, error) {
	o := statusOptions{output: c.String("output"), watch: c.Bool("watch"), every: c.Duration("every")}
	if !slices.Contains(status.Formats(), o.output) {
		return o, exitcode.Errorf(exitcode.Usage, "--output %q: want table, wide, json or yaml", o.output)
	}
	if o.every <= 0 {
		return o, exitcode.Errorf(exitcode.Usage, "--every %v: want more than 0", o.every)
	}
	return o, nil
}

// runStatus prints the cluster's report, once or again and again. The error
// carries the exit code: Unhealthy when the cluster is degraded or down,
// Unreachable when nothing of it answered.
func runStatus(ctx context.Context, e *env, o statusOptions) error {
	if o.locals == nil {
		o.locals = collect.Locals(o.cluster, o.layout)
	}
	col, err := collect.New(collect.Config{
		Cluster: o.cluster, Layout: o.layout, Locals: o.locals, FrontDoor: o.frontDoor, Dev: o.dev, DevDir: o.devDir,
		Node:   askAgent(o.layout, o.cluster),
		Socket: askSocket,
		Local:  localSources(o.cluster),
	})
	if err != nil {
		return exitcode.Errorf(exitcode.Usage, "%w", err)
	}
	if o.watch {
		return watchStatus(ctx, e, o, col.Report)
	}
	r := col.Report(ctx)
	if err := ctx.Err(); err != nil {
		return err // what was not asked to the end is not the cluster's fault
	}
	if err := status.Render(e.stdout, r, o.output); err != nil {
		return err
	}
	return statusError(r)
}

// statusError is the exit code of a report. Its text is empty where the report on
// stdout says it all.
func statusError(r *status.Report) error {
	switch {
	case !r.Answered:
		hint := "hactl status on a master"
		if len(r.Reasons) > 0 && r.Reasons[0].Hint != "" {
			hint = r.Reasons[0].Hint
		}
		return exitcode.Errorf(exitcode.Unreachable, "nothing of cluster %s can be reached from here", r.Cluster).WithHint("%s", hint)
	case r.Verdict != status.Healthy:
		return &exitcode.Error{Code: exitcode.Unhealthy, Err: errQuiet{}}
	default:
		return nil
	}
}

// errQuiet ends a command with an exit code and without words.
type errQuiet struct{}

func (errQuiet) Error() string { return "" }

// watchStatus shows one report after another until ctx ends. A terminal is
// redrawn; anything else gets a report for every change.
func watchStatus(ctx context.Context, e *env, o statusOptions, report func(context.Context) *status.Report) error {
	every := o.every
	if every <= 0 {
		every = time.Second
	}
	redraw := isTerminal(e) && (o.output == status.FormatTable || o.output == status.FormatWide)
	var last *status.Report
	for {
		r := report(ctx)
		if ctx.Err() != nil {
			return nil // Ctrl-C is how one stops watching
		}
		var err error
		switch {
		case redraw:
			// To the upper left and clear; what scrolled away stays in the history.
			_, _ = fmt.Fprint(e.stdout, "\x1b[H\x1b[2J")
			err = status.Render(e.stdout, r, o.output)
		case last == nil || !status.Same(last, r):
			err = printChange(e, o, r, last == nil)
			last = r
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
	}
}

// printChange writes one report of a stream: JSON as one line, YAML as one
// document, a table under its time.
func printChange(e *env, o statusOptions, r *status.Report, first bool) error {
	switch o.output {
	case status.FormatJSON:
		return json.NewEncoder(e.stdout).Encode(r)
	case status.FormatYAML:
		_, _ = fmt.Fprintln(e.stdout, "---")
	default:
		if !first {
			_, _ = fmt.Fprintln(e.stdout)
		}
		_, _ = fmt.Fprintln(e.stdout, r.Time.Format(time.RFC3339))
	}
	return status.Render(e.stdout, r, o.output)
}

func isTerminal(e *env) bool {
	f, ok := e.stdout.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// askAgent asks a master's agent over the network.
func askAgent(l layout.Layout, cl *config.Cluster) func(context.Context, config.Master) (*status.Node, error) {
	return func(ctx context.Context, m config.Master) (*status.Node, error) {
		conf, err := api.ClientTLS(l, m.Name)
		if err != nil {
			return nil, err
		}
		c, err := api.NewClient(api.ClientConfig{Address: cl.AgentAddress(m), TLS: conf})
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return c.Node(ctx)
	}
}

// localSources reads what the master whose files lie in a layout tells without
// its agent.
func localSources(cl *config.Cluster) func(layout.Layout) collect.Sources {
	return func(l layout.Layout) collect.Sources {
		sources := collect.Local{Layout: l}.Sources()
		sources.Processes = func(ctx context.Context) ([]status.Process, error) {
			m, err := localManager(l, cl)
			if err != nil {
				return nil, err
			}
			defer m.Close()
			return collect.Processes(m)(ctx)
		}
		return sources
	}
}

// askSocket asks the agent of a master on this machine.
func askSocket(ctx context.Context, l layout.Layout) (*status.Node, error) {
	c, err := api.NewClient(api.ClientConfig{Socket: l.AgentSocket()})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Node(ctx)
}
