package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/token"
)

// defaultTokenTTL is long enough to bring up a cluster, and short enough that a
// token which lies around is worth nothing soon.
const defaultTokenTTL = 24 * time.Hour

func tokenCommand(e *env) *cli.Command {
	ttl := &cli.DurationFlag{
		Name: "ttl", Value: defaultTokenTTL, EnvVars: []string{"HACTL_TTL"},
		Usage: "how long it shall be good; 0: without an end",
	}
	return &cli.Command{
		Name:  "token",
		Usage: "the secret with which machines become masters: create, ls, rotate, revoke",
		Subcommands: []*cli.Command{
			{
				Name:  "create",
				Usage: "print a new token: 32 random bytes, their end, a check sum",
				Description: "For a cluster that does not exist yet; one that runs has `hactl token rotate`. Nothing is stored.\n" +
					"Keep it readable by root only, the same on every machine:\n" +
					"    (umask 077 && hactl token create > /etc/hactl/token)",
				Flags:  []cli.Flag{ttl},
				Action: func(c *cli.Context) error { return tokenCreate(c, e) },
			},
			{
				Name:        "ls",
				Usage:       "tell whether this master's token is good, and until when; never the token itself",
				Description: "TOKEN is a fingerprint, the same wherever the same token is.",
				Flags:       append(singletonFlags(), jsonFlag("table"), tokenTimeoutFlag()),
				Action:      func(c *cli.Context) error { return tokenLs(c, e) },
			},
			{
				Name:  "rotate",
				Usage: "give a running cluster a new token; the old one is worth nothing from then on",
				Description: "On any master. The new token goes, sealed, into etcd; each master's agent writes it to its token file. It\n" +
					"is not printed: copy the file to a machine that shall join. After `token revoke`, or when a token expired, it\n" +
					"makes joining possible again.",
				Flags:  append(singletonFlags(), ttl, dryRunFlag(), tokenTimeoutFlag()),
				Action: func(c *cli.Context) error { return tokenRotate(c, e) },
			},
			{
				Name:  "revoke",
				Usage: "leave a running cluster without a token: no machine can join",
				Description: "On any master. Each master's agent removes its token file and closes the port where machines meet. The\n" +
					"masters themselves need no token. `hactl token rotate` makes a new one.",
				Flags: append(singletonFlags(), dryRunFlag(), tokenTimeoutFlag(), &cli.BoolFlag{
					Name: "yes", Aliases: []string{"y"}, EnvVars: []string{"HACTL_YES"}, Usage: "do not ask",
				}),
				Action: func(c *cli.Context) error { return tokenRevoke(c, e) },
			},
		},
	}
}

func tokenTimeoutFlag() cli.Flag {
	return &cli.DurationFlag{Name: "timeout", Value: 10 * time.Second, EnvVars: []string{"HACTL_TIMEOUT"}, Usage: "how long etcd may take to answer"}
}

// tokenUntil is the end of a token made now; the zero time: none.
func tokenUntil(c *cli.Context) (time.Time, error) {
	ttl := c.Duration("ttl")
	switch {
	case ttl == 0:
		return time.Time{}, nil
	case ttl < time.Minute:
		return time.Time{}, exitcode.Errorf(exitcode.Usage, "--ttl %s: want a minute or more, or 0 for a token without an end", ttl).
			WithHint("%s --ttl 24h", c.Command.HelpName)
	default:
		return time.Now().Add(ttl), nil
	}
}

func tokenCreate(c *cli.Context, e *env) error {
	if err := noArguments(c); err != nil {
		return err
	}
	until, err := tokenUntil(c)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, pki.NewToken(until))
	return err
}

// tokenTool is what the commands on a master work with.
type tokenTool struct {
	layout  layout.Layout
	cluster *config.Cluster
	orders  *token.Store
}

func (t tokenTool) file() string { return t.layout.Under(t.cluster.Token.File) }

// withToken calls f with a connection to etcd, and gives its errors an exit code.
func withToken(c *cli.Context, f func(context.Context, tokenTool) error) error {
	if err := noArguments(c); err != nil {
		return err
	}
	t := tokenTool{layout: layoutOf(c)}
	var err error
	if t.cluster, err = config.Load(t.layout); err != nil {
		return err
	}
	store, err := pki.New(pki.Config{Dir: t.layout.PKI(), Cluster: t.cluster.Name})
	if err != nil {
		return err
	}
	key, err := store.ReadGossipKey()
	if err != nil {
		return err
	}
	endpoints, tlsConfig, err := etcdPlace(c)
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: tlsConfig, Logger: zap.NewNop(),
		DialTimeout: 2 * time.Second, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
	})
	if err != nil {
		return exitcode.Errorf(exitcode.Usage, "%w", err)
	}
	defer client.Close()
	if t.orders, err = token.New(client, key, t.cluster.Name); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	return f(ctx, t)
}

// noEtcd gives an error of etcd its exit code and the next thing to do.
func noEtcd(err error) error {
	if errors.Is(err, token.ErrSealed) {
		return exitcode.Errorf(exitcode.Failed, "%w", err).WithHint("compare pki/hactl/gossip.key with another master's; hactl token rotate writes a new one")
	}
	return exitcode.Errorf(exitcode.Unreachable, "%w", err).WithHint("hactl status; then the same command again")
}

// order puts an order into etcd, and returns the one that counts: another master's may
// have come later.
func (t tokenTool) order(ctx context.Context, text string) (*token.Order, error) {
	by, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	if err := t.orders.Put(ctx, token.Order{Token: text, At: time.Now().UTC(), By: by}); err != nil {
		return nil, noEtcd(err)
	}
	o, err := t.orders.Get(ctx)
	if err != nil {
		return nil, noEtcd(err)
	}
	if o == nil || o.Token != text {
		return nil, exitcode.Errorf(exitcode.Failed, "somebody else changed the token at the same time").WithHint("hactl token ls")
	}
	return o, nil
}

func tokenRotate(c *cli.Context, e *env) error {
	until, err := tokenUntil(c)
	if err != nil {
		return err
	}
	return withToken(c, func(ctx context.Context, t tokenTool) error {
		if c.Bool("dry-run") {
			if _, err := t.orders.Get(ctx); err != nil && !errors.Is(err, token.ErrSealed) {
				return noEtcd(err)
			}
			fmt.Fprintf(e.stderr, "would give all %d masters a new token, good %s, and write it to %s\n", len(t.cluster.Masters), untilWords(until), t.file())
			return nil
		}
		text := pki.NewToken(until)
		if _, err := t.order(ctx, text); err != nil {
			return err
		}
		// The agent does the same; whoever copies the file next need not wait for it.
		if err := atomicfile.MkdirWrite(t.file(), []byte(text+"\n"), 0o600, 0o755); err != nil {
			return fmt.Errorf("the token was rotated, but not written here: %w", err)
		}
		print, err := pki.TokenFingerprint(text)
		if err != nil {
			return err
		}
		fmt.Fprintf(e.stderr, "the token is now %s, good %s; the other masters' agents write it to their %s\n", print, untilWords(until), t.cluster.Token.File)
		fmt.Fprintf(e.stderr, "for a machine that shall join, copy %s to it\n", t.file())
		return nil
	})
}

func untilWords(until time.Time) string {
	if until.IsZero() {
		return "without an end"
	}
	return "until " + until.UTC().Format(time.RFC3339)
}

func tokenRevoke(c *cli.Context, e *env) error {
	return withToken(c, func(ctx context.Context, t tokenTool) error {
		if c.Bool("dry-run") {
			if _, err := t.orders.Get(ctx); err != nil && !errors.Is(err, token.ErrSealed) {
				return noEtcd(err)
			}
			fmt.Fprintf(e.stderr, "would remove the token from all %d masters: %s\n", len(t.cluster.Masters), t.cluster.Token.File)
			return nil
		}
		if !c.Bool("yes") {
			if ok, err := confirm(e, "Remove the token, so that no machine can join until it is rotated?"); err != nil || !ok {
				return err
			}
			// The question took its time.
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(c.Context, c.Duration("timeout"))
			defer cancel()
		}
		if _, err := t.order(ctx, ""); err != nil {
			return err
		}
		if err := os.Remove(t.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the token was revoked, but is still here: %w", err)
		}
		fmt.Fprintln(e.stderr, "the token is revoked; the other masters' agents remove their files")
		return nil
	})
}

// What tokenRow.Status may be: a contract.
const (
	tokenValid    = "valid"
	tokenExpired  = "expired"
	tokenMissing  = "missing"  // no file
	tokenUnusable = "unusable" // problem says why
	tokenReplaced = "replaced" // etcd names another, or none
)

// tokenRow is one of `token ls -o json`: a contract, see docs/pki.md.
type tokenRow struct {
	File        string     `json:"file"`
	Fingerprint string     `json:"fingerprint"`     // empty without a usable file
	Until       *time.Time `json:"until,omitempty"` // missing: no end
	Status      string     `json:"status"`
	Confirmed   bool       `json:"confirmed"` // etcd said whether it was replaced
	Problem     string     `json:"problem"`
}

type tokenReport struct {
	Tokens []tokenRow `json:"tokens"`
}

func tokenLs(c *cli.Context, e *env) error {
	asJSON, err := wantsJSON(c, "table")
	if err != nil {
		return err
	}
	return withToken(c, func(ctx context.Context, t tokenTool) error {
		row := t.look(ctx, time.Now())
		if asJSON {
			return writeJSON(e.stdout, tokenReport{[]tokenRow{row}})
		}
		return printToken(e.stdout, row, time.Now())
	})
}

// look finds out about the token in this master's file.
func (t tokenTool) look(ctx context.Context, now time.Time) tokenRow {
	row := tokenRow{File: t.file()}
	text, err := pki.ReadToken(row.File)
	if errors.Is(err, fs.ErrNotExist) {
		row.Status = tokenMissing
		o, err := t.orders.Get(ctx)
		row.Confirmed = err == nil
		switch {
		case err != nil:
			row.Problem = err.Error()
		case o != nil && o.Revoked():
			row.Problem = fmt.Sprintf("revoked on %s at %s", o.By, o.At.UTC().Format(time.RFC3339))
		case o != nil:
			row.Problem = "there is one in etcd, which this master's agent has not written yet"
		}
		return row
	}
	if err == nil {
		row.Fingerprint, err = pki.TokenFingerprint(text)
	}
	if err != nil {
		row.Status, row.Problem = tokenUnusable, err.Error()
		return row
	}
	if until, err := pki.TokenUntil(text); err == nil && !until.IsZero() {
		until = until.UTC()
		row.Until = &until
	}
	row.Status = tokenValid
	if pki.TokenValid(text, now) != nil {
		row.Status = tokenExpired
	}
	err = t.orders.Good(ctx, text)
	row.Confirmed = err == nil || errors.Is(err, token.ErrNotGood)
	if err != nil {
		row.Problem = err.Error()
		if row.Confirmed {
			row.Status = tokenReplaced
		}
	}
	return row
}

func printToken(out io.Writer, r tokenRow, now time.Time) error {
	until, left, print := "-", "-", "-"
	if r.Fingerprint != "" {
		print, until = r.Fingerprint, "no end"
	}
	if r.Until != nil {
		until, left = r.Until.Format(time.RFC3339), max(0, r.Until.Sub(now)).Round(time.Minute).String()
	}
	note := r.Problem
	if note == "" {
		note = "-"
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FILE\tTOKEN\tUNTIL\tLEFT\tSTATUS\tNOTE")
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.File, print, until, left, r.Status, note)
	return w.Flush()
}
