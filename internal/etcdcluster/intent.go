package etcdcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"

	"github.com/hactl/hactl/internal/atomicfile"
)

// intentFile in the state folder outlives the data folder.
const intentFile = "etcd-intent.json"

// intentVersion is the version of the file's format.
const intentVersion = 1

// Action is what an Intent allows once.
type Action string

// The actions.
const (
	Found Action = "found" // form a new cluster together with the other Peers
	Join  Action = "join"  // join an existing cluster as a learner that it has been told of
)

// State is how far an Intent has come. It only moves forward.
type State string

// The states.
const (
	Pending State = "pending" // may be acted on
	Used    State = "used"    // the machine is, or was, a member
	Removed State = "removed" // the cluster removed the member
)

// Peer is a member by name and peer URL.
type Peer struct {
	Name string `json:"name"`
	URL  string `json:"url"` // https://IP:2380
}

// Intent is the permission, given once and in writing, for a machine to become
// a member; afterwards it is the record of which member the machine is.
// A machine without it and without data starts nothing.
type Intent struct {
	Version int       `json:"version"`
	Action  Action    `json:"action"`
	Cluster string    `json:"cluster"` // the cluster's name
	Token   string    `json:"token"`   // goes into the ids of a new cluster, so that two never mix
	Member  string    `json:"member"`  // this machine's member
	Peers   []Peer    `json:"peers"`   // all members at the start, this one too
	Created time.Time `json:"created"`

	State     State     `json:"state"`
	Changed   time.Time `json:"changed,omitzero"`    // of State
	MemberID  string    `json:"memberID,omitempty"`  // hexadecimal; known from the beginning when joining
	ClusterID string    `json:"clusterID,omitempty"` // likewise
}

// NewIntent returns the pending intent to found a cluster of the given peers.
// All machines of a new cluster need the same cluster, peers and token, which
// is the cluster's name; set Token before writing for another.
func NewIntent(cluster, member string, peers []Peer) Intent {
	return Intent{
		Version: intentVersion, Action: Found, Cluster: cluster, Token: cluster, Member: member,
		Peers: slices.Clone(peers), Created: time.Now().UTC(), State: Pending,
	}
}

// WriteIntent records in before anything is done. It errs with ErrIntentExists
// when the state folder has an intent that is used up or differs, or when the
// data folder has data; writing the same pending intent again is no error.
func WriteIntent(stateDir, dataDir string, in Intent) error {
	if err := in.validate(); err != nil {
		return err
	}
	old, err := ReadIntent(stateDir)
	switch {
	case err == nil && old.State == Pending && old.same(in):
		return nil
	case err == nil:
		return fmt.Errorf("%w: %s says it shall %s %s as %s (%s)", ErrIntentExists,
			filepath.Join(stateDir, intentFile), old.Action, old.Cluster, old.Member, old.State)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	d, err := readData(dataDir)
	if err != nil {
		return err
	}
	if d.wal || d.db {
		return fmt.Errorf("%w: %s has data", ErrIntentExists, dataDir)
	}
	return in.write(stateDir)
}

// ReadIntent returns the machine's intent; fs.ErrNotExist when it has none.
func ReadIntent(stateDir string) (Intent, error) {
	path := filepath.Join(stateDir, intentFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return Intent{}, err
	}
	in, err := parseIntent(text)
	if err != nil {
		return Intent{}, fmt.Errorf("%s: %w", path, err)
	}
	return in, nil
}

func parseIntent(text []byte) (Intent, error) {
	var in Intent
	if err := json.Unmarshal(text, &in); err != nil {
		return Intent{}, err
	}
	return in, in.validate()
}

func (in Intent) write(stateDir string) error {
	text, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(stateDir, intentFile), append(text, '\n'), 0o600)
}

func (in Intent) same(other Intent) bool {
	return in.Action == other.Action && in.Cluster == other.Cluster && in.Token == other.Token &&
		in.Member == other.Member && slices.Equal(in.Peers, other.Peers) &&
		in.MemberID == other.MemberID && in.ClusterID == other.ClusterID
}

func (in Intent) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("etcd intent: "+format, args...)) }
	if in.Version != intentVersion {
		bad("version %d: this program knows version %d", in.Version, intentVersion)
	}
	if in.Action != Found && in.Action != Join {
		bad("action %q: want %s or %s", in.Action, Found, Join)
	}
	if !slices.Contains([]State{Pending, Used, Removed}, in.State) {
		bad("state %q: want %s, %s or %s", in.State, Pending, Used, Removed)
	}
	if in.Cluster == "" || in.Token == "" || in.Member == "" {
		bad("cluster, token and member must be given")
	}
	if (in.Action == Join || in.State != Pending) && (in.MemberID == "" || in.ClusterID == "") {
		bad("memberID and clusterID must be given")
	}
	for _, id := range []string{in.MemberID, in.ClusterID} {
		if _, err := types.IDFromString(id); id != "" && err != nil {
			bad("id %q: not a hexadecimal number", id)
		}
	}
	names, urls := map[string]bool{}, map[string]bool{}
	for _, p := range in.Peers {
		if _, err := parseURL(p.URL); err != nil || p.Name == "" || strings.ContainsAny(p.Name, ",= ") {
			bad("peer %q at %q: want a name and https://IP:PORT", p.Name, p.URL)
		}
		if names[p.Name] || urls[p.URL] {
			bad("peer %q at %q: twice", p.Name, p.URL)
		}
		names[p.Name], urls[p.URL] = true, true
	}
	if !names[in.Member] {
		bad("member %q is not among the peers", in.Member)
	}
	return errors.Join(errs...)
}

// initialCluster is the list in etcd's notation.
func (in Intent) initialCluster() string {
	var parts []string
	for _, p := range in.Peers {
		parts = append(parts, p.Name+"="+p.URL)
	}
	return strings.Join(parts, ",")
}

// ids are the ids that etcd will give, or has given, the member and the cluster.
// Those of a new cluster follow from its token and peers.
func (in Intent) ids() (member, cluster uint64, err error) {
	if in.MemberID != "" {
		m, err := types.IDFromString(in.MemberID)
		if err != nil {
			return 0, 0, err
		}
		c, err := types.IDFromString(in.ClusterID)
		return uint64(m), uint64(c), err
	}
	urls, err := types.NewURLsMap(in.initialCluster())
	if err != nil {
		return 0, 0, err
	}
	cl, err := membership.NewClusterFromURLsMap(nil, in.Token, urls)
	if err != nil {
		return 0, 0, err
	}
	return uint64(cl.MemberByName(in.Member).ID), uint64(cl.ID()), nil
}

// advance records that the machine is the given member, or no longer one.
func (in Intent) advance(stateDir string, to State, member, cluster uint64) error {
	in.State, in.Changed = to, time.Now().UTC()
	in.MemberID, in.ClusterID = idString(member), idString(cluster)
	return in.write(stateDir)
}

// MarkRemoved records that the cluster removed this machine's member, where the
// member itself could not: it stopped before it heard. The machine then stays out.
// It is no error when that is recorded already, or when there is no intent.
func MarkRemoved(stateDir string) error {
	in, err := ReadIntent(stateDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil || in.State == Removed:
		return err
	}
	member, cluster, err := in.ids()
	if err != nil {
		return err
	}
	return in.advance(stateDir, Removed, member, cluster)
}
