package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/lb"
)

func lbCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "lb",
		Usage: "the load balancer in front of the API servers",
		Subcommands: []*cli.Command{
			lbRunCommand(e),
			lbStatusCommand(e),
			lbDrainCommand(e, true),
			lbDrainCommand(e, false),
		},
	}
}

// adminFlag says where a balancer's admin socket is.
func adminFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "admin", EnvVars: []string{"HACTL_ADMIN"},
		Usage: "admin socket, unix:PATH; default: run/hactl/lb.sock under --root",
	}
}

func adminPath(c *cli.Context) (string, error) {
	s := c.String("admin")
	if s == "" {
		return layoutOf(c).LBAdminSocket(), nil
	}
	path, ok := strings.CutPrefix(s, "unix:")
	if !ok || path == "" {
		return "", exitcode.Errorf(exitcode.Usage, "--admin %q: want unix:PATH", s)
	}
	return path, nil
}

func lbClient(c *cli.Context) (*lb.Client, error) {
	path, err := adminPath(c)
	if err != nil {
		return nil, err
	}
	return lb.NewClient(path), nil
}

// lbHint is a command for the balancer that c talks to.
func lbHint(c *cli.Context, words string) string {
	hint := "hactl lb " + words
	for _, name := range []string{"root", "admin"} {
		if c.IsSet(name) {
			hint += " --" + name + " " + c.String(name)
		}
	}
	return hint
}

// lbFailed gives a failed call to the balancer its exit code and way out.
func lbFailed(c *cli.Context, err error) error {
	switch {
	case errors.Is(err, lb.ErrNoBackend):
		return exitcode.Errorf(exitcode.Usage, "%w", err).WithHint("%s", lbHint(c, "status"))
	case errors.Is(err, lb.ErrLastBackend):
		return exitcode.Errorf(exitcode.Refused, "drain %s: %w: every new connection would fail", c.Args().First(), err).
			WithHint("%s; or the same with --force", lbHint(c, "status"))
	case errors.Is(err, lb.ErrHandingOver):
		return exitcode.Errorf(exitcode.Failed, "%w", err).WithHint("the same again in a moment")
	}
	return exitcode.Errorf(exitcode.Unreachable, "%w", err).WithHint("is it running, and is --root or --admin right? systemctl status hactl-lb")
}

func lbStatusCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show the backends and what the balancer thinks of them",
		Flags: []cli.Flag{
			rootFlag(), adminFlag(),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "table or json"},
		},
		Action: func(c *cli.Context) error {
			client, err := lbClient(c)
			if err != nil {
				return err
			}
			s, err := client.Status(c.Context)
			if err != nil {
				return lbFailed(c, err)
			}
			switch out := c.String("output"); out {
			case "json":
				enc := json.NewEncoder(e.stdout)
				enc.SetIndent("", "  ")
				err = enc.Encode(s)
			case "table":
				err = printLBStatus(e.stdout, s, time.Now())
			default:
				return exitcode.Errorf(exitcode.Usage, "--output %q: want table or json", out)
			}
			if err == nil && !s.Ready {
				err = exitcode.Errorf(exitcode.Unhealthy, "not ready: %s", s.Why)
			}
			return err
		},
	}
}

func printLBStatus(w io.Writer, s lb.Status, now time.Time) error {
	ready := "ready"
	if !s.Ready {
		ready = "not ready: " + s.Why
	}
	fmt.Fprintf(w, "%s  %s  listens on %s, check %s, up %s\n", s.Name, ready, strings.Join(s.Listen, ", "), s.Check, since(s.Started, now))
	fmt.Fprintf(w, "connections %d of %d, accepted %d, retries %d, replays %d, shed %d\n",
		s.Counts.Open, s.MaxConns, s.Counts.Accepted, s.Counts.Retries, s.Counts.Replays, s.Counts.Shed)
	if s.ListFrom == "disk" {
		fmt.Fprintln(w, "the list of backends is the one kept on disk")
	}
	if s.ListErr != "" {
		fmt.Fprintf(w, "the newest list of backends is refused:%s\n", indented(s.ListErr))
	}
	for _, n := range s.Unresolved {
		left := "it has no address and gets no connection"
		if n.Addresses > 0 {
			left = fmt.Sprintf("its last addresses (%d) stay", n.Addresses)
		}
		fmt.Fprintf(w, "backend %s (%s) cannot be looked up, %s: %s\n", n.Name, n.Address, left, n.Err)
	}
	if s.FilesErr != "" {
		fmt.Fprintf(w, "a file of the checks turned bad, what it said before counts: %s\n", s.FilesErr)
	}
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "BACKEND\tADDRESS\tSTATE\tSINCE\tCONNS\tTOTAL\tUP\tDOWN\tFAILED\tREPLAYED\tPROBE\tWHY")
	for _, b := range s.Backends {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%d\t%d\t%.1fms\t%s\n", b.Name, b.Address, stateWord(b), since(b.Since, now),
			b.Connections, b.Total, size(b.BytesUp), size(b.BytesDown), b.Failed, b.Replayed, b.Probe.TookMS, cmp.Or(b.Why, "-"))
	}
	return tw.Flush()
}

// indented puts each of several lines on one of its own, below what introduces them.
func indented(s string) string {
	if !strings.Contains(s, "\n") {
		return " " + s
	}
	return "\n  " + strings.ReplaceAll(s, "\n", "\n  ")
}

func stateWord(b lb.BackendStatus) string {
	switch {
	case b.Removed:
		return "removed"
	case b.Drained:
		return "drained"
	case b.Distrusted:
		return "distrusted"
	}
	return b.State.String()
}

// since writes an age in its two largest units.
func since(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := now.Sub(t).Round(time.Second)
	switch {
	case d < time.Minute:
		return d.String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

func size(n int64) string {
	const unit = 1024
	if n < unit {
		return strconv.FormatInt(n, 10) + "B"
	}
	v, suffix := float64(n), ""
	for _, s := range []string{"Ki", "Mi", "Gi", "Ti"} {
		if v < unit {
			break
		}
		v, suffix = v/unit, s
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + suffix
}

func lbDrainCommand(e *env, drain bool) *cli.Command {
	name, usage := "undrain", "let a drained backend have new connections again"
	if drain {
		name, usage = "drain", "send a backend nothing new; its old connections go on"
	}
	flags := []cli.Flag{rootFlag(), adminFlag()}
	if drain {
		flags = append(flags,
			&cli.BoolFlag{Name: "force", Usage: "also when no other backend would be usable: new connections fail then"},
			&cli.BoolFlag{Name: "wait", Usage: "wait until its last connection has ended"},
			&cli.DurationFlag{Name: "timeout", Value: 10 * time.Minute, Usage: "how long --wait waits"})
	}
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "BACKEND", Flags: flags,
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return exitcode.Errorf(exitcode.Usage, "want the name or address of one backend").WithHint("%s", lbHint(c, "status"))
			}
			client, err := lbClient(c)
			if err != nil {
				return err
			}
			backend, do := c.Args().First(), client.Undrain
			switch {
			case drain && c.Bool("force"):
				do = client.Drain
			case drain:
				do = client.DrainSafely
			}
			if err := do(c.Context, backend); err != nil {
				return lbFailed(c, err)
			}
			s, err := client.Status(c.Context)
			if err != nil {
				return lbFailed(c, err)
			}
			fmt.Fprintln(e.stderr, drainWords(s, backend, drain))
			if drain && c.Bool("wait") {
				return waitDrained(c, e.stderr, client, backend)
			}
			return nil
		},
	}
}

// drainWords says what drain or undrain came to.
func drainWords(s lb.Status, backend string, drain bool) string {
	if drain {
		words := fmt.Sprintf("%s: drained, gets nothing new, %s left", backend, connections(connectionsOf(s, backend)))
		if !s.Ready {
			words += "; no other backend is usable"
		}
		return words
	}
	for _, b := range s.Backends {
		if means(b, backend) && !b.Removed && !b.Usable {
			return fmt.Sprintf("%s: no longer drained, but %s is %s: %s", backend, b.Address, stateWord(b), b.Why)
		}
	}
	return backend + ": no longer drained, gets new connections"
}

func connections(n int64) string {
	if n == 1 {
		return "1 connection"
	}
	return strconv.FormatInt(n, 10) + " connections"
}

// waitDrained returns when backend has no connection any more.
func waitDrained(c *cli.Context, talk io.Writer, client *lb.Client, backend string) error {
	timeout := c.Duration("timeout")
	ctx, cancel := context.WithTimeout(c.Context, timeout)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	last := int64(-1)
	for {
		s, err := client.Status(ctx)
		if err != nil && ctx.Err() == nil {
			return lbFailed(c, err)
		}
		if err == nil {
			left := connectionsOf(s, backend)
			if left == 0 {
				return nil
			}
			if left != last {
				fmt.Fprintf(talk, "%s: %s left\n", backend, connections(left))
				last = left
			}
		}
		select {
		case <-ctx.Done():
			return exitcode.Errorf(exitcode.TimedOut, "%s still has %s after %v", backend, connections(last), timeout).
				WithHint("%s", lbHint(c, "undrain")+" "+backend)
		case <-tick.C:
		}
	}
}

func connectionsOf(s lb.Status, backend string) (n int64) {
	for _, b := range s.Backends {
		if means(b, backend) {
			n += b.Connections
		}
	}
	return n
}

// means says whether an operator means b by that word.
func means(b lb.BackendStatus, word string) bool {
	return b.Name == word || b.Address == word || b.Host == word || b.Host != "" && strings.HasPrefix(b.Name, word+"@")
}

// mustStay refuses an address for metrics and health, which are plain HTTP, that
// other machines could reach.
func mustStay(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return exitcode.Errorf(exitcode.Usage, "--listen-metrics %q: want a loopback IP address and a port, such as 127.0.0.1:9445", addr)
	}
	return nil
}
