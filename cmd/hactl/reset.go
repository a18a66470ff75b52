package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/bootstrap"
)

func resetCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "reset",
		Usage: "wipe what hactl put on this machine: units, keys, state",
		Description: "Stops everything and removes unit files, certificates, keys, kubeconfigs and /var/lib/hactl with the etcd data.\n" +
			"/etc/hactl (configuration, token), logs and backups stay. Cut anywhere, the same command goes on.\n\n" +
			"Refused (exit code 3) while this machine is a voter of its cluster: hactl leave comes first. --force wipes it\n" +
			"all the same, for instance to end a whole cluster.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", EnvVars: []string{"HACTL_FORCE"}, Usage: "wipe a voter, too: its cluster is left with a dead member"},
			&cli.DurationFlag{Name: "timeout", Value: bootstrapTimeout, EnvVars: []string{"HACTL_TIMEOUT"}, Usage: "give up after this long; the same command goes on"},
			dryRunFlag(), etcdYesFlag(), jsonFlag("text"), rootFlag(),
		},
		Action: func(c *cli.Context) error { return runReset(c, e) },
	}
}

func runReset(c *cli.Context, e *env) error {
	asJSON, ctx, cfg, done, err := endConfig(c, e)
	if err != nil {
		return err
	}
	defer done()
	reset := bootstrap.ResetConfig{Config: cfg, Force: c.Bool("force")}
	if !c.Bool("yes") {
		reset.Confirm = func(question string) (bool, error) { return confirm(e, question) }
	}
	result, err := bootstrap.Reset(ctx, reset)
	if err != nil || result == nil {
		return etcdError(err)
	}
	if asJSON {
		return writeJSON(e.stdout, result)
	}
	if !result.DryRun {
		fmt.Fprintln(e.stderr, "this machine is no master any more; its configuration and token are kept in /etc/hactl")
	}
	return nil
}
