package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/collect"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/dev"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/status"
)

func devCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "dev",
		Usage: "a whole control plane on this machine, each master on a loopback address of its own",
		Description: "Each master is a set of processes with the same programs, files and code paths as a real one.\n" +
			"Processes are named as in `hactl status`; short names: etcd, apiserver, lb, agent, scheduler, kcm.",
		Subcommands: []*cli.Command{
			devUp(e), devDown(e), devStatus(e), devStop(e), devStart(e),
			devSignal(e, "kill", "kill a process (SIGKILL); its supervisor starts it again", syscall.SIGKILL),
			devSignal(e, "pause", "freeze a process (SIGSTOP), as when it hangs; the watchdog may restart it", syscall.SIGSTOP),
			devSignal(e, "resume", "let a paused process go on (SIGCONT)", syscall.SIGCONT),
			devLogs(e), devSupervise(e),
		},
	}
}

func dirFlag(e *env) cli.Flag {
	return &cli.StringFlag{
		Name: "dir", EnvVars: []string{"HACTL_DEV_DIR"}, TakesFile: true, Value: defaultDevDir(e),
		Usage: "folder of the cluster",
	}
}

// defaultDevDir is where programs keep state of a user (XDG base directories).
func defaultDevDir(e *env) string {
	if d := e.getenv("XDG_STATE_HOME"); d != "" {
		return filepath.Join(d, "hactl", "dev")
	}
	return filepath.Join(e.getenv("HOME"), ".local", "state", "hactl", "dev")
}

// devDir returns --dir as an absolute path: supervisors outlive our folder.
func devDir(c *cli.Context) (string, error) { return filepath.Abs(c.String("dir")) }

func openDev(c *cli.Context) (*dev.Folder, error) {
	dir, err := devDir(c)
	if err != nil {
		return nil, err
	}
	return dev.Open(dir)
}

func devUp(e *env) *cli.Command {
	return &cli.Command{
		Name:  "up",
		Usage: "start what is missing and wait until everything serves",
		Description: "Run again on a folder that exists, it heals what is missing and changes nothing else.\n" +
			"It returns when everything serves; the processes stay in the background until `hactl dev down`.",
		Flags: []cli.Flag{
			dirFlag(e),
			&cli.IntFlag{Name: "masters", Usage: "1, 3 or 5 (default: 3, or what the folder has)", EnvVars: []string{"HACTL_DEV_MASTERS"}},
			&cli.StringFlag{Name: "front-door", Usage: "`ADDRESS:PORT` of one more balancer, as a worker would run it (default: 127.0.0.1:6443)", EnvVars: []string{"HACTL_DEV_FRONT_DOOR"}},
			&cli.StringFlag{Name: "network", Usage: "loopback /24 whose .1, .2, … are the masters (default: 127.0.1.0)", EnvVars: []string{"HACTL_DEV_NETWORK"}},
			&cli.StringFlag{Name: "drop-in", TakesFile: true, Usage: "YAML `FILE` merged over the generated configuration"},
			&cli.StringFlag{Name: "kube-bin", EnvVars: []string{"HACTL_KUBE_BIN"}, TakesFile: true, Usage: "folder of kube-apiserver and its kin (default: kube beside hactl)"},
			&cli.DurationFlag{Name: "timeout", Value: 3 * time.Minute, Usage: "until everything must serve"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return exitcode.Errorf(exitcode.Usage, "dev up takes no argument, got %q", c.Args().First()).WithHint("hactl dev up --help")
			}
			dir, err := devDir(c)
			if err != nil {
				return err
			}
			programs, err := programsOf(c)
			if err != nil {
				return err
			}
			began := time.Now()
			f, report, err := dev.Up(c.Context, dev.Config{
				Dir: dir, Masters: c.Int("masters"), Network: c.String("network"), FrontDoor: c.String("front-door"),
				DropIn: c.String("drop-in"), Programs: programs, Timeout: c.Duration("timeout"), Progress: e.stderr,
				Report: reportDev,
			})
			if errors.Is(err, context.Canceled) && c.Err() != nil {
				return exitcode.Errorf(exitcode.Failed, "interrupted; what was started is stopped again: %w", err).WithHint("hactl dev up")
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(e.stderr, "ready after %.1fs\n\n", time.Since(began).Seconds())
			if c.String("dir") != defaultDevDir(e) {
				report.DevDir = f.Dir
			}
			if err := status.Render(e.stdout, report, status.FormatTable); err != nil {
				return err
			}
			kubectl := filepath.Join(programs.KubeBin, "kubectl")
			self := os.Args[0]
			fmt.Fprintf(e.stdout, "\nkubeconfig: %s\ntry:\n  %s --kubeconfig %s get --raw /readyz\n  %s dev stop m2%s\n",
				f.Kubeconfig(), kubectl, f.Kubeconfig(), self, dirHint(c, e))
			return nil
		},
	}
}

// dirHint is the --dir that a suggested command needs, if any.
func dirHint(c *cli.Context, e *env) string {
	if c.String("dir") == defaultDevDir(e) {
		return ""
	}
	return " --dir " + c.String("dir")
}

// programsOf finds the programs that the masters run: hactl and podmaster from
// where this hactl lies, Kubernetes' from --kube-bin or the folder kube beside it.
func programsOf(c *cli.Context) (master.Programs, error) {
	self, err := os.Executable()
	if err != nil {
		return master.Programs{}, fmt.Errorf("find hactl itself: %w", err)
	}
	p := master.Programs{Hactl: self, Podmaster: filepath.Join(filepath.Dir(self), "podmaster"), KubeBin: c.String("kube-bin")}
	if p.KubeBin == "" {
		p.KubeBin = filepath.Join(filepath.Dir(self), "kube")
	}
	// A link may be turned to another build while the masters run.
	if real, err := filepath.EvalSymlinks(p.KubeBin); err == nil {
		p.KubeBin = real
	}
	return p, nil
}

func devDown(e *env) *cli.Command {
	return &cli.Command{
		Name:  "down",
		Usage: "stop everything; the data stay unless --purge",
		Flags: []cli.Flag{
			dirFlag(e),
			&cli.BoolFlag{Name: "purge", Usage: "delete the folder, too"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask before --purge"},
		},
		Action: func(c *cli.Context) error {
			dir, err := devDir(c)
			if err != nil {
				return err
			}
			if c.Bool("purge") && !c.Bool("yes") {
				ok, err := confirm(e, fmt.Sprintf("delete %s with all its data?", dir))
				if err != nil || !ok {
					return err
				}
			}
			return dev.Down(c.Context, dir, c.Bool("purge"), e.stderr)
		},
	}
}

func devStatus(e *env) *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "one verdict with its reasons, as `hactl status` gives it",
		Flags: append(statusFlags(), dirFlag(e)),
		Action: func(c *cli.Context) error {
			f, err := openDev(c)
			if err != nil {
				return err
			}
			o, err := statusOptionsOf(c)
			if err != nil {
				return err
			}
			d, err := devStatusOptions(c, e, f)
			if err != nil {
				return err
			}
			d.output, d.watch, d.every = o.output, o.watch, o.every
			return runStatus(c.Context, e, d)
		},
	}
}

// devStatusOptions says whom to ask in a dev folder: everybody, from the first
// master's files.
func devStatusOptions(c *cli.Context, e *env, f *dev.Folder) (statusOptions, error) {
	cfg, err := devCollect(f)
	if err != nil {
		return statusOptions{}, err
	}
	o := statusOptions{cluster: cfg.Cluster, layout: cfg.Layout, locals: cfg.Locals, frontDoor: cfg.FrontDoor, dev: true}
	if c.String("dir") != defaultDevDir(e) {
		o.devDir = f.Dir
	}
	return o, nil
}

func devCollect(f *dev.Folder) (collect.Config, error) {
	l := f.Layout(f.MasterNames()[0])
	cluster, err := config.Load(l)
	if err != nil {
		return collect.Config{}, err
	}
	locals := map[string]layout.Layout{}
	for _, m := range f.MasterNames() {
		locals[m] = f.Layout(m)
	}
	return collect.Config{
		Cluster: cluster, Layout: l, Locals: locals, FrontDoor: f.Info.FrontDoor, Dev: true,
		Node: askAgent(l, cluster), Socket: askSocket,
	}, nil
}

func reportDev(ctx context.Context, f *dev.Folder) (*status.Report, error) {
	cfg, err := devCollect(f)
	if err != nil {
		return nil, err
	}
	col, err := collect.New(cfg)
	if err != nil {
		return nil, err
	}
	return col.Report(ctx), nil
}

func devStop(e *env) *cli.Command {
	return &cli.Command{
		Name: "stop", Usage: "shut one master down, as a machine is shut down", ArgsUsage: "MASTER",
		Flags: []cli.Flag{dirFlag(e)},
		Action: func(c *cli.Context) error {
			f, args, err := devArgs(c, "MASTER")
			if err != nil {
				return err
			}
			if err := f.Stop(c.Context, args[0], e.stderr); err != nil {
				return err
			}
			fmt.Fprintf(e.stderr, "%s is stopped\n", args[0])
			return nil
		},
	}
}

func devStart(e *env) *cli.Command {
	return &cli.Command{
		Name: "start", Usage: "start one master again", ArgsUsage: "MASTER",
		Flags: []cli.Flag{dirFlag(e)},
		Action: func(c *cli.Context) error {
			f, args, err := devArgs(c, "MASTER")
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			if err := f.Start(c.Context, args[0], self); err != nil {
				return err
			}
			fmt.Fprintf(e.stderr, "%s is started\n", args[0])
			return nil
		},
	}
}

func devSignal(e *env, name, usage string, sig syscall.Signal) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "MASTER PROCESS",
		Flags: []cli.Flag{dirFlag(e)},
		Action: func(c *cli.Context) error {
			f, args, err := devArgs(c, "MASTER", "PROCESS")
			if err != nil {
				return err
			}
			pids, err := f.Signal(c.Context, args[0], args[1], sig)
			if err != nil {
				return err
			}
			fmt.Fprintf(e.stderr, "%s %s: sent %v to %v\n", args[0], args[1], sig, pids)
			return nil
		},
	}
}

func devLogs(e *env) *cli.Command {
	return &cli.Command{
		Name: "logs", Usage: "print the logs of a master, or of one of its processes", ArgsUsage: "MASTER [PROCESS]",
		Flags: []cli.Flag{
			dirFlag(e),
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on printing what comes"},
			&cli.IntFlag{Name: "lines", Aliases: []string{"n"}, Value: 100, Usage: "the last `N` lines of each file; 0: all"},
		},
		Action: func(c *cli.Context) error {
			want := []string{"MASTER"}
			if c.Args().Len() > 1 {
				want = append(want, "PROCESS")
			}
			f, args, err := devArgs(c, want...)
			if err != nil {
				return err
			}
			opts := dev.LogOptions{Host: args[0], Follow: c.Bool("follow"), Lines: c.Int("lines")}
			if len(args) > 1 {
				opts.Proc = args[1]
			}
			return f.Logs(c.Context, e.stdout, opts)
		},
	}
}

// devSupervise is what `dev up` starts in the background, one a host.
func devSupervise(e *env) *cli.Command {
	return &cli.Command{
		Name: "supervise", Hidden: true, Usage: "run one host's processes (started by dev up)",
		Flags: []cli.Flag{rootFlag()},
		Action: func(c *cli.Context) error {
			return dev.Supervise(c.Context, layoutOf(c), e.stderr)
		},
	}
}

// devArgs opens the folder and takes exactly the named arguments.
func devArgs(c *cli.Context, names ...string) (*dev.Folder, []string, error) {
	args := c.Args().Slice()
	if len(args) != len(names) {
		return nil, nil, exitcode.Errorf(exitcode.Usage, "want %s, got %d arguments", strings.Join(names, " "), len(args)).
			WithHint("hactl dev %s %s", c.Command.Name, strings.Join(names, " "))
	}
	f, err := openDev(c)
	return f, args, err
}
