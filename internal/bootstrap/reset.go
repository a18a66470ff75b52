package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/rendezvous"
)

// The further steps of reset.
const (
	StepStop  = "stop"  // all units
	StepUndo  = "undo"  // their files
	StepKeys  = "keys"  // certificates, keys, kubeconfigs
	StepState = "state" // everything else
)

// ResetSteps lists the steps of reset in their order.
func ResetSteps() []string { return []string{StepStop, StepUndo, StepKeys, StepState} }

// ResetConfig is what Reset needs.
type ResetConfig struct {
	Config
	// Force also wipes a machine that is a voter of a cluster.
	Force bool
	// Confirm asks before anything is destroyed; nil: nobody is asked.
	Confirm func(question string) (bool, error)
}

// Reset wipes what hactl put on this machine: units, keys, state. The
// configuration, the token and backups stay. It refuses while the machine is a
// voter, since its cluster would be left with a dead one. A nil Result: the user
// said no.
func Reset(ctx context.Context, cfg ResetConfig) (*Result, error) {
	r := newRun(cfg.Config)
	r.result = Result{DryRun: cfg.DryRun, Steps: []StepResult{}}
	if err := r.mayReset(ctx, cfg.Force); err != nil {
		return nil, err
	}
	paths, units, err := r.leftovers()
	if err != nil {
		return nil, err
	}
	if cfg.DryRun {
		fmt.Fprintf(r.cfg.Progress, "would stop and remove %s\nwould remove %s\n", orNothing(units), orNothing(paths))
		return &r.result, nil
	}
	if cfg.Confirm != nil && len(paths)+len(units) > 0 {
		yes, err := cfg.Confirm(fmt.Sprintf("Wipe this machine: %s and %s?", orNothing(units), orNothing(paths)))
		if err != nil || !yes {
			return nil, err
		}
	}
	j, _, err := openJournal(cfg.Layout, CommandReset)
	if err != nil {
		return nil, err
	}
	defer j.close()
	r.journal, j.Restart, j.told = j, nil, cfg.Journaled
	l := cfg.Layout
	for _, s := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{StepStop, r.stopAll},
		{StepUndo, r.removeUnits},
		{StepKeys, func(context.Context) (string, error) { return "keys are removed", removeAll(keyPaths(l)) }},
		{StepState, func(context.Context) (string, error) { return "state is removed", r.removeState() }},
	} {
		if err := r.step(ctx, s.name, s.do); err != nil {
			return &r.result, err
		}
	}
	// The journal itself is the last: until then, the same command goes on.
	return &r.result, removeAll([]string{JournalFile(l), filepath.Join(l.State(), "bootstrap.lock")})
}

func orNothing(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return list(names)
}

// mayReset refuses to wipe a voter, and data of which nobody says that they are
// not one's: they may be the only copy.
func (r *run) mayReset(ctx context.Context, force bool) error {
	var err error
	if r.cluster, err = config.Load(r.cfg.Layout); err != nil {
		if errors.Is(err, fs.ErrNotExist) || force {
			return nil
		}
		return err
	}
	r.result.Cluster = r.cluster.Name
	if force {
		return nil
	}
	unknown := func(err error) error {
		return exitcode.Errorf(exitcode.Refused, "whether this machine is a voter of cluster %s is not known: %w", r.cluster.Name, err).
			WithHint("start etcd here and on the other masters; if the data in %s are not needed: hactl reset --force", r.cfg.Layout.EtcdData())
	}
	own, err := ReadOwn(r.cfg.Layout, r.cluster)
	if err != nil {
		return unknown(err)
	}
	if own.Phase != rendezvous.Member || own.HasIntent && own.Intent.State == etcdcluster.Pending && !own.HasData {
		return nil // it never ran as a member
	}
	admin, err := r.admin()
	if err != nil {
		return unknown(err)
	}
	ms, err := admin.Members(ctx)
	if err != nil {
		return unknown(err)
	}
	if own.Intent.MemberID == "" {
		return unknown(errors.New("it has etcd's data and no record of which member they are"))
	}
	i := slices.IndexFunc(ms, func(m etcdcluster.MemberStatus) bool { return m.IDText != "" && m.IDText == own.Intent.MemberID })
	if i < 0 || ms[i].Role == etcdcluster.Learner {
		return nil
	}
	hint := "hactl leave first"
	if leaveGuard(ms, etcdcluster.Step{Kind: etcdcluster.Remove, ID: own.Intent.MemberID}) != nil {
		hint = "bring the other masters up, then hactl leave; to end the cluster: hactl reset --force"
	}
	return exitcode.Errorf(exitcode.Refused, "this machine is a voter of cluster %s (member %s); wiped, the others would count on one that is gone", r.cluster.Name, own.Intent.MemberID).
		WithHint("%s", hint)
}

// leftovers lists what there is to remove.
func (r *run) leftovers() (paths, units []string, err error) {
	for _, p := range append(keyPaths(r.cfg.Layout), r.cfg.Layout.State()) {
		if _, err := os.Lstat(p); err == nil {
			paths = append(paths, p)
		}
	}
	units, err = r.cfg.Systemd.Rendered()
	return paths, units, err
}

// keyPaths are certificates, keys, and the files that hactl made beside them.
func keyPaths(l layout.Layout) []string {
	paths := []string{l.PKI(), l.Kubeconfig("admin"), l.Kubeconfig("scheduler"), l.Kubeconfig("controller-manager")}
	for _, name := range []string{"encryption.yaml", "authentication.yaml", "audit-policy.yaml", "abac-policy.jsonl"} {
		paths = append(paths, filepath.Join(l.Kubernetes(), name))
	}
	return paths
}

func removeAll(paths []string) error {
	var errs []error
	for _, p := range paths {
		err := os.RemoveAll(p)
		if errors.Is(err, syscall.EBUSY) { // a disk is mounted there
			if left, readErr := os.ReadDir(p); readErr == nil && len(left) == 0 {
				continue
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// stopAll stops every unit of ours, the socket first: it would start its service
// again.
func (r *run) stopAll(ctx context.Context) (string, error) {
	names, err := r.cfg.Systemd.Rendered()
	if err != nil {
		return "", err
	}
	slices.SortStableFunc(names, func(a, b string) int { return stopRank(a) - stopRank(b) })
	for _, name := range names {
		if err := r.cfg.Systemd.Stop(ctx, name); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d units are stopped", len(names)), nil
}

// stopRank orders units for stopping: as Host.Units says, in reverse.
func stopRank(name string) int {
	for i, prefix := range []string{Target, "hactl-agent", "podmaster@", Socket, "hactl-lb", "kube-apiserver"} {
		if len(name) >= len(prefix) && name[:len(prefix)] == prefix {
			return i
		}
	}
	return 10
}

func (r *run) removeUnits(ctx context.Context) (string, error) {
	if r.cfg.Layout.Root == "" {
		if err := r.cfg.Systemd.LeaveHardwareWatchdog(ctx); err != nil {
			return "", err
		}
	}
	names, err := r.cfg.Systemd.Rendered()
	if err != nil || len(names) == 0 {
		return "", err
	}
	return fmt.Sprintf("%d unit files are removed", len(names)), r.cfg.Systemd.Remove(ctx, names...)
}

// removeState removes everything but the journal that says that it is removed.
func (r *run) removeState() error {
	l := r.cfg.Layout
	entries, err := os.ReadDir(l.State())
	if err != nil {
		return err
	}
	var paths []string
	for _, e := range entries {
		if p := filepath.Join(l.State(), e.Name()); p != JournalFile(l) && e.Name() != "bootstrap.lock" {
			paths = append(paths, p)
		}
	}
	return removeAll(append(paths, l.Run()))
}
