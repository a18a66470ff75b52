package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
)

// kubeconfigNames are those that every master has, by their files without
// ending.
var kubeconfigNames = []string{"admin", "scheduler", "controller-manager"}

func certCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "cert",
		Usage: "see and renew this master's certificates",
		Subcommands: []*cli.Command{
			{
				Name:   "ls",
				Usage:  "list the certificates with what is left of their life",
				Flags:  []cli.Flag{rootFlag(), jsonFlag("table")},
				Action: func(c *cli.Context) error { return certList(c, e) },
			},
			{
				Name:      "renew",
				Usage:     "issue leaves and kubeconfigs again, with the same subject and names",
				ArgsUsage: "[NAME…]",
				Description: "NAME is a file below the folder of keys, without ending (etcd/peer), or a kubeconfig's (admin). Without NAME:\n" +
					"all of them. CAs are never touched. It needs the CAs' keys on this master, no running cluster, and works on\n" +
					"certificates that expired too.",
				Flags: []cli.Flag{
					rootFlag(),
					&cli.BoolFlag{Name: "new-keys", EnvVars: []string{"HACTL_NEW_KEYS"}, Usage: "make new keys too: after a key may have leaked"},
					&cli.BoolFlag{Name: "dry-run", EnvVars: []string{"HACTL_DRY_RUN"}, Usage: "only say what would be issued"},
				},
				Action: func(c *cli.Context) error { return certRenew(c, e) },
			},
		},
	}
}

func kubeconfigPaths(l layout.Layout) []string {
	paths := make([]string, len(kubeconfigNames))
	for i, n := range kubeconfigNames {
		paths[i] = l.Kubeconfig(n)
	}
	return paths
}

// certReport is `cert ls -o json`: a contract, see docs/pki.md.
type certReport struct {
	Certificates []certRow `json:"certificates"`
}

type certRow struct {
	pki.Cert
	LeftSeconds int64 `json:"leftSeconds"`
}

func certList(c *cli.Context, e *env) error {
	if err := noArguments(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c, "table")
	if err != nil {
		return err
	}
	l := layoutOf(c)
	store, err := pki.New(pki.Config{Dir: l.PKI()})
	if err != nil {
		return err
	}
	certs, err := store.Certs(kubeconfigPaths(l)...)
	if err != nil {
		return pkiHint(err)
	}
	now := time.Now()
	if asJSON {
		report := certReport{Certificates: []certRow{}}
		for _, ct := range certs {
			left := int64(0)
			if ct.Status != pki.StatusBroken {
				left = int64(ct.Left(now).Seconds())
			}
			report.Certificates = append(report.Certificates, certRow{ct, left})
		}
		return writeJSON(e.stdout, report)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "FILE\tSUBJECT\tUSAGES\tEXPIRES\tLEFT\tSTATUS")
	for _, ct := range certs {
		if ct.Status == pki.StatusBroken {
			fmt.Fprintf(w, "%s\t-\t-\t-\t-\t%s: %s\n", ct.File, ct.Status, ct.Problem)
			continue
		}
		usages := strings.Join(ct.Usages, ",")
		if ct.CA {
			usages = "CA"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", ct.File, ct.Subject, usages, ct.NotAfter.UTC().Format("2006-01-02 15:04Z"), inWords(ct.Left(now)), ct.Status)
	}
	return w.Flush()
}

// inWords rounds what is left to the unit that matters.
func inWords(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "-"
	case d >= 3*day:
		return fmt.Sprintf("%dd", d/day)
	case d >= 3*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	default:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
}

// pkiHint says what to type when the keys cannot be read.
func pkiHint(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return exitcode.Errorf(exitcode.Failed, "%w", err).WithHint("sudo hactl …: only root reads the keys")
	case errors.Is(err, fs.ErrNotExist):
		return exitcode.Errorf(exitcode.Failed, "%w", err).WithHint("is this a master? hactl bootstrap makes them; for a master of hactl dev give --root DIR")
	}
	return err
}

func certRenew(c *cli.Context, e *env) error {
	l := layoutOf(c)
	store, err := pki.New(pki.Config{Dir: l.PKI()})
	if err != nil {
		return err
	}
	r := pki.Renewal{Kubeconfigs: kubeconfigPaths(l), NewKeys: c.Bool("new-keys"), DryRun: c.Bool("dry-run")}
	for _, name := range c.Args().Slice() {
		for _, k := range kubeconfigNames {
			if name == k || name == k+".conf" {
				name = l.Kubeconfig(k)
			}
		}
		r.Names = append(r.Names, strings.TrimSuffix(name, ".crt"))
	}
	changes, err := store.Renew(r)
	would := ""
	if r.DryRun {
		would = " (dry run: nothing was changed)"
	}
	embedded := false
	for _, ch := range changes {
		fmt.Fprintf(e.stderr, "%s: %s%s\n", ch.File, ch.Why, would)
		embedded = embedded || filepath.Ext(ch.File) == ".conf" && ch.File != l.Kubeconfig("admin")
	}
	if err != nil {
		return pkiHint(err)
	}
	if embedded && !r.DryRun {
		fmt.Fprintln(e.stderr, "running programs read new certificates by themselves, but kubeconfigs only when they start: move or restart the singletons")
	}
	return nil
}
