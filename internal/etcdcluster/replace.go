package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

// Replacing is what Replace will do, or has done.
type Replacing struct {
	Steps []Step `json:"steps"`
	// Aside is where the old data go; empty when there are none.
	Aside string `json:"dataMovedTo,omitempty"`
}

// PlanReplace returns what Replace would do on this machine, or why it would
// not.
func (a *Admin) PlanReplace(ctx context.Context, cfg Config) (Replacing, error) {
	ms, err := a.Members(ctx)
	if err != nil {
		return Replacing{}, err
	}
	return planReplace(ms, cfg, dataThere(cfg.DataDir))
}

// dataThere says whether dir holds a member's data. The folder alone is none: it
// may be where a disk is mounted.
func dataThere(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, memberDir))
	return !errors.Is(err, fs.ErrNotExist)
}

// memberDir is the folder that etcd keeps everything in, below its data folder.
const memberDir = "member"

// moveAside moves the data in dir to aside; where a disk is mounted at dir, into a
// folder of that name on it.
func moveAside(dir, aside string) error {
	err := os.Rename(dir, aside)
	if !errors.Is(err, syscall.EBUSY) {
		return err
	}
	within := filepath.Join(dir, filepath.Base(aside))
	if err := os.Mkdir(within, 0o700); err != nil {
		return err
	}
	return os.Rename(filepath.Join(dir, memberDir), filepath.Join(within, memberDir))
}

func planReplace(ms []MemberStatus, cfg Config, data bool) (Replacing, error) {
	var r Replacing
	if data {
		r.Aside = fmt.Sprintf("%s.replaced-%s", cfg.DataDir, time.Now().UTC().Format("20060102-150405"))
	}
	add := Step{AddLearner, Peer{cfg.Name, cfg.PeerURL}, "", "this machine becomes a new member"}
	for _, m := range ms {
		mine := slices.Contains(m.PeerURLs, cfg.PeerURL)
		if m.IDText == "" || !mine && m.Name != cfg.Name {
			continue
		}
		if mine && m.Name == "" && m.Role == Learner {
			return r, nil // it was added before and has never started: the place is kept
		}
		s := Step{Remove, Peer{cfg.Name, firstOf(m.PeerURLs)}, m.IDText, "its data are given up"}
		if m.Reachable {
			return r, &RefusedError{Step: s, Why: "it runs and answers", Safe: "stop it first, if its data shall really be given up"}
		}
		if err := Guard(ms, s); err != nil {
			return r, err
		}
		r.Steps = append(r.Steps, s)
		ms = slices.DeleteFunc(slices.Clone(ms), func(o MemberStatus) bool { return o.IDText == m.IDText })
	}
	if err := Guard(ms, add); err != nil {
		return r, err
	}
	r.Steps = append(r.Steps, add)
	return r, nil
}

func firstOf(urls []string) string {
	if len(urls) == 0 {
		return ""
	}
	return urls[0]
}

// Replace makes this machine, whose member must not run, a new member of the
// cluster: its old data are moved aside and kept, its old member is removed, a
// new one is added as a learner, and the intent to join is written. After that
// the member can be started, and promoted when it has caught up. It can be begun
// again wherever it was interrupted; until it is done the member does not start.
func (a *Admin) Replace(ctx context.Context, cfg Config) (Replacing, error) {
	unlock, err := lockState(cfg.StateDir)
	if err != nil {
		if errors.Is(err, ErrInUse) {
			return Replacing{}, exitcode.Errorf(exitcode.Refused, "replace %s: it runs: %w", cfg.Name, err).
				WithHint("stop it first, if its data shall really be given up: systemctl stop hactl-etcd, or hactl dev stop %s", cfg.Name)
		}
		return Replacing{}, err
	}
	defer unlock()
	r, err := a.PlanReplace(ctx, cfg)
	if err != nil {
		return r, err
	}
	if r.Aside != "" {
		if err := moveAside(cfg.DataDir, r.Aside); err != nil {
			return r, fmt.Errorf("replace %s: move the old data aside: %w", cfg.Name, err)
		}
	}
	for _, s := range r.Steps {
		if _, err := a.Do(ctx, s); err != nil {
			return r, fmt.Errorf("replace: %w", err)
		}
	}
	in, err := a.awaitPlace(ctx, cfg)
	if err != nil {
		return r, err
	}
	if err := in.write(cfg.StateDir); err != nil {
		return r, fmt.Errorf("replace %s: record the intent: %w", cfg.Name, err)
	}
	return r, nil
}

// awaitPlace looks until the members tell of the place: one that lags behind may
// answer first.
func (a *Admin) awaitPlace(ctx context.Context, cfg Config) (Intent, error) {
	until := time.Now().Add(settleTime)
	for {
		ms, err := a.Members(ctx)
		var in Intent
		if err == nil {
			in, err = joinIntent(ms, cfg)
		}
		if err == nil || time.Now().After(until) {
			return in, err
		}
		select {
		case <-ctx.Done():
			return in, errors.Join(ctx.Err(), err)
		case <-time.After(againAfter):
		}
	}
}

// joinIntent is the intent to take the place that the cluster keeps for cfg.
func joinIntent(ms []MemberStatus, cfg Config) (Intent, error) {
	in := NewIntent(cfg.Cluster, cfg.Name, nil)
	in.Action = Join
	for _, m := range ms {
		if in.ClusterID == "" {
			in.ClusterID = m.ClusterID
		}
		if m.IDText == "" {
			continue
		}
		p := Peer{nameOf(m), firstOf(m.PeerURLs)}
		if p.URL == cfg.PeerURL {
			p.Name, in.MemberID = cfg.Name, m.IDText
		}
		in.Peers = append(in.Peers, p)
	}
	if in.MemberID == "" {
		return in, fmt.Errorf("replace %s: %w: at %s", cfg.Name, ErrNoMember, cfg.PeerURL)
	}
	return in, in.validate()
}
