package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/bootstrap"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/workload/systemd"
)

func renderUnitsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "render-units",
		Usage: "print a master's systemd units, as hactl bootstrap installs them",
		Description: "Prints all unit files, each after a line with its path, or writes them into --dir. Nothing is installed.\n" +
			"Without --name: the master that hactl bootstrap would take this machine for. With --worker: the balancer of a\n" +
			"machine that is no master (docs/lb.md).",
		Flags: []cli.Flag{
			rootFlag(),
			&cli.StringFlag{Name: "name", EnvVars: []string{"HACTL_NAME"}, Usage: "the master's `NAME` in the configuration"},
			&cli.BoolFlag{Name: "worker", EnvVars: []string{"HACTL_WORKER"}, Usage: "the units of a balancer alone, on a machine that is no master"},
			&cli.StringFlag{Name: "listen", EnvVars: []string{"HACTL_LISTEN"}, Usage: "with --worker: `IP:PORT` or :PORT; empty: the front door's port on every address"},
			&cli.StringFlag{Name: "dir", EnvVars: []string{"HACTL_DIR"}, TakesFile: true, Usage: "write the files into `FOLDER` instead"},
			&cli.StringFlag{Name: "hactl", EnvVars: []string{"HACTL_PROGRAM"}, TakesFile: true, Usage: "hactl's program `FILE`, with podmaster beside it; empty: this one"},
			&cli.IntFlag{Name: "systemd-version", EnvVars: []string{"HACTL_SYSTEMD_VERSION"}, Usage: "render for this `VERSION`; 0: ask the systemd that runs, or an old one"},
		},
		Action: func(c *cli.Context) error { return renderUnits(c, e) },
	}
}

func renderUnits(c *cli.Context, e *env) error {
	if err := noArguments(c); err != nil {
		return err
	}
	l := layoutOf(c)
	cluster, err := config.Load(l)
	if err != nil {
		return err
	}
	program := c.String("hactl")
	if program == "" {
		if program, err = hactlProgram(); err != nil {
			return err
		}
	}
	version := c.Int("systemd-version")
	if version == 0 {
		version = systemdVersion(c.Context)
	}
	programs := master.Programs{Hactl: program, Podmaster: filepath.Join(filepath.Dir(program), "podmaster"), KubeBin: cluster.Kubernetes.BinDir}
	files, who, err := unitFilesOf(c, cluster, l, programs, version)
	if err != nil {
		return err
	}
	dir := c.String("dir")
	if dir == "" {
		for i, f := range files {
			if i > 0 {
				fmt.Fprintln(e.stdout)
			}
			fmt.Fprintf(e.stdout, "# %s\n%s", filepath.Join(systemd.UnitDir, f.Name), f.Text)
		}
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if err := atomicfile.Write(filepath.Join(dir, f.Name), f.Text, 0o644); err != nil {
			return err
		}
	}
	fmt.Fprintf(e.stderr, "%d unit files of %s in %s\n", len(files), who, dir)
	return nil
}

// unitFilesOf renders what the flags ask for, and says whose units these are.
func unitFilesOf(c *cli.Context, cluster *config.Cluster, l layout.Layout, p master.Programs, version int) (files []bootstrap.UnitFile, who string, err error) {
	listen := c.String("listen")
	if c.Bool("worker") {
		if listen == "" {
			listen = fmt.Sprintf(":%d", cluster.FrontDoor.Port)
		}
		who = "a worker"
		files, err = bootstrap.RenderWorker(cluster, l, p, listen, version)
	} else {
		if listen != "" {
			return nil, "", exitcode.Errorf(exitcode.Usage, "--listen only goes with --worker: a master's balancer is at its address, port frontDoor.port")
		}
		self, serr := bootstrap.WhoAmI(cluster, c.String("name"))
		if serr != nil {
			return nil, "", serr
		}
		who = self.Name
		files, err = bootstrap.RenderUnits(cluster, who, l, p, version)
	}
	if err != nil {
		return nil, "", exitcode.Errorf(exitcode.Usage, "%w", err)
	}
	return files, who, nil
}

// systemdVersion is that of the systemd that runs; 0 when none answers.
func systemdVersion(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	in, err := systemd.NewInstaller("", nil)
	if err != nil {
		return 0
	}
	defer in.Close()
	v, err := in.Version(ctx)
	if err != nil {
		return 0
	}
	return v
}
