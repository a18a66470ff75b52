package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/test/hosts"
	"github.com/hactl/hactl/test/hosts/internal/guard"
	"github.com/hactl/hactl/test/hosts/internal/keeper"
)

func execCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "exec", Usage: "run a command in a host as root; its exit code is ours", ArgsUsage: "HOST -- CMD [ARG…]",
		SkipFlagParsing: true,
		Action: func(c *cli.Context) error {
			args := c.Args().Slice()
			if len(args) == 1 && (args[0] == "--help" || args[0] == "-h") {
				return cli.ShowSubcommandHelp(c)
			}
			if len(args) > 1 && args[1] == "--" {
				args = append(args[:1:1], args[2:]...)
			}
			if len(args) < 2 {
				return exitcode.Errorf(exitcode.Usage, "exec needs a host and a command").WithHint("lab exec m1 -- systemctl status")
			}
			lab, err := openLab(c)
			if err != nil {
				return err
			}
			host, err := lab.Named(args[0])
			if err != nil {
				return err
			}
			cmd, err := host.Command(c.Context, args[1:]...)
			if err != nil {
				return err
			}
			cmd.Stdin, cmd.Stdout, cmd.Stderr = e.stdin, e.stdout, e.stderr
			err = cmd.Run()
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.Exited() {
				return &exitcode.Error{Code: exit.ExitCode(), Err: errors.New("")} // the command has said why
			}
			return err
		},
	}
}

func copyCommand() *cli.Command {
	return &cli.Command{
		Name: "copy", Usage: "copy a file or folder of this machine into a host", ArgsUsage: "SOURCE HOST:TARGET",
		Action: withLab(func(ctx context.Context, c *cli.Context, lab *hosts.Lab) error {
			name, target, ok := strings.Cut(c.Args().Get(1), ":")
			if c.NArg() != 2 || !ok || !path.IsAbs(target) {
				return exitcode.Errorf(exitcode.Usage, "copy needs SOURCE and HOST:TARGET, an absolute path").WithHint("lab copy bin/hactl m1:/usr/local/bin/hactl")
			}
			host, err := lab.Named(name)
			if err != nil {
				return err
			}
			return host.CopyTo(ctx, c.Args().First(), target)
		}),
	}
}

func consoleCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "console", Usage: "print what a host has written to its console", ArgsUsage: "HOST",
		Action: withLab(func(_ context.Context, c *cli.Context, lab *hosts.Lab) error {
			host, err := lab.Named(c.Args().First())
			if err != nil {
				return err
			}
			text, err := host.Console()
			fmt.Fprint(e.stdout, text)
			return err
		}),
	}
}

// hostCommand does f to each host that is named, to all at once.
func hostCommand(name, usage string, f func(*hosts.Host, context.Context) error) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "HOST…",
		Action: withLab(func(ctx context.Context, c *cli.Context, lab *hosts.Lab) error {
			if !c.Args().Present() {
				return exitcode.Errorf(exitcode.Usage, "%s needs a host", name).WithHint("lab %s m1", name)
			}
			var all errgroup.Group
			for _, n := range c.Args().Slice() {
				host, err := lab.Named(n)
				if err != nil {
					return err
				}
				all.Go(func() error { return f(host, ctx) })
			}
			return all.Wait()
		}),
	}
}

func networkCommands() []*cli.Command {
	oneWay := &cli.BoolFlag{Name: "one-way", Usage: "only from A to B"}
	return []*cli.Command{
		{
			Name: "cut", Usage: "let nothing pass between hosts", ArgsUsage: "A B   (each may be a list: m1,m2)",
			Flags: []cli.Flag{oneWay},
			Action: pairs(func(ctx context.Context, c *cli.Context, lab *hosts.Lab, a, b string) error {
				if c.Bool("one-way") {
					return lab.CutOneWay(ctx, a, b)
				}
				return lab.Cut(ctx, a, b)
			}),
		},
		{
			Name: "slow", Usage: "make the way between hosts slow, in both directions alike", ArgsUsage: "A B   (each may be a list: m1,m2)",
			Flags: []cli.Flag{
				oneWay,
				&cli.DurationFlag{Name: "delay", Usage: "added in each direction"},
				&cli.DurationFlag{Name: "jitter", Usage: "up to so much more"},
				&cli.StringFlag{Name: "loss", Usage: "share that vanishes: 0.1 or 10%"},
				&cli.StringFlag{Name: "duplicate", Usage: "share that arrives twice"},
				&cli.StringFlag{Name: "reorder", Usage: "share that overtakes the delay"},
				&cli.StringFlag{Name: "rate", Usage: "bits a second: 512k, 10M"},
				&cli.Uint64Flag{Name: "seed", Usage: "the same seed loses the same frames"},
			},
			Action: pairs(func(ctx context.Context, c *cli.Context, lab *hosts.Lab, a, b string) error {
				s, err := slowness(c)
				if err != nil {
					return exitcode.Errorf(exitcode.Usage, "%w", err).WithHint("lab slow --delay 50ms --loss 1%% m1 m2")
				}
				if c.Bool("one-way") {
					return lab.SlowOneWay(ctx, a, b, s)
				}
				return lab.Slow(ctx, a, b, s)
			}),
		},
		{
			Name: "heal", Usage: "undo cuts and slowness, between two hosts or all", ArgsUsage: "[A B]",
			Action: withLab(func(ctx context.Context, c *cli.Context, lab *hosts.Lab) error {
				if !c.Args().Present() {
					return lab.Heal(ctx)
				}
				return eachPair(c, func(a, b string) error { return lab.HealBetween(ctx, a, b) })
			}),
		},
	}
}

func pairs(f func(ctx context.Context, c *cli.Context, lab *hosts.Lab, a, b string) error) cli.ActionFunc {
	return withLab(func(ctx context.Context, c *cli.Context, lab *hosts.Lab) error {
		return eachPair(c, func(a, b string) error { return f(ctx, c, lab, a, b) })
	})
}

func eachPair(c *cli.Context, f func(a, b string) error) error {
	if c.NArg() != 2 || strings.HasPrefix(c.Args().First(), "-") {
		return exitcode.Errorf(exitcode.Usage, "%s needs two hosts (or lists of hosts), after the flags", c.Command.Name).
			WithHint("lab %s m1,m2 m3", c.Command.Name)
	}
	for a := range strings.SplitSeq(c.Args().Get(0), ",") {
		for b := range strings.SplitSeq(c.Args().Get(1), ",") {
			if err := f(a, b); err != nil {
				return err
			}
		}
	}
	return nil
}

func slowness(c *cli.Context) (hosts.Slowness, error) {
	s := hosts.Slowness{Delay: c.Duration("delay"), Jitter: c.Duration("jitter"), Seed: c.Uint64("seed")}
	var errs []error
	for name, to := range map[string]*float64{"loss": &s.Loss, "duplicate": &s.Duplicate, "reorder": &s.Reorder} {
		if c.IsSet(name) {
			var err error
			if *to, err = parseShare(c.String(name)); err != nil {
				errs = append(errs, fmt.Errorf("--%s: %w", name, err))
			}
		}
	}
	if c.IsSet("rate") {
		var err error
		if s.Rate, err = parseRate(c.String("rate")); err != nil {
			errs = append(errs, fmt.Errorf("--rate: %w", err))
		}
	}
	if s == (hosts.Slowness{Seed: s.Seed}) && len(errs) == 0 {
		errs = append(errs, errors.New("slow needs to know how: --delay, --jitter, --loss, --duplicate, --reorder or --rate"))
	}
	return s, errors.Join(errs...)
}

// parseShare reads "0.1" or "10%".
func parseShare(text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v <= 1) {
		return 0, fmt.Errorf("%q is not a share such as 0.1 or 10%%", text)
	}
	return v, nil
}

// parseRate reads bits a second with a decimal suffix: "512k", "10M", "1G".
func parseRate(text string) (int64, error) {
	factor := int64(1)
	number := text
	for i, suffix := range []string{"k", "M", "G"} {
		if n, ok := strings.CutSuffix(text, suffix); ok {
			number = n
			for range i + 1 {
				factor *= 1000
			}
		}
	}
	v, err := strconv.ParseInt(number, 10, 32)
	if err != nil || v <= 0 {
		return 0, fmt.Errorf("%q is not a rate such as 512k or 10M", text)
	}
	return v * factor, nil
}

// innerCommands are the lab's own processes, started by Up with descriptors of
// its own.
func innerCommands(e *env) []*cli.Command {
	return []*cli.Command{
		{Name: "guard", Hidden: true, Action: func(c *cli.Context) error {
			lock := inherited(5, "lock") // held as long as it is open
			defer lock.Close()
			return guard.Run(c.Context, guard.Config{Dir: c.Args().First(), Result: inherited(3, "result"), Owner: inherited(4, "owner")})
		}},
		{Name: "keeper", Hidden: true, Action: func(c *cli.Context) error {
			log, err := logging.New(e.stderr, logging.Config{Level: "info", Format: "text"})
			if err != nil {
				return err
			}
			return keeper.Run(c.Context, c.Args().First(), inherited(3, "ready"), log)
		}},
	}
}

// inherited is a descriptor that was passed to this process, and goes no further.
func inherited(fd int, name string) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}
