package etcdcluster

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/hactl/hactl/internal/exitcode"
)

// startPlan is how a member shall start.
type startPlan struct {
	state          string // embed.ClusterStateFlagNew or …Existing
	initialCluster string // only read by etcd when there is no log
	token          string

	// Both ids are checked against what etcd then is; zero: not known before.
	memberID, clusterID uint64

	intent        Intent // to be recorded as used once the member exists
	restart       bool   // there are data
	clearLeftover bool   // a first start was interrupted before the log was there
	notes         []string
}

// decideStart holds the rule that a restart never changes what a machine is.
// Only one branch founds a cluster and only one joins, both by a pending intent
// and without data. in is nil when the machine has no intent. Errors are
// refusals with the way out.
func decideStart(cfg Config, in *Intent, d dataState) (startPlan, error) {
	if in != nil && in.Cluster != cfg.Cluster {
		return startPlan{}, refuse(ErrOtherCluster, "the intent in %s is for cluster %q, the configuration names %q", cfg.StateDir, in.Cluster, cfg.Cluster).
			WithHint("set the right name in the configuration, or clear the machine for another cluster: move %s and %s away", cfg.StateDir, cfg.DataDir)
	}
	if in != nil && in.Member != cfg.Name {
		return startPlan{}, refuse(ErrOtherMember, "the intent in %s is for member %q, this is %q", cfg.StateDir, in.Member, cfg.Name).
			WithHint("start with --name %s", in.Member)
	}
	if d.removed || in != nil && in.State == Removed {
		return startPlan{}, refuse(ErrRemoved, "member %s (%s)", cfg.Name, idString(d.memberID)).
			WithHint("hactl etcd member replace %s, on this machine, makes it a member again", cfg.Name)
	}
	switch {
	case d.wal && !d.db:
		return startPlan{}, refuse(ErrDataLost, "%s has a log but no database", cfg.DataDir).
			WithHint("hactl etcd member replace %s, on this machine, makes it a new member", cfg.Name)
	case d.wal:
		return restart(cfg, in, d)
	case in == nil && d.db:
		return startPlan{}, refuse(ErrDataLost, "%s has a database but no log", cfg.DataDir).
			WithHint("hactl etcd member replace %s, on this machine, makes it a new member", cfg.Name)
	case in == nil:
		return startPlan{}, refuse(ErrNoIntent, "no %s and no data in %s", intentFile, cfg.DataDir).
			WithHint("hactl bootstrap founds a cluster, hactl join joins one; hactl etcd member replace %s replaces a lost member by this machine", cfg.Name)
	case in.State == Used:
		return startPlan{}, refuse(ErrDataLost, "it was member %s (%s) of cluster %s and has no data in %s; with the old id it would vote against its own word",
			in.Member, in.MemberID, in.Cluster, cfg.DataDir).
			WithHint("put the data back, or make this machine a new member: hactl etcd member replace %s, on this machine", cfg.Name)
	default:
		return first(cfg, *in, d)
	}
}

// first is the start by a pending intent.
func first(cfg Config, in Intent, d dataState) (startPlan, error) {
	p := startPlan{state: embed.ClusterStateFlagNew, initialCluster: in.initialCluster(), token: in.Token, intent: in}
	// WriteIntent saw an empty folder: what is there now an interrupted first
	// start has left, before the log and so before any vote.
	p.clearLeftover = d.db
	if in.Action == Join {
		p.state = embed.ClusterStateFlagExisting
	}
	var err error
	if p.memberID, p.clusterID, err = in.ids(); err != nil {
		return startPlan{}, err
	}
	i := slices.IndexFunc(in.Peers, func(q Peer) bool { return q.Name == in.Member })
	if own := in.Peers[i].URL; own != cfg.PeerURL {
		return startPlan{}, refuse(ErrOtherMember, "the intent has %s at %s, the configuration at %s", in.Member, own, cfg.PeerURL).
			WithHint("set the master's address in the configuration to the one in %s/%s", cfg.StateDir, intentFile)
	}
	return p, nil
}

// restart is the start with data: they alone say what the machine is.
func restart(cfg Config, in *Intent, d dataState) (startPlan, error) {
	p := startPlan{restart: true, state: embed.ClusterStateFlagExisting, memberID: d.memberID, clusterID: d.clusterID}
	p.initialCluster, p.token = cfg.Name+"="+cfg.PeerURL, cfg.Cluster // not read with a log
	if d.name != "" && d.name != cfg.Name {
		return startPlan{}, refuse(ErrOtherMember, "%s holds the data of %s, this is %s", cfg.DataDir, d.name, cfg.Name).
			WithHint("start with --name %s, or put this member's own data there", d.name)
	}
	if len(d.peerURLs) > 0 && !slices.Contains(d.peerURLs, cfg.PeerURL) {
		p.notes = append(p.notes, fmt.Sprintf("the cluster knows this member at %v, the configuration has it at %s", d.peerURLs, cfg.PeerURL))
	}
	if in == nil {
		p.intent = Intent{
			Version: intentVersion, Action: Join, Cluster: cfg.Cluster, Token: cfg.Cluster, Member: cfg.Name,
			Peers: []Peer{{cfg.Name, cfg.PeerURL}}, Created: time.Now().UTC(), State: Pending,
		}
		p.notes = append(p.notes, "the data have no intent beside them: adopted as they are")
		return p, nil
	}
	p.intent = *in
	member, cluster, err := in.ids()
	if err != nil {
		return startPlan{}, err
	}
	if cluster != d.clusterID {
		return startPlan{}, refuse(ErrOtherCluster, "%s holds cluster %s, this machine belongs to %s (%s)", cfg.DataDir, idString(d.clusterID), idString(cluster), in.Cluster).
			WithHint("put the data of %s back in %s", in.Cluster, cfg.DataDir)
	}
	if member != d.memberID {
		return startPlan{}, refuse(ErrOtherMember, "%s holds member %s, this machine is %s (%s)", cfg.DataDir, idString(d.memberID), idString(member), in.Member).
			WithHint("put this machine's own data back in %s: two members must not run from one copy", cfg.DataDir)
	}
	return p, nil
}

func refuse(cause error, format string, args ...any) *exitcode.Error {
	return exitcode.Errorf(exitcode.Refused, "%w: %s", cause, fmt.Sprintf(format, args...))
}

// prepare reads what the machine is and decides.
func (m *Member) prepare() (startPlan, error) {
	var in *Intent
	switch got, err := ReadIntent(m.cfg.StateDir); {
	case err == nil:
		in = &got
	case !errors.Is(err, fs.ErrNotExist):
		return startPlan{}, exitcode.Errorf(exitcode.Refused, "read the intent: %w", err).
			WithHint("mend the file; without it nobody can tell what this machine is")
	}
	d, err := readData(m.cfg.DataDir)
	if errors.Is(err, ErrInUse) {
		return startPlan{}, err
	}
	if err != nil {
		return startPlan{}, exitcode.Errorf(exitcode.Failed, "etcd member %s: its data cannot be read: %w", m.cfg.Name, err).
			WithHint("look at the disk; if the data are lost: hactl etcd member replace %s, on this machine, fetches them anew from the others", m.cfg.Name)
	}
	p, err := decideStart(m.cfg, in, d)
	if err != nil {
		return startPlan{}, err
	}
	for _, note := range p.notes {
		m.cfg.Logger.Warn("start of the etcd member", "member", m.cfg.Name, "note", note)
	}
	if p.clearLeftover {
		aside := fmt.Sprintf("%s.interrupted-%d", m.cfg.DataDir, time.Now().Unix())
		m.cfg.Logger.Warn("a first start was interrupted: its beginnings are moved aside", "member", m.cfg.Name, "to", aside)
		if err := moveAside(m.cfg.DataDir, aside); err != nil {
			return startPlan{}, err
		}
	}
	return p, nil
}
