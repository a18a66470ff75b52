package main

import (
	"log/slog"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/child"
	"github.com/hactl/hactl/internal/workload/systemd"
)

// The supervisors that a master's units may have.
const (
	supervisorSystemd = "systemd"
	supervisorChild   = "child"
)

func supervisorFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "supervisor", EnvVars: []string{"HACTL_SUPERVISOR"},
		Usage: "who runs the master's units: systemd, or child for hactl's own; empty: systemd, with --root child",
	}
}

// closingManager is a manager that is closed after use.
type closingManager interface {
	workload.Manager
	Close()
}

// managerOf returns the supervisor of this machine's units that the flag names.
func managerOf(c *cli.Context, l layout.Layout, cluster *config.Cluster, log *slog.Logger) (closingManager, error) {
	switch kind := c.String("supervisor"); {
	case kind == supervisorSystemd, kind == "" && l.Root == "":
		return systemdManager(cluster, log)
	case kind == supervisorChild, kind == "":
		return childManager{child.NewClient(l.SupervisorSocket())}, nil
	default:
		return nil, exitcode.Errorf(exitcode.Usage, "--supervisor %q: want systemd or child", kind).WithHint("%s --help", c.Command.HelpName)
	}
}

// localManager is the supervisor of the units under l, as far as the layout tells.
func localManager(l layout.Layout, cluster *config.Cluster) (closingManager, error) {
	if l.Root == "" {
		return systemdManager(cluster, logging.Discard())
	}
	return childManager{child.NewClient(l.SupervisorSocket())}, nil
}

func systemdManager(cluster *config.Cluster, log *slog.Logger) (closingManager, error) {
	return systemd.New(systemd.Config{Units: master.UnitNames(cluster), Logger: log})
}

// childManager is a client, which has nothing to close.
type childManager struct{ *child.Client }

func (childManager) Close() {}
