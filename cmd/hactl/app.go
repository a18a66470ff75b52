package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/version"
)

// env is what the commands take from the outside, so that tests can give it.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
}

func newApp(e *env) *cli.App {
	return &cli.App{
		Name:                 "hactl",
		Usage:                "a highly available Kubernetes control plane on plain Linux machines",
		Version:              version.String(),
		EnableBashCompletion: true,
		Reader:               e.stdin,
		Writer:               e.stdout,
		ErrWriter:            e.stderr,
		ExitErrHandler:       func(*cli.Context, error) {}, // main exits, so that deferred clean-up runs
		OnUsageError:         usageError,
		CommandNotFound:      nil,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return exitcode.Errorf(exitcode.Usage, "no command %q", c.Args().First()).WithHint("hactl --help")
			}
			return cli.ShowAppHelp(c)
		},
		Commands: strict([]*cli.Command{
			agentCommand(e),
			bootstrapCommand(e),
			certCommand(e),
			configCommand(e),
			devCommand(e),
			etcdCommand(e),
			eventsCommand(e),
			joinCommand(e),
			kubeconfigCommand(e),
			lbCommand(e),
			leaveCommand(e),
			preflightCommand(e),
			resetCommand(e),
			singletonCommand(e),
			statusCommand(e),
			tokenCommand(e),
			versionCommand(e),
			watchdogCommand(e),
		}),
	}
}

// usageError answers a wrong use with the error and where to look.
func usageError(c *cli.Context, err error, _ bool) error {
	name := c.App.Name
	if c.Command != nil && c.Command.Name != "" {
		name = c.Command.HelpName
	}
	return exitcode.Errorf(exitcode.Usage, "%w", err).WithHint("%s --help", name)
}

// rootFlag moves everything of a master under one folder.
func rootFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "root", EnvVars: []string{"HACTL_ROOT"}, TakesFile: true,
		Usage: "folder under which all of the master's files lie (etc, var, run); empty: the machine's own",
	}
}

func layoutOf(c *cli.Context) layout.Layout { return layout.Layout{Root: c.String("root")} }

// logFlags are every daemon's.
func logFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "log-level", Value: "info", EnvVars: []string{"HACTL_LOG_LEVEL"}, Usage: "debug, info, warn or error"},
		&cli.BoolFlag{Name: "version", Usage: "print the version"},
		&cli.StringFlag{Name: "log-format", Value: "text", EnvVars: []string{"HACTL_LOG_FORMAT"}, Usage: "text or json"},
	}
}

func loggerOf(c *cli.Context, e *env) (*slog.Logger, error) {
	l, err := logging.New(e.stderr, logging.Config{Level: c.String("log-level"), Format: c.String("log-format")})
	if err != nil {
		return nil, exitcode.Errorf(exitcode.Usage, "%w", err)
	}
	return l, nil
}

func versionCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Action: func(*cli.Context) error {
			_, err := fmt.Fprintln(e.stdout, "hactl", version.String())
			return err
		},
	}
}
