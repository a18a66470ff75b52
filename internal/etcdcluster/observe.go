package etcdcluster

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// ObserveTimeout is how long one member may take to answer Observe. A member
// that hangs is one that does not answer.
const ObserveTimeout = 1200 * time.Millisecond

// Role is what a member is in its cluster.
type Role string

// The roles. A member whose role nobody could tell has the empty one.
const (
	Leader  Role = "leader"
	Voter   Role = "voter" // a voter that does not lead
	Learner Role = "learner"
)

// MemberStatus is what one member says of itself and the others of it.
type MemberStatus struct {
	ID        uint64        `json:"-"`
	IDText    string        `json:"id,omitempty"` // ID as etcd writes it; empty: unknown
	ClusterID string        `json:"clusterID,omitempty"`
	Name      string        `json:"name,omitempty"` // empty: unknown, or added and never started
	Role      Role          `json:"role,omitempty"`
	Endpoint  string        `json:"endpoint,omitempty"`
	PeerURLs  []string      `json:"peerURLs,omitempty"`
	Reachable bool          `json:"reachable"`
	Error     string        `json:"error,omitempty"`        // why it is not reachable
	LeaderID  string        `json:"leader,omitempty"`       // the leader that it sees; empty: none
	Term      uint64        `json:"term,omitempty"`         // Raft's
	Index     uint64        `json:"raftIndex,omitempty"`    // committed, as far as it knows
	Applied   uint64        `json:"appliedIndex,omitempty"` // of that, in its store
	Revision  int64         `json:"revision,omitempty"`     // of its store
	DBSize    int64         `json:"dbSizeBytes,omitempty"`  // of the file
	DBInUse   int64         `json:"dbInUseBytes,omitempty"` // the rest a defragmentation frees
	DBQuota   int64         `json:"dbQuotaBytes,omitempty"` // DBSize may not pass it
	Version   string        `json:"version,omitempty"`      // of its program
	Alarms    []string      `json:"alarms,omitempty"`       // NOSPACE, CORRUPT
	Latency   time.Duration `json:"latencyNanos,omitempty"` // of the answer
}

// Observe asks the members at endpoints (client URLs), all at the same time and
// each for at most ObserveTimeout, and then the members that only these named.
// It needs no quorum: every member answers for itself. The result begins with
// the endpoints, in their order. A nil tls means plain text.
func Observe(ctx context.Context, endpoints []string, tlsConfig *tls.Config) []MemberStatus {
	return observe(ctx, endpoints, tlsConfig, ObserveTimeout)
}

func observe(ctx context.Context, endpoints []string, tlsConfig *tls.Config, limit time.Duration) []MemberStatus {
	answers := observeAll(ctx, endpoints, tlsConfig, limit)
	known := newestList(answers)
	var more []string
	for _, m := range known {
		if len(m.ClientURLs) > 0 && !slices.ContainsFunc(answers, func(a answer) bool { return a.is(m) }) {
			more = append(more, m.ClientURLs[0])
		}
	}
	if len(more) > 0 {
		answers = append(answers, observeAll(ctx, more, tlsConfig, limit)...)
		known = newestList(answers)
	}
	return merge(answers, known)
}

// answer is what came back from one endpoint.
type answer struct {
	endpoint string
	err      error
	latency  time.Duration
	st       *etcdserverpb.StatusResponse
	members  []*etcdserverpb.Member
}

// is tells whether the answer is, or would have been, m's.
func (a answer) is(m *etcdserverpb.Member) bool {
	if a.st != nil {
		return a.st.GetHeader().GetMemberId() == m.GetID()
	}
	return slices.ContainsFunc(m.GetClientURLs(), func(u string) bool { return hostOf(u) == hostOf(a.endpoint) })
}

func observeAll(ctx context.Context, endpoints []string, tlsConfig *tls.Config, limit time.Duration) []answer {
	answers := make([]answer, len(endpoints))
	var wg sync.WaitGroup
	for i, ep := range endpoints {
		wg.Go(func() { answers[i] = observeOne(ctx, ep, tlsConfig, limit) })
	}
	wg.Wait()
	return answers
}

func observeOne(ctx context.Context, endpoint string, tlsConfig *tls.Config, limit time.Duration) answer {
	a := answer{endpoint: endpoint}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := dial(endpoint, tlsConfig)
	if err != nil {
		a.err = err
		return a
	}
	defer conn.Close()
	began := time.Now()
	if a.st, a.err = etcdserverpb.NewMaintenanceClient(conn).Status(ctx, &etcdserverpb.StatusRequest{}); a.err != nil {
		if a.err, a.st = plainError(a.err), nil; ctx.Err() != nil {
			a.err = fmt.Errorf("no answer within %v", limit)
		}
		return a
	}
	a.latency = time.Since(began)
	list, err := etcdserverpb.NewClusterClient(conn).MemberList(ctx, &etcdserverpb.MemberListRequest{Linearizable: false})
	if err != nil {
		return a // a learner does not answer this; others know it
	}
	a.members = list.GetMembers()
	return a
}

// dial makes a connection that fails at once when nobody listens, other than
// etcd's own client, which tries again until its deadline.
func dial(endpoint string, tlsConfig *tls.Config) (*grpc.ClientConn, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint %q: %w", endpoint, err)
	}
	if u.Host == "" {
		return nil, fmt.Errorf("endpoint %q: want https://HOST:PORT", endpoint)
	}
	creds := insecure.NewCredentials()
	if u.Scheme == "https" {
		if tlsConfig == nil {
			return nil, fmt.Errorf("endpoint %s: no certificates given", endpoint)
		}
		creds = credentials.NewTLS(tlsConfig.Clone())
	}
	return grpc.NewClient("passthrough:///"+u.Host, grpc.WithTransportCredentials(creds))
}

func hostOf(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return endpoint
	}
	return u.Host
}

// plainError strips what gRPC puts around a cause.
func plainError(err error) error {
	st := status.Convert(err)
	if st.Code() == codes.DeadlineExceeded {
		return fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
	}
	return errors.New(oneLine(st.Message()))
}

// newestList is the member list of the answer that has applied most.
func newestList(answers []answer) []*etcdserverpb.Member {
	var best []*etcdserverpb.Member
	at := uint64(0)
	for _, a := range answers {
		if len(a.members) > 0 && (best == nil || a.st.GetRaftAppliedIndex() > at) {
			best, at = a.members, a.st.GetRaftAppliedIndex()
		}
	}
	return best
}

func merge(answers []answer, known []*etcdserverpb.Member) []MemberStatus {
	alarms, leader := alarmsOf(answers), leaderOfAll(answers)
	var out []MemberStatus
	seen := map[uint64]bool{}
	add := func(s MemberStatus, m *etcdserverpb.Member) {
		if m != nil {
			s.ID, s.Name, s.PeerURLs = m.GetID(), m.GetName(), m.GetPeerURLs()
			if s.Role = Voter; m.GetIsLearner() {
				s.Role = Learner
			}
		}
		if s.ID != 0 {
			if seen[s.ID] {
				return // two endpoints of one member
			}
			seen[s.ID] = true
			s.IDText = idString(s.ID)
			s.Alarms = alarms[s.ID]
			if s.ID == leader && s.Reachable {
				s.Role = Leader
			}
		}
		out = append(out, s)
	}
	for _, a := range answers {
		var m *etcdserverpb.Member
		if i := slices.IndexFunc(known, a.is); i >= 0 {
			m = known[i]
		}
		add(a.status(), m)
	}
	for _, m := range known {
		if !seen[m.GetID()] {
			add(MemberStatus{Error: "it was added and never started"}, m)
		}
	}
	return out
}

func (a answer) status() MemberStatus {
	s := MemberStatus{Endpoint: a.endpoint, Reachable: a.err == nil, Latency: a.latency}
	if a.err != nil {
		s.Error = a.err.Error()
		return s
	}
	st := a.st
	s.ID, s.ClusterID = st.GetHeader().GetMemberId(), idString(st.GetHeader().GetClusterId())
	s.Term, s.Index, s.Applied = st.GetRaftTerm(), st.GetRaftIndex(), st.GetRaftAppliedIndex()
	s.Revision = st.GetHeader().GetRevision()
	s.DBSize, s.DBInUse, s.DBQuota = st.GetDbSize(), st.GetDbSizeInUse(), st.GetDbSizeQuota()
	s.Version = st.GetVersion()
	if st.GetLeader() != 0 {
		s.LeaderID = idString(st.GetLeader())
	}
	if s.Role = Voter; st.GetIsLearner() {
		s.Role = Learner
	}
	return s
}

// leaderOfAll is the leader of the highest term that anyone knows: one that was
// frozen still takes itself for it.
func leaderOfAll(answers []answer) uint64 {
	var leader, term uint64
	for _, a := range answers {
		if l := a.st.GetLeader(); l != 0 && a.st.GetRaftTerm() >= term {
			leader, term = l, a.st.GetRaftTerm()
		}
	}
	return leader
}

// alarmText is how a member's status carries an alarm, of whichever member.
var alarmText = regexp.MustCompile(`memberID:(\d+)\s+alarm:(\w+)`)

func alarmsOf(answers []answer) map[uint64][]string {
	alarms := map[uint64][]string{}
	for _, a := range answers {
		for _, text := range a.st.GetErrors() {
			f := alarmText.FindStringSubmatch(text)
			if f == nil {
				continue
			}
			id, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil || slices.Contains(alarms[id], f[2]) {
				continue
			}
			alarms[id] = append(alarms[id], f[2])
		}
	}
	for id := range alarms {
		slices.SortFunc(alarms[id], cmp.Compare[string])
	}
	return alarms
}
