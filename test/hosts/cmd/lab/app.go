package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/test/hosts"
)

// env is what the commands take from the outside.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

func newApp(e *env) *cli.App {
	return &cli.App{
		Name:           "lab",
		Usage:          "several systemd hosts on this machine, to be lost and cut off",
		Description:    "Needs root. Flags stand before arguments. Hosts are m1, m2, …; \"lab\" is the test's own end of the network.",
		Reader:         e.stdin,
		Writer:         e.stdout,
		ErrWriter:      e.stderr,
		ExitErrHandler: func(*cli.Context, error) {},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return exitcode.Errorf(exitcode.Usage, "no command %q", c.Args().First()).WithHint("lab --help")
			}
			return cli.ShowAppHelp(c)
		},
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "lab", Value: "default", EnvVars: []string{"HACTL_LAB"}, Usage: "name of the lab"},
			&cli.DurationFlag{Name: "timeout", Value: 5 * time.Minute, Usage: "how long a command may take, exec excepted"},
		},
		Commands: append([]*cli.Command{
			upCommand(e), downCommand(), statusCommand(e), execCommand(e), copyCommand(), consoleCommand(e),
			hostCommand("power-on", "boot hosts, with their disks as they were", (*hosts.Host).PowerOn),
			hostCommand("power-off", "cut the power of hosts: SIGKILL to everything at once", (*hosts.Host).PowerOff),
			hostCommand("freeze", "stop every process of hosts", (*hosts.Host).Freeze),
			hostCommand("thaw", "let frozen hosts go on", (*hosts.Host).Thaw),
		}, append(networkCommands(), innerCommands(e)...)...),
	}
}

func upCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "up", Usage: "bring up a lab; it stays until `lab down`",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "hosts", Value: 3, Usage: "how many"},
			&cli.StringSliceFlag{Name: "name", Usage: "a host's name; once for each host, instead of --hosts"},
			&cli.StringSliceFlag{Name: "package", Usage: "a further Debian package in the hosts' tree"},
			&cli.StringSliceFlag{Name: "bind", Usage: "SOURCE:TARGET, a file or folder that every host sees, read-only"},
			&cli.StringSliceFlag{Name: "nspawn-arg", Usage: "a further argument of systemd-nspawn"},
		},
		Action: func(c *cli.Context) error {
			log, err := logging.New(e.stderr, logging.Config{Level: "info", Format: "text"})
			if err != nil {
				return err
			}
			cfg := hosts.Config{
				Name: c.String("lab"), Names: c.StringSlice("name"), Packages: c.StringSlice("package"),
				NspawnArgs: c.StringSlice("nspawn-arg"), Detach: true, Program: "/proc/self/exe", Logger: log,
			}
			if c.IsSet("hosts") || len(cfg.Names) == 0 {
				cfg.Hosts = c.Int("hosts")
			}
			for _, b := range c.StringSlice("bind") {
				source, target, ok := strings.Cut(b, ":")
				if !ok {
					return exitcode.Errorf(exitcode.Usage, "--bind %q is not SOURCE:TARGET", b)
				}
				cfg.Binds = append(cfg.Binds, hosts.Bind{Source: source, Target: target})
			}
			ctx, cancel := limit(c)
			defer cancel()
			began := time.Now()
			lab, err := hosts.Up(ctx, cfg)
			if err != nil {
				return err
			}
			fmt.Fprintf(e.stderr, "lab %s is up after %.1fs; try: lab exec m1 -- systemctl status\n", lab.Name(), time.Since(began).Seconds())
			return printStatus(ctx, e.stdout, lab)
		},
	}
}

func downCommand() *cli.Command {
	return &cli.Command{
		Name: "down", Usage: "end the lab, or remove what a killed one has left",
		Action: func(c *cli.Context) error {
			ctx, cancel := limit(c)
			defer cancel()
			err := hosts.Down(ctx, "", c.String("lab"))
			if errors.Is(err, hosts.ErrNoLab) {
				return nil
			}
			return err
		},
	}
}

func statusCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "the hosts and what was done to the ways between them",
		Flags: []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "table or json"}},
		Action: withLab(func(ctx context.Context, c *cli.Context, lab *hosts.Lab) error {
			switch c.String("output") {
			case "table":
				return printStatus(ctx, e.stdout, lab)
			case "json":
				status, err := lab.Status(ctx)
				if err != nil {
					return err
				}
				out := json.NewEncoder(e.stdout)
				out.SetIndent("", "  ")
				return out.Encode(status)
			default:
				return exitcode.Errorf(exitcode.Usage, "--output %q is neither table nor json", c.String("output"))
			}
		}),
	}
}

func printStatus(ctx context.Context, out io.Writer, lab *hosts.Lab) error {
	status, err := lab.Status(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tADDRESS\tSTATE\tBOOTS\tLAST BOOT TOOK")
	for _, h := range status.Hosts {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", h.Name, h.Address, h.State, h.Boots, h.BootTook.Round(time.Millisecond))
	}
	for _, cut := range status.Cuts {
		fmt.Fprintf(w, "cut\t%s\n", cut)
	}
	for _, slow := range status.Slows {
		fmt.Fprintf(w, "slow\t%s\t%s\n", slow.Way, slow.Shape)
	}
	return w.Flush()
}

// withLab opens the lab for a command.
func withLab(f func(context.Context, *cli.Context, *hosts.Lab) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		lab, err := openLab(c)
		if err != nil {
			return err
		}
		ctx, cancel := limit(c)
		defer cancel()
		return f(ctx, c, lab)
	}
}

func openLab(c *cli.Context) (*hosts.Lab, error) {
	lab, err := hosts.Open("", c.String("lab"))
	if errors.Is(err, hosts.ErrNoLab) {
		return nil, exitcode.Errorf(exitcode.Unreachable, "%w", err).WithHint("lab up")
	}
	if errors.Is(err, os.ErrPermission) {
		return nil, exitcode.Errorf(exitcode.Failed, "%w", err).WithHint("sudo -E")
	}
	return lab, err
}

func limit(c *cli.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Context, c.Duration("timeout"))
}
