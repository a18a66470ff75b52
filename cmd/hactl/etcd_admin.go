package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/pki"
)

// etcdAdminFlags are those of every command that asks or changes the members.
func etcdAdminFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		rootFlag(),
		&cli.DurationFlag{Name: "timeout", Value: 5 * time.Minute, EnvVars: []string{"HACTL_TIMEOUT"}, Usage: "give up after this long"},
	}, more...)
}

func etcdDryRunFlag() cli.Flag {
	return &cli.BoolFlag{Name: "dry-run", EnvVars: []string{"HACTL_DRY_RUN"}, Usage: "say what would be done, and do nothing"}
}

func etcdYesFlag() cli.Flag {
	return &cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, EnvVars: []string{"HACTL_YES"}, Usage: "do not ask"}
}

func etcdOutputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", EnvVars: []string{"HACTL_OUTPUT"}, Usage: "table or json"}
}

// etcdTool is what such a command works with.
type etcdTool struct {
	*etcdcluster.Admin
	env     *env
	cluster *config.Cluster
	json    bool // -o json
	dryRun  bool
}

// etcdAction makes an action of f: it checks the number of arguments and the
// output, bounds the time, and gives errors their exit code and way out.
func etcdAction(e *env, args int, f func(context.Context, *cli.Context, etcdTool) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() != args {
			return exitcode.Errorf(exitcode.Usage, "want %d arguments, got %d", args, c.NArg()).WithHint("%s --help", c.Command.HelpName)
		}
		out := c.String("output")
		if out != "" && out != "table" && out != "json" {
			return exitcode.Errorf(exitcode.Usage, "--output %q: want table or json", out)
		}
		l := layoutOf(c)
		cluster, err := config.Load(l)
		if err != nil {
			return err
		}
		files := etcdcluster.ClientFiles(l)
		tlsConfig, err := pki.ClientTLS(pki.Files{Cert: files.Cert, Key: files.Key, CA: files.CA})
		if err != nil {
			return exitcode.Errorf(exitcode.Failed, "read the certificate for etcd: %w", err).WithHint("is this a master? hactl cert ls")
		}
		ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
		defer cancel()
		return etcdError(f(ctx, c, etcdTool{
			Admin: etcdcluster.NewAdmin(etcdcluster.AdminConfig{Endpoints: cluster.EtcdClientURLs(), TLS: tlsConfig}),
			env:   e, cluster: cluster, json: out == "json", dryRun: c.Bool("dry-run"),
		}))
	}
}

// etcdError gives err its exit code and the next command.
func etcdError(err error) error {
	var coded *exitcode.Error
	var refused *etcdcluster.RefusedError
	switch {
	case err == nil, errors.As(err, &coded):
		return err
	case errors.As(err, &refused):
		return exitcode.Errorf(exitcode.Refused, "%w", err).WithHint("%s", refused.Safe)
	case errors.Is(err, context.DeadlineExceeded):
		return exitcode.Errorf(exitcode.TimedOut, "%w", err).WithHint("hactl etcd member list; the same command goes on where it was, --timeout gives it longer")
	case errors.Is(err, etcdcluster.ErrUnreachable):
		return exitcode.Errorf(exitcode.Unreachable, "%w", err).WithHint("hactl status")
	case errors.Is(err, etcdcluster.ErrNoMember):
		return exitcode.Errorf(exitcode.Usage, "%w", err).WithHint("hactl etcd member list")
	case errors.Is(err, fs.ErrExist):
		return exitcode.Errorf(exitcode.Refused, "%w", err).WithHint("another file name, or remove that file first")
	}
	return err
}

// say talks: it goes to stderr, away from the data.
func (t etcdTool) say(format string, args ...any) { fmt.Fprintf(t.env.stderr, format+"\n", args...) }

// steps prints what will be done, and tells whether to go on.
func (t etcdTool) steps(c *cli.Context, question string, steps []etcdcluster.Step) (bool, error) {
	for _, s := range steps {
		t.say("%s", s)
	}
	if t.dryRun {
		t.say("dry run: nothing was changed")
		return false, nil
	}
	if question == "" || c.Bool("yes") {
		return true, nil
	}
	return confirm(t.env, question)
}

func (t etcdTool) printJSON(v any) error {
	enc := json.NewEncoder(t.env.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// etcdBytes is for people: 8.0 GiB.
func etcdBytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/unit, 0
	for f >= unit && i < 4 {
		f /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[i])
}
