package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/bootstrap"
	"github.com/hactl/hactl/internal/collect"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/preflight"
	"github.com/hactl/hactl/internal/rendezvous"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/workload/systemd"
)

// bootstrapTimeout is how long the other masters may let wait by default.
const bootstrapTimeout = 10 * time.Minute

func bootstrapCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "bootstrap",
		Usage: "make this machine a master; the same command on every one",
		Description: "Run it on all masters, in any order, with the same cluster.yaml and the same token. They meet, agree on\n" +
			"the configuration, and found the cluster together; where one runs already, the machine joins it. Each step is\n" +
			"journaled in /var/lib/hactl/bootstrap.json: killed, rebooted or cut off anywhere, the same command goes on.\n" +
			"Run again on a master, it applies a changed configuration and restarts only what changed.\n\n" +
			"Only the first of the configuration's masters founds, and only while it sees all others: a master that\n" +
			"lost its disk never forms a second cluster. It ends when API server, balancer and singletons serve.\n\n" +
			"Exit codes: 0 this machine is a master; 2 the configuration is wrong; 3 refused (another machine has this name, it\n" +
			"was removed, the configurations differ); 4 the machine is not fit (hactl preflight); 6 the others did not come.\n\n" +
			"    hactl token create > /etc/hactl/token         # once; copy it and cluster.yaml to all masters\n" +
			"    hactl bootstrap --config cluster.yaml",
		Flags: append(bootstrapFlags(),
			&cli.StringSliceFlag{Name: "without", EnvVars: []string{"HACTL_WITHOUT"}, Usage: "found without master `NAME`, which is not there now and may join later (repeatable)"},
			&cli.BoolFlag{Name: "allow-even", EnvVars: []string{"HACTL_ALLOW_EVEN"}, Usage: "accept an even number of masters: one more that can fail, but none more that may"},
		),
		Action: func(c *cli.Context) error { return runBootstrap(c, e, false) },
	}
}

func joinCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "join",
		Usage: "make this machine a master of a cluster that runs; never found one",
		Description: "Does what hactl bootstrap does, but only as a new member of a running cluster: its masters are found by\n" +
			"the token, which must still be valid there (hactl token rotate on one of them makes a new one).",
		Flags: append(bootstrapFlags(),
			&cli.BoolFlag{Name: "allow-even", EnvVars: []string{"HACTL_ALLOW_EVEN"}, Usage: "accept an even number of masters"}),
		Action: func(c *cli.Context) error { return runBootstrap(c, e, true) },
	}
}

func bootstrapFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "config", Aliases: []string{"f"}, EnvVars: []string{"HACTL_CONFIG"}, TakesFile: true, Usage: "`FILE` of the cluster, copied to /etc/hactl/cluster.yaml; empty: the one that is there"},
		&cli.StringFlag{Name: "name", EnvVars: []string{"HACTL_NAME"}, Usage: "this master's `NAME` in the configuration; empty: by this machine's addresses, then its host name"},
		&cli.StringFlag{Name: "podmaster", EnvVars: []string{"HACTL_PODMASTER"}, TakesFile: true, Usage: "podmaster's program `FILE`; empty: beside hactl"},
		ignorePreflightFlag(),
		&cli.DurationFlag{Name: "timeout", Value: bootstrapTimeout, EnvVars: []string{"HACTL_TIMEOUT"}, Usage: "give up after this long; the same command goes on"},
		&cli.BoolFlag{Name: "dry-run", EnvVars: []string{"HACTL_DRY_RUN"}, Usage: "say what would be done, and change nothing"},
		jsonFlag("table"),
		rootFlag(),
	}
}

func runBootstrap(c *cli.Context, e *env, join bool) error {
	if err := noArguments(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c, "table")
	if err != nil {
		return err
	}
	l := layoutOf(c)
	if l.Root != "" && !c.Bool("dry-run") {
		return exitcode.Errorf(exitcode.Usage, "--root only goes with --dry-run: systemd runs a real machine's masters").WithHint("hactl dev up runs masters under folders")
	}
	cfg, closeSystemd, err := bootstrapConfig(c, e, l)
	if err != nil {
		return err
	}
	defer closeSystemd()
	cfg.JoinOnly = join
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	result, err := bootstrap.Run(ctx, cfg)
	if err != nil {
		return etcdError(err)
	}
	if asJSON {
		return writeJSON(e.stdout, result)
	}
	return printBootstrap(e, result)
}

// bootstrapConfig reads the flags.
func bootstrapConfig(c *cli.Context, e *env, l layout.Layout) (bootstrap.Config, func(), error) {
	self, err := hactlProgram()
	if err != nil {
		return bootstrap.Config{}, nil, err
	}
	podmaster := c.String("podmaster")
	if podmaster == "" {
		podmaster = filepath.Join(filepath.Dir(self), "podmaster")
	}
	units, err := systemd.NewInstaller("", nil)
	if err != nil {
		return bootstrap.Config{}, nil, err
	}
	ignore := c.StringSlice("ignore-preflight")
	if err := preflight.CheckIgnore(ignore); err != nil {
		return bootstrap.Config{}, nil, exitcode.Errorf(exitcode.Usage, "--ignore-preflight: %w", err).WithHint("hactl preflight --help")
	}
	file := c.String("config")
	if file != "" {
		if file, err = filepath.Abs(file); err != nil {
			return bootstrap.Config{}, nil, err
		}
	}
	return bootstrap.Config{
		File: file, Layout: l, Name: c.String("name"),
		Without: c.StringSlice("without"), AllowEven: c.Bool("allow-even"), DryRun: c.Bool("dry-run"),
		Hactl: self, Podmaster: podmaster, Systemd: units,
		Preflight: bootstrapPreflight(e, self, podmaster, ignore),
		Report: func(ctx context.Context, cluster *config.Cluster) (*status.Report, error) {
			return clusterReport(ctx, cluster, l)
		},
		Journaled: killAt(e),
		Progress:  e.stderr,
		Logger:    logging.Discard(),
	}, units.Close, nil
}

// killAt kills this program at the entry of the journal that HACTL_TEST_KILL_AT
// names, as in "intent:begun": how tests cut a command at each of its steps.
func killAt(e *env) func(step, state string) {
	at := e.getenv("HACTL_TEST_KILL_AT")
	if at == "" {
		return nil
	}
	return func(step, state string) {
		if step+":"+state == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // it comes at once, but not before this call returns
		}
	}
}

// hactlProgram is this program's file, as units will name it.
func hactlProgram() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the own program: %w", err)
	}
	if real, err := filepath.EvalSymlinks(self); err == nil {
		self = real
	}
	return strings.TrimSuffix(self, " (deleted)"), nil
}

// spans are lengths of time: a finding that differs by them only is the same one.
var spans = regexp.MustCompile(`\b[0-9][0-9.]*(ns|µs|ms|h|m|s)[0-9hms.]*\b`)

// bootstrapPreflight checks the machine before anything is changed, and looks at
// what it found again once the others are known.
func bootstrapPreflight(e *env, hactl, podmaster string, ignore []string) func(context.Context, bootstrap.Preflight) error {
	var facts *preflight.Facts
	said := map[string]bool{}
	return func(ctx context.Context, p bootstrap.Preflight) error {
		if facts == nil {
			f := preflight.Gather(ctx, preflight.Config{Cluster: p.Cluster, Name: p.Self.Name, Layout: p.Layout, Hactl: hactl, Podmaster: podmaster})
			facts = &f
		}
		facts.Peers = nil
		if len(p.Seen) > 0 {
			var err error
			if facts.Machine, err = rendezvous.MachineID(p.Layout); err != nil {
				return err
			}
		}
		for _, s := range p.Seen {
			if s.Alive {
				facts.Peers = append(facts.Peers, preflight.Peer{Name: s.Name, Address: s.Address, Machine: s.Machine, Skew: s.Skew})
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		report := preflight.NewReport(*facts, ignore)
		for _, f := range report.Findings {
			if key := f.Check + spans.ReplaceAllString(f.Problem, ""); !said[key] {
				said[key] = true
				fmt.Fprintf(e.stderr, "         %s %s: %s\n           cure: %s\n", f.Level, f.Check, f.Problem, f.Cure)
			}
		}
		return report.Err()
	}
}

// clusterReport asks the whole cluster once.
func clusterReport(ctx context.Context, cluster *config.Cluster, l layout.Layout) (*status.Report, error) {
	col, err := collect.New(collect.Config{
		Cluster: cluster, Layout: l, Locals: collect.Locals(cluster, l), Node: askAgent(l, cluster), Socket: askSocket,
	})
	if err != nil {
		return nil, err
	}
	return col.Report(ctx), nil
}

func printBootstrap(e *env, r *bootstrap.Result) error {
	if r.DryRun {
		fmt.Fprintln(e.stderr, "dry run: nothing was changed")
		return nil
	}
	if r.Report != nil {
		if err := status.Render(e.stdout, r.Report, status.FormatTable); err != nil {
			return err
		}
	}
	fmt.Fprintf(e.stderr, "\n%s is a master of cluster %s. Try:\n  export KUBECONFIG=%s\n  hactl status\n", r.Master, r.Cluster, r.Kubeconfig)
	return nil
}
