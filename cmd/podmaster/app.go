package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/singleton"
	"github.com/hactl/hactl/internal/version"
)

// env is what the command takes from the outside, so that tests can give it.
type env struct {
	stdin          *os.File
	stdout, stderr io.Writer
}

const usageText = `podmaster --etcd-servers URLS --key NAME [options] -- COMMAND [ARGS…]
podmaster --etcd-servers URLS --key NAME [options] --unit UNIT.service
podmaster --etcd-servers URLS --key NAME [options] --source-file MANIFEST --dest-file MANIFEST`

const description = `Of all podmasters with the same --key one holds the lock and runs COMMAND; the
others wait. COMMAND is dead before another one may start it, whatever is killed,
frozen, slow or cut off: docs/guarantees.md tells what that rests on. It finds
PODMASTER_TOKEN, PODMASTER_KEY and PODMASTER_HOLDER in its environment.

Exit codes: 0 stopped · 1 failed · 2 wrong usage · 3 refused: another process has
this name · 5 etcd cannot be used · 6 not ours within --wait · 10 the lease was lost (with --retry=false) or
the work could not be stopped in time. With --oneshot: COMMAND's own.`

func newApp(e *env) *cli.App {
	return &cli.App{
		Name:            "podmaster",
		Usage:           "run a program once in a cluster, and fence it",
		UsageText:       usageText,
		Description:     description,
		HideVersion:     true, // cli's own has the alias -v, which was glog's
		Writer:          e.stdout,
		ErrWriter:       e.stderr,
		HideHelpCommand: true,
		ExitErrHandler:  func(*cli.Context, error) {},
		OnUsageError: func(c *cli.Context, err error, _ bool) error {
			return usage("%w", plainFlagError(c.App.Flags, err))
		},
		Flags: flags(),
		Action: func(c *cli.Context) error {
			if c.Bool("version") {
				_, err := fmt.Fprintln(e.stdout, "podmaster", version.String())
				return err
			}
			return run(c, e)
		},
	}
}

var badValueRE = regexp.MustCompile(`^invalid (?:boolean )?value "(.*)" for (?:flag )?-([a-z-]+): parse error$`)

// plainFlagError says what a flag wants, where the flag package says only that it did not get it.
func plainFlagError(flags []cli.Flag, err error) error {
	m := badValueRE.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	return wrongValue(flags, m[2], m[1], err)
}

func wrongValue(flags []cli.Flag, name, value string, err error) error {
	for _, f := range flags {
		if f.Names()[0] != name {
			continue
		}
		switch f.(type) {
		case *cli.DurationFlag:
			return fmt.Errorf("--%s %q: want a duration such as 3s", name, value)
		case *cli.IntFlag, *cli.Float64Flag:
			return fmt.Errorf("--%s %q: want a number", name, value)
		}
	}
	return err
}

// usage is an error of wrong use.
func usage(format string, args ...any) error {
	return exitcode.Errorf(exitcode.Usage, format, args...).WithHint("podmaster --help")
}

func flags() []cli.Flag {
	str := func(name, text string) cli.Flag {
		return &cli.StringFlag{Name: name, Usage: text, EnvVars: envName(name)}
	}
	dur := func(name string, value time.Duration, text string) cli.Flag {
		return &cli.DurationFlag{Name: name, Value: value, Usage: text, EnvVars: envName(name)}
	}
	unset := func(name, otherwise, text string) cli.Flag {
		return &cli.DurationFlag{Name: name, DefaultText: otherwise, Usage: text, EnvVars: envName(name)}
	}
	num := func(name string, value int, text string) cli.Flag {
		return &cli.IntFlag{Name: name, Value: value, Usage: text, EnvVars: envName(name)}
	}
	yes := func(name string, value bool, text string) cli.Flag {
		return &cli.BoolFlag{Name: name, Value: value, Usage: text, EnvVars: envName(name)}
	}
	all := []cli.Flag{
		str("config", "YAML `FILE` with these flags by name, and command: [PROGRAM, ARG…]"),
		str("etcd-servers", "etcd's client `URLS`, separated by commas"),
		str("etcd-cafile", "CA `FILE` that etcd's certificates are verified with"),
		str("etcd-certfile", "client certificate `FILE` for etcd"),
		str("etcd-keyfile", "its key `FILE`"),
		str("key", "`NAME` of the singleton; /hactl/singletons/NAME/ in etcd, or an absolute path"),
		str("whoami", "this candidate's `NAME` (default: the host's name)"),
		str("address", "where this candidate is, for people (default: found out)"),
		dur("ttl", lease.DefaultTTL, "how long a term stands without a renewal"),
		num("ttl-secs", 0, "the same in seconds (the first podmaster's flag)"),
		unset("renew-every", "2/15 of the ttl", "pause between renewals"),
		unset("stop-time", "500ms, or 1/6 of the ttl", "what killing needs: the work is stopped that long before the term ends"),
		&cli.Float64Flag{Name: "max-skew", Value: lease.DefaultMaxSkew, EnvVars: envName("max-skew"), Usage: "by how much the speed of two machines' clocks may differ"},
		num("priority", 0, "candidates with a higher one are preferred"),
		dur("prefer-after", singleton.DefaultPreferAfter, "how old a term must be before it is handed over to a candidate with a higher --priority"),
		yes("retry", true, "campaign again after a lost lease; else exit with code 10"),
		&cli.DurationFlag{Name: "wait", EnvVars: envName("wait"), DefaultText: "for ever", Usage: "give up with code 6, and run nothing, when another one holds the lock after so long; 0s: at once"},
		yes("oneshot", false, "end with the command's exit, and with its status"),
		dur("stop-grace", singleton.DefaultStopGrace, "from SIGTERM to SIGKILL when there is time; manifest: how long its pod may take to stop (default 40s)"),
		num("crash-budget", singleton.DefaultCrashBudget, "ends of the command within --crash-window that are answered by a restart; the next one hands over"),
		dur("crash-window", singleton.DefaultCrashWindow, "see --crash-budget"),
		str("health-url", "`URL` that says 2xx while the work is well; failing, it is restarted"),
		dur("health-every", singleton.DefaultHealthEvery, "pause between two probes"),
		dur("health-timeout", singleton.DefaultHealthTimeout, "a probe that takes longer has failed"),
		num("health-fails", singleton.DefaultHealthFails, "failed probes in a row that mean sick"),
		dur("health-grace", singleton.DefaultHealthGrace, "after a start failures do not count for so long, until the first good probe"),
		str("health-cafile", "CA `FILE` for an https health URL"),
		yes("health-insecure", false, "do not verify an https health URL; loopback addresses only"),
		str("gate", "`LISTEN=TARGET`: forward TCP from LISTEN to TARGET only while the term stands"),
		str("listen-metrics", "`ADDRESS` for /metrics, /livez and /readyz over plain HTTP"),
		str("history", "append every call of the lock and its answer to `FILE`, so that a run can be judged afterwards"),
		dur("start-timeout", 10*time.Second, "how long etcd may take to answer at the start"),
		str("unit", "systemd `UNIT.service` to start and stop; it must not be enabled"),
		str("source-file", "manifest `FILE` to install while holding"),
		str("dest-file", "where to install it `FILE`; removed when not holding"),
		dur("lock-delay", singleton.DefaultManifestLockDelay, "manifest: what others wait beyond the ttl when the pod's stop was not confirmed"),
		str("kubelet-url", "manifest: `URL` of this host's kubelet, https://127.0.0.1:10250, which is asked whether the pod has stopped"),
		str("kubelet-cafile", "CA `FILE` for it"),
		str("kubelet-certfile", "client certificate `FILE` for it"),
		str("kubelet-keyfile", "its key `FILE`"),
		yes("kubelet-insecure", false, "do not verify it; loopback addresses only"),
		dur("sleep", singleton.DefaultManifestEvery, "pause between two looks at --source-file"),
		&cli.StringFlag{Name: "log-level", Value: "info", Usage: "debug, info, warn or error", EnvVars: envName("log-level")},
		&cli.StringFlag{Name: "log-format", Value: "text", Usage: "text or json", EnvVars: envName("log-format")},
	}
	all = append(all, &cli.BoolFlag{Name: "version", Usage: "print the version", DisableDefaultText: true})
	// The first podmaster's logging flags: taken, and without effect.
	for _, name := range []string{"log_flush_frequency", "v", "vmodule", "log_dir", "log_backtrace_at", "stderrthreshold"} {
		all = append(all, &cli.StringFlag{Name: name, Hidden: true})
	}
	for _, name := range []string{"logtostderr", "alsologtostderr"} {
		all = append(all, &cli.BoolFlag{Name: name, Hidden: true})
	}
	return all
}
