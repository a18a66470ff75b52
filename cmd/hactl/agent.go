package main

import (
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/agent"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
)

func agentCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "agent",
		Usage: "run this master's agent: gossip, watchdog, API (the unit hactl-agent does)",
		Flags: append([]cli.Flag{
			rootFlag(),
			&cli.StringFlag{Name: "name", EnvVars: []string{"HACTL_NAME"}, Usage: "this master's `NAME` in the configuration"},
			supervisorFlag(),
		}, logFlags()...),
		Action: func(c *cli.Context) error { return runAgent(c, e) },
	}
}

// testDuration is what a test says instead of a time that is minutes; 0: nothing.
func testDuration(e *env, name string) time.Duration {
	d, err := time.ParseDuration(e.getenv(name))
	if err != nil {
		return 0
	}
	return d
}

func runAgent(c *cli.Context, e *env) error {
	if c.Args().Present() {
		return exitcode.Errorf(exitcode.Usage, "agent takes no argument, got %q", c.Args().First()).WithHint("hactl agent --help")
	}
	log, err := loggerOf(c, e)
	if err != nil {
		return err
	}
	l := layoutOf(c)
	cluster, err := config.Load(l)
	if err != nil {
		return err
	}
	name := c.String("name")
	if name == "" {
		return exitcode.Errorf(exitcode.Usage, "--name is missing: which of the configuration's masters is this?").WithHint("hactl agent --name m1")
	}
	if _, ok := cluster.MasterByName(name); !ok {
		return exitcode.Errorf(exitcode.Usage, "--name %q: the configuration has no such master", name).WithHint("hactl config validate")
	}
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read the watchdog's settings: %w", err)
	}
	log = log.With("master", name)
	manager, err := managerOf(c, l, cluster, log)
	if err != nil {
		return err
	}
	defer manager.Close()
	a, err := agent.New(agent.Config{
		Cluster: cluster, Name: name, Layout: l,
		Manager: manager,
		Notify: func(state string) {
			if _, err := daemon.SdNotify(false, state); err != nil {
				log.Warn("the supervisor was not told", "state", state, "err", err)
			}
		},
		WatchdogEvery: every / 3,
		RebootAfter:   testDuration(e, "HACTL_TEST_REBOOT_AFTER"),
		Logger:        log,
	})
	if err != nil {
		return err
	}
	return a.Run(c.Context)
}
