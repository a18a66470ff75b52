package main

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/bootstrap"
	"github.com/hactl/hactl/internal/exitcode"
)

func leaveCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "leave",
		Usage: "take this master out of its cluster, without a gap for anybody",
		Description: "Hands its singletons over, lets its API server finish, removes its etcd member and stops everything, the\n" +
			"balancer last. Data and keys stay on the machine, and it stays out: to use it again, hactl reset and hactl join.\n" +
			"Cut anywhere, the same command goes on. Afterwards take the master out of cluster.yaml on the others, too.\n\n" +
			"Refused (exit code 3) when the masters that are left would be no safe quorum; nothing was touched then.",
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "timeout", Value: bootstrapTimeout, EnvVars: []string{"HACTL_TIMEOUT"}, Usage: "give up after this long; the same command goes on"},
			dryRunFlag(), jsonFlag("text"), rootFlag(),
		},
		Action: func(c *cli.Context) error { return runLeave(c, e) },
	}
}

func runLeave(c *cli.Context, e *env) error {
	asJSON, ctx, cfg, done, err := endConfig(c, e)
	if err != nil {
		return err
	}
	defer done()
	result, err := bootstrap.Leave(ctx, cfg)
	if err != nil {
		return etcdError(err)
	}
	if asJSON {
		return writeJSON(e.stdout, result)
	}
	if !result.DryRun {
		fmt.Fprintf(e.stderr, "%s has left cluster %s. Next: take it out of cluster.yaml on the other masters\n", result.Master, result.Cluster)
	}
	return nil
}

// endConfig reads what leave and reset have in common.
func endConfig(c *cli.Context, e *env) (asJSON bool, _ context.Context, _ bootstrap.Config, done func(), err error) {
	fail := func(err error) (bool, context.Context, bootstrap.Config, func(), error) {
		return false, nil, bootstrap.Config{}, nil, err
	}
	if err := noArguments(c); err != nil {
		return fail(err)
	}
	if asJSON, err = wantsJSON(c, "text"); err != nil {
		return fail(err)
	}
	l := layoutOf(c)
	if l.Root != "" && !c.Bool("dry-run") {
		return fail(exitcode.Errorf(exitcode.Usage, "--root only goes with --dry-run: systemd runs a real machine's masters").WithHint("hactl dev down"))
	}
	cfg, closeSystemd, err := bootstrapConfig(c, e, l)
	if err != nil {
		return fail(err)
	}
	timeout := c.Duration("timeout")
	if timeout <= 0 {
		timeout = 10 * time.Minute
	}
	ctx, cancel := context.WithTimeout(c.Context, timeout)
	return asJSON, ctx, cfg, func() { cancel(); closeSystemd() }, nil
}
