package main

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/exitcode"
)

func etcdCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "etcd",
		Usage: "run, see and change the etcd members",
		Subcommands: []*cli.Command{
			etcdRunCommand(e),
			etcdMemberCommand(e),
			etcdSnapshotCommand(e),
			etcdDefragCommand(e),
			etcdMoveLeaderCommand(e),
			etcdAlarmCommand(e),
		},
	}
}

// etcdNameFlag says which of the configuration's masters this machine is.
func etcdNameFlag() cli.Flag {
	return &cli.StringFlag{Name: "name", EnvVars: []string{"HACTL_NAME"}, Usage: "this master's `NAME` in the configuration"}
}

func etcdRunCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "run this master's etcd member (the unit hactl-etcd does)",
		Description: "Runs until SIGTERM, then hands leadership over and closes. A machine without data starts only by a\n" +
			"one-time intent, which bootstrap, join and dev write; one whose data are lost does not start again under\n" +
			"its old identity (exit code 3).",
		Flags:  append([]cli.Flag{rootFlag(), etcdNameFlag()}, logFlags()...),
		Action: func(c *cli.Context) error { return etcdRun(c, e) },
	}
}

func etcdRun(c *cli.Context, e *env) error {
	if c.Args().Present() {
		return exitcode.Errorf(exitcode.Usage, "unexpected argument %q", c.Args().First()).WithHint("%s --help", c.Command.HelpName)
	}
	log, err := loggerOf(c, e)
	if err != nil {
		return err
	}
	_, cfg, err := etcdMaster(c)
	if err != nil {
		return err
	}
	cfg.Logger = log
	cfg.Registerer = prometheus.DefaultRegisterer // etcd's metrics are there, and served together with ours
	cfg.Notify = func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Warn("the supervisor was not told", "state", state, "err", err)
		}
	}
	if every, err := daemon.SdWatchdogEnabled(false); err != nil {
		return fmt.Errorf("read the watchdog's settings: %w", err)
	} else if every > 0 {
		cfg.WatchdogEvery = every / 3 // one late read does not kill the member
	}
	m, err := etcdcluster.New(cfg)
	if err != nil {
		return exitcode.Errorf(exitcode.Usage, "%w", err)
	}
	err = m.Run(c.Context)
	if err != nil && e.getenv("INVOCATION_ID") != "" {
		rest(c.Context)
	}
	return err
}

// restTime is how long a member that failed waits before it ends.
const restTime = 2 * time.Second

// rest slows down what fails again and again: systemd's RestartSec is short, so that
// a member that was killed is back at once, and before version 254 it never grows.
// One that is to be stopped does not rest.
func rest(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(restTime):
	}
}

// etcdMaster reads the configuration and returns what --name means in it.
func etcdMaster(c *cli.Context) (*config.Cluster, etcdcluster.Config, error) {
	l := layoutOf(c)
	cluster, err := config.Load(l)
	if err != nil {
		return nil, etcdcluster.Config{}, err
	}
	name := c.String("name")
	if name == "" {
		return nil, etcdcluster.Config{}, exitcode.Errorf(exitcode.Usage, "--name is missing").
			WithHint("%s --name NAME, one of %s", c.Command.HelpName, etcdMasterNames(cluster))
	}
	cfg, err := etcdcluster.FromConfig(cluster, l, name)
	if err != nil {
		return nil, etcdcluster.Config{}, exitcode.Errorf(exitcode.Usage, "%w", err).
			WithHint("--name is one of %s", etcdMasterNames(cluster))
	}
	return cluster, cfg, nil
}

func etcdMasterNames(c *config.Cluster) string {
	names := ""
	for i, m := range c.Masters {
		if i > 0 {
			names += ", "
		}
		names += m.Name
	}
	return names
}
