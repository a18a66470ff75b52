package main

import (
	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/bootstrap"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/preflight"
)

// ignorePreflightFlag is preflight's and of the commands that begin with it.
func ignorePreflightFlag() cli.Flag {
	return &cli.StringSliceFlag{
		Name: "ignore-preflight", EnvVars: []string{"HACTL_IGNORE_PREFLIGHT"},
		Usage: "take the errors of the check `NAME` (as printed, or all) for warnings; may be repeated",
	}
}

func preflightCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "preflight",
		Usage: "say whether this machine can become a master: every fault at once, with its cure",
		Description: "Looks at the machine and changes nothing; hactl bootstrap and hactl join begin with the same. It may be run on\n" +
			"a master that serves: what belongs to this installation is not in its own way. Most of it needs root.\n" +
			"\n" +
			"Each check has a name that never changes (Root, Port-6443, DiskFsync, …; docs/preflight.md lists them) and finds\n" +
			"errors, with which bootstrap would refuse to begin, and warnings.\n" +
			"\n" +
			"Which master this is: --name, else the one whose address this machine has, else the one called like it.\n" +
			"\n" +
			"Exit code 0: no error (warnings may be shown); 4: an error is left; 2: wrong use.\n" +
			"\n" +
			"hactl preflight --ignore-preflight DiskFsync --ignore-preflight Port-6443",
		Flags: []cli.Flag{
			rootFlag(),
			&cli.StringFlag{
				Name: "config", EnvVars: []string{"HACTL_CONFIG"}, TakesFile: true,
				Usage: "the cluster's configuration `FILE`, with its drop-ins in FILE.d and /etc/hactl/cluster.yaml.d; empty: /etc/hactl/cluster.yaml",
			},
			&cli.StringFlag{Name: "name", EnvVars: []string{"HACTL_NAME"}, Usage: "this master's `NAME` in the configuration; empty: found out"},
			ignorePreflightFlag(),
			jsonFlag("table"),
		},
		Action: func(c *cli.Context) error { return runPreflight(c, e) },
	}
}

func runPreflight(c *cli.Context, e *env) error {
	if err := noArguments(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c, "table")
	if err != nil {
		return err
	}
	ignore := c.StringSlice("ignore-preflight")
	if err := preflight.CheckIgnore(ignore); err != nil {
		return exitcode.Errorf(exitcode.Usage, "--ignore-preflight: %w", err).WithHint("hactl preflight --help")
	}
	cfg := preflight.Config{Name: c.String("name"), Layout: layoutOf(c)}
	cfg.Cluster, cfg.ClusterErr = loadCluster(c.String("config"), cfg.Layout)
	ctx := c.Context
	facts := preflight.Gather(ctx, cfg)
	if err := ctx.Err(); err != nil {
		return err // what was not looked at to the end is not the machine's fault
	}
	report := preflight.NewReport(facts, ignore)
	write := report.Table
	if asJSON {
		write = report.JSON
	}
	if err := write(e.stdout); err != nil {
		return err
	}
	return report.Err()
}

// loadCluster reads the configuration as bootstrap would, or the machine's own when
// file is empty.
func loadCluster(file string, l layout.Layout) (*config.Cluster, error) {
	if file == "" {
		return config.Load(l)
	}
	return bootstrap.LoadConfig(file, l)
}
