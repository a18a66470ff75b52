package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
)

func singletonCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "singleton",
		Usage: "who holds what runs once in the cluster: ls, move, pause, resume",
		Subcommands: []*cli.Command{
			{
				Name: "ls", Usage: "holder, token and candidates of every singleton", ArgsUsage: "[NAME…]",
				Flags: append(singletonFlags(), &cli.StringFlag{
					Name: "output", Aliases: []string{"o"}, Value: "table", EnvVars: []string{"HACTL_OUTPUT"}, Usage: "table or json",
				}, &cli.BoolFlag{
					Name: "stale", EnvVars: []string{"HACTL_STALE"}, Usage: "take what the nearest etcd member has, also without quorum",
				}),
				Action: func(c *cli.Context) error { return singletonLs(c, e) },
			},
			{
				Name: "move", Usage: "hand a singleton over, cleanly", ArgsUsage: "NAME",
				Flags: append(singletonFlags(), dryRunFlag(), timeoutFlag(), &cli.StringFlag{
					Name: "to", EnvVars: []string{"HACTL_TO"}, Usage: "candidate that shall hold it; default: the first one that waits",
				}),
				Action: func(c *cli.Context) error { return singletonMove(c, e) },
			},
			{
				Name: "pause", Usage: "stop a singleton and keep it off everywhere", ArgsUsage: "NAME",
				Flags: append(singletonFlags(), dryRunFlag(), timeoutFlag(), &cli.BoolFlag{
					Name: "yes", Aliases: []string{"y"}, EnvVars: []string{"HACTL_YES"}, Usage: "do not ask",
				}),
				Action: func(c *cli.Context) error { return singletonPause(c, e) },
			},
			{
				Name: "resume", Usage: "end a pause, or take back a hand-over", ArgsUsage: "NAME",
				Flags:  append(singletonFlags(), dryRunFlag(), timeoutFlag()),
				Action: func(c *cli.Context) error { return singletonResume(c, e) },
			},
		},
	}
}

func dryRunFlag() cli.Flag {
	return &cli.BoolFlag{Name: "dry-run", EnvVars: []string{"HACTL_DRY_RUN"}, Usage: "say what would be done, and do nothing"}
}

func timeoutFlag() cli.Flag {
	return &cli.DurationFlag{Name: "timeout", Value: 30 * time.Second, EnvVars: []string{"HACTL_TIMEOUT"}, Usage: "how long to wait for the result"}
}

// singletonFlags say where etcd is; by default the master's own files do.
func singletonFlags() []cli.Flag {
	str := func(name, usage string) cli.Flag {
		return &cli.StringFlag{Name: name, EnvVars: []string{flagEnv(name)}, Usage: usage}
	}
	return []cli.Flag{
		rootFlag(),
		str("etcd-servers", "etcd's client URLS, separated by commas; default: the masters' of cluster.yaml"),
		str("etcd-cafile", "CA file; with --etcd-servers"),
		str("etcd-certfile", "client certificate; with --etcd-servers"),
		str("etcd-keyfile", "its key; with --etcd-servers"),
	}
}

// etcdPlace is where etcd is and how it is reached: by the flags, or else by the
// master's own files.
func etcdPlace(c *cli.Context) (endpoints []string, tlsConfig *tls.Config, err error) {
	files := etcdlock.TLSFiles{CAFile: c.String("etcd-cafile"), CertFile: c.String("etcd-certfile"), KeyFile: c.String("etcd-keyfile")}
	if s := c.String("etcd-servers"); s != "" {
		endpoints = strings.Split(s, ",")
	} else {
		l := layoutOf(c)
		cluster, err := config.Load(l)
		var coded *exitcode.Error
		switch {
		case errors.As(err, &coded) && errors.Is(err, fs.ErrNotExist):
			words := append([]string{c.Command.Name}, c.Args().Slice()...)
			return nil, nil, coded.WithHint("%s --etcd-servers URL", again(c, words...))
		case err != nil:
			return nil, nil, err
		}
		endpoints = cluster.EtcdClientURLs()
		dir := filepath.Join(l.PKI(), "etcd")
		files = etcdlock.TLSFiles{
			CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "healthcheck-client.crt"), KeyFile: filepath.Join(dir, "healthcheck-client.key"),
		}
	}
	if tlsConfig, err = files.Config(); err != nil {
		return nil, nil, exitcode.Errorf(exitcode.Usage, "%w", err)
	}
	return endpoints, tlsConfig, nil
}

// singletonClient connects to etcd and makes sure that it answers.
func singletonClient(c *cli.Context) (*etcdlock.Client, error) {
	endpoints, tlsConfig, err := etcdPlace(c)
	if err != nil {
		return nil, err
	}
	client, err := etcdlock.Dial(etcdlock.Config{Endpoints: endpoints, TLS: tlsConfig})
	if err != nil {
		return nil, exitcode.Errorf(exitcode.Usage, "%w", err)
	}
	return client, nil
}

// again is a command about singletons with the place of etcd that this one was given.
func again(c *cli.Context, words ...string) string {
	words = append([]string{"hactl", "singleton"}, words...)
	for _, name := range []string{"root", "etcd-servers", "etcd-cafile", "etcd-certfile", "etcd-keyfile"} {
		if v := c.String(name); v != "" {
			words = append(words, "--"+name, quoted(v))
		}
	}
	return strings.Join(words, " ")
}

// quoted is a word as a shell takes it.
func quoted(s string) string {
	if strings.ContainsAny(s, " \t\n'\"\\$`&;|<>()*?[]{}~#!") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// unreachable gives an error of etcd its exit code and the next thing to do.
func unreachable(c *cli.Context, err error) error {
	return exitcode.Errorf(exitcode.Unreachable, "%w", err).WithHint("%s", again(c, "ls", "--stale"))
}

func singletonLs(c *cli.Context, e *env) error {
	out := c.String("output")
	if out != "table" && out != "json" {
		return exitcode.Errorf(exitcode.Usage, "output %q: want table or json", out).WithHint("hactl singleton ls --help")
	}
	client, err := singletonClient(c)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(c.Context, 5*time.Second)
	defer cancel()
	infos := []etcdlock.Info{}
	var missing error // the others are printed all the same
	if c.Args().Present() {
		for _, name := range c.Args().Slice() {
			info, err := getSingleton(ctx, c, client, name, c.Bool("stale"))
			switch {
			case errors.Is(err, errNoSingleton):
				missing = cmp.Or(missing, err)
			case err != nil:
				return err
			default:
				infos = append(infos, info)
			}
		}
		if len(infos) == 0 {
			return missing
		}
	} else if infos, err = etcdlock.List(ctx, client, c.Bool("stale")); err != nil {
		return unreachable(c, err)
	}
	if out == "json" {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(map[string]any{"singletons": infos})
	} else {
		err = printSingletons(e.stdout, infos, time.Now())
	}
	return cmp.Or(err, missing)
}

func printSingletons(w io.Writer, infos []etcdlock.Info, now time.Time) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tHOLDER\tTOKEN\tSINCE\tWAITING\tNOTE")
	for _, i := range infos {
		var waiting []string
		for _, c := range i.Waiting {
			waiting = append(waiting, c.Name)
		}
		since := "-"
		if !i.Since.IsZero() {
			since = now.Sub(i.Since).Truncate(time.Second).String()
		}
		fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%s\t%s\n", i.Name, dash(i.Holder), i.Token, since, dash(strings.Join(waiting, ",")), dash(singletonNote(i, now)))
	}
	return tw.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func singletonNote(i etcdlock.Info, now time.Time) string {
	var notes []string
	if i.Paused {
		notes = append(notes, "paused")
	}
	if i.MoveTo != "" {
		notes = append(notes, "moves to "+i.MoveTo)
	}
	if age := now.Sub(i.Renewed); i.Holder != "" && age > i.TTL {
		notes = append(notes, fmt.Sprintf("not renewed for %v", age.Truncate(time.Second)))
	}
	if i.Holder == "" && i.Last != "" {
		note := "last held by " + i.Last
		if i.Ended != "" && (i.Ended != "paused" || !i.Paused) {
			note += ", " + i.Ended
		}
		notes = append(notes, note)
	}
	return strings.Join(notes, "; ")
}

var errNoSingleton = errors.New("no singleton of this name")

// getSingleton errs when there is none of this name.
func getSingleton(ctx context.Context, c *cli.Context, client *etcdlock.Client, name string, stale bool) (etcdlock.Info, error) {
	if _, err := etcdlock.Prefix(name); err != nil {
		return etcdlock.Info{}, exitcode.Errorf(exitcode.Usage, "%w", err)
	}
	info, err := etcdlock.Get(ctx, client, name, stale)
	if err != nil {
		return info, unreachable(c, err)
	}
	if info.Name == "" {
		return info, exitcode.Errorf(exitcode.Failed, "%q: %w", name, errNoSingleton).WithHint("%s", again(c, "ls"))
	}
	return info, nil
}

// withSingleton does what move, pause and resume have in common.
func withSingleton(c *cli.Context, f func(ctx context.Context, client *etcdlock.Client, lock *etcdlock.Lock, info etcdlock.Info) error) error {
	if c.NArg() != 1 {
		return exitcode.Errorf(exitcode.Usage, "%s takes one name, and got %d arguments", c.Command.Name, c.NArg()).WithHint("%s", again(c, "ls"))
	}
	client, err := singletonClient(c)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	info, err := getSingleton(ctx, c, client, c.Args().First(), false)
	if err != nil {
		return err
	}
	lock, err := client.Lock(info.Name)
	if err != nil {
		return err
	}
	return f(ctx, client, lock, info)
}

// by is who gave an order, for those who find it later.
func by() string {
	host, err := os.Hostname()
	if err != nil {
		return "hactl"
	}
	return "hactl on " + host
}

func singletonMove(c *cli.Context, e *env) error {
	return withSingleton(c, func(ctx context.Context, client *etcdlock.Client, lock *etcdlock.Lock, info etcdlock.Info) error {
		if info.Paused {
			return refusePaused(c, info.Name)
		}
		to, err := moveTarget(c, info, c.String("to"))
		if err != nil || to == info.Holder {
			if err == nil {
				fmt.Fprintf(e.stderr, "%s already holds %s\n", to, info.Name)
			}
			return err
		}
		if c.Bool("dry-run") {
			fmt.Fprintf(e.stdout, "would move %s from %s to %s\n", info.Name, dash(info.Holder), to)
			return nil
		}
		start := time.Now()
		switch err := lock.Move(ctx, to, by()); {
		case errors.Is(err, etcdlock.ErrPaused):
			return refusePaused(c, info.Name)
		case err != nil:
			return unreachable(c, err)
		}
		now, ok := awaitSingleton(ctx, client, info.Name, func(i etcdlock.Info) bool { return i.Holder == to && i.Token > info.Token })
		if !ok {
			return exitcode.Errorf(exitcode.TimedOut, "%s: not held by %s within %v, but by %s, token %d; an order stands until it is done or taken back",
				info.Name, to, c.Duration("timeout"), cmp.Or(now.Holder, "nobody"), now.Token).WithHint("%s", again(c, "resume", info.Name))
		}
		fmt.Fprintf(e.stdout, "%s is held by %s, token %d, after %v\n", info.Name, to, now.Token, time.Since(start).Round(time.Millisecond))
		return nil
	})
}

// refusePaused says that a hand-over would lift a pause, for which there may be a reason.
func refusePaused(c *cli.Context, name string) error {
	return exitcode.Errorf(exitcode.Refused, "%s is paused: a move would start it again", name).WithHint("%s", again(c, "resume", name))
}

// moveTarget checks the wished candidate, or picks the first that waits.
func moveTarget(c *cli.Context, info etcdlock.Info, to string) (string, error) {
	var names []string
	for _, cand := range info.Waiting {
		names = append(names, cand.Name)
		if cand.Name == to {
			return to, nil
		}
	}
	switch {
	case to == info.Holder && to != "":
		return to, nil
	case len(names) == 0:
		return "", exitcode.Errorf(exitcode.Refused, "nobody waits for %s: it would stop and nobody would go on; start a podmaster with --key %s elsewhere first", info.Name, info.Name).
			WithHint("%s", again(c, "ls", info.Name))
	case to != "":
		return "", exitcode.Errorf(exitcode.Refused, "no candidate %q waits for %s, only %s: it would stop and nobody would go on", to, info.Name, strings.Join(names, ", ")).
			WithHint("%s", again(c, "move", info.Name, "--to", names[0]))
	default:
		return names[0], nil
	}
}

func singletonPause(c *cli.Context, e *env) error {
	return withSingleton(c, func(ctx context.Context, client *etcdlock.Client, lock *etcdlock.Lock, info etcdlock.Info) error {
		if c.Bool("dry-run") {
			fmt.Fprintf(e.stdout, "would stop %s on %s and keep it off\n", info.Name, dash(info.Holder))
			return nil
		}
		if !c.Bool("yes") {
			ok, err := confirm(e, fmt.Sprintf("Stop %s everywhere until `hactl singleton resume %s`?", info.Name, info.Name))
			if err != nil || !ok {
				return err
			}
		}
		if err := lock.Pause(ctx, by()); err != nil {
			return unreachable(c, err)
		}
		var sign vital
		now, ok := awaitSingleton(ctx, client, info.Name, func(i etcdlock.Info) bool {
			return i.Paused && (i.Holder == "" || sign.see(i, lease.Boottime{}.Now()) == dead)
		})
		switch {
		case !ok:
			return exitcode.Errorf(exitcode.TimedOut, "the pause of %s is set, but %s still held it after %v, token %d",
				info.Name, dash(now.Holder), c.Duration("timeout"), now.Token).WithHint("%s", again(c, "ls", info.Name))
		case now.Holder != "":
			fmt.Fprintf(e.stdout, "%s is paused; its last holder %s was not heard of for %v\n", info.Name, now.Holder, sign.silence.Round(time.Second))
		default:
			fmt.Fprintf(e.stdout, "%s is paused\n", info.Name)
		}
		return nil
	})
}

func singletonResume(c *cli.Context, e *env) error {
	return withSingleton(c, func(ctx context.Context, client *etcdlock.Client, lock *etcdlock.Lock, info etcdlock.Info) error {
		if !info.Paused && info.MoveTo == "" {
			fmt.Fprintf(e.stderr, "%s is not paused\n", info.Name)
			return nil
		}
		if c.Bool("dry-run") {
			fmt.Fprintf(e.stdout, "would let %s run again\n", info.Name)
			return nil
		}
		if err := lock.Unpause(ctx); err != nil {
			return unreachable(c, err)
		}
		if len(info.Waiting) == 0 && info.Holder == "" {
			fmt.Fprintf(e.stdout, "%s is not paused any more, but nobody waits for it\n", info.Name)
			return nil
		}
		var sign vital
		sign.see(info, lease.Boottime{}.Now())
		state := unknown
		now, ok := awaitSingleton(ctx, client, info.Name, func(i etcdlock.Info) bool {
			state = sign.see(i, lease.Boottime{}.Now())
			return state == alive || state == dead && len(i.Waiting) == 0
		})
		switch {
		case !ok:
			return exitcode.Errorf(exitcode.TimedOut, "%s is not paused any more, but nobody was seen to work on it within %v",
				info.Name, c.Duration("timeout")).WithHint("%s", again(c, "ls", info.Name))
		case state == dead:
			fmt.Fprintf(e.stdout, "%s is not paused any more, but nobody waits for it; its last holder %s was not heard of for %v\n",
				info.Name, now.Holder, sign.silence.Round(time.Second))
		default:
			fmt.Fprintf(e.stdout, "%s is held by %s, token %d\n", info.Name, now.Holder, now.Token)
		}
		return nil
	})
}

// life is what is known of a singleton's holder.
type life int

const (
	unknown life = iota // there is none, or it was not watched long enough
	alive               // it renewed, or took the lock, under our eyes
	dead                // it did not for longer than its term stands
)

// vital watches for a holder's sign of life. The record of one that died stays as it
// was until a candidate takes over, and its times are of another machine's clock.
type vital struct {
	token, beat int64
	at          time.Duration // own clock: when these were first seen
	silence     time.Duration // for how long they stand still
	seen        bool
}

// see takes note of what was read at now.
func (v *vital) see(i etcdlock.Info, now time.Duration) life {
	moved := v.seen && (i.Token != v.token || i.Beat != v.beat)
	if !v.seen || moved {
		v.token, v.beat, v.at, v.seen = i.Token, i.Beat, now, true
	}
	v.silence = now - v.at
	switch {
	case i.Holder == "":
		return unknown
	case moved:
		return alive
	case v.silence > i.TTL+i.TTL/10+i.Delay+500*time.Millisecond: // clocks differ in speed, by 1 % if --max-skew says no more
		return dead
	}
	return unknown
}

// awaitSingleton asks until good says yes, or until ctx ends (false).
func awaitSingleton(ctx context.Context, client *etcdlock.Client, name string, good func(etcdlock.Info) bool) (etcdlock.Info, bool) {
	var last etcdlock.Info
	for {
		info, err := etcdlock.Get(ctx, client, name, false)
		if err == nil {
			if last = info; good(info) {
				return info, true
			}
		}
		select {
		case <-ctx.Done():
			return last, false
		case <-time.After(50 * time.Millisecond):
		}
	}
}
