package etcdcluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hactl/hactl/internal/logging"
)

const (
	// adminTimeout is how long a member may take to tell its status. A change that
	// takes a slow member for a dead one is refused for nothing.
	adminTimeout = 5 * time.Second
	// changeTimeout is how long one call that changes something may take: an
	// election and etcd's own request timeout.
	changeTimeout = 10 * time.Second
	// againAfter is the pause between two looks at something awaited.
	againAfter = 500 * time.Millisecond
	// settleTime is how long an "unhealthy cluster" is waited for to pass: etcd
	// wants its members to have been connected for 5 s before it takes a change.
	settleTime = 15 * time.Second
)

// AdminConfig says which cluster an Admin works on.
type AdminConfig struct {
	Endpoints []string     // client URLs of some members, better of all
	TLS       *tls.Config  // nil: plain text
	Logger    *slog.Logger // nil: nothing is logged
}

// Admin changes a running cluster: one change at a time, each only after Guard
// has seen the members as they then are.
type Admin struct{ cfg AdminConfig }

// NewAdmin returns an Admin. It connects to nobody before it is asked to.
func NewAdmin(cfg AdminConfig) *Admin {
	if cfg.Logger == nil {
		cfg.Logger = logging.Discard()
	}
	cfg.Endpoints = slices.Clone(cfg.Endpoints)
	return &Admin{cfg: cfg}
}

// Members observes the cluster. It errs with ErrUnreachable when nobody answers.
func (a *Admin) Members(ctx context.Context) ([]MemberStatus, error) {
	ms := observe(ctx, a.cfg.Endpoints, a.cfg.TLS, adminTimeout)
	if !slices.ContainsFunc(ms, func(m MemberStatus) bool { return m.Reachable }) {
		var why []string
		for _, m := range ms {
			why = append(why, fmt.Sprintf("%s: %s", m.Endpoint, m.Error))
		}
		if err := ctx.Err(); err != nil {
			return ms, fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		return ms, fmt.Errorf("%w: %s", ErrUnreachable, strings.Join(why, "; "))
	}
	return ms, nil
}

// leader returns the leader among the members.
func leader(ms []MemberStatus) (MemberStatus, error) {
	if i := slices.IndexFunc(ms, func(m MemberStatus) bool { return m.Role == Leader }); i >= 0 {
		return ms[i], nil
	}
	return MemberStatus{}, errors.New("the cluster has no leader that can be reached")
}

// call connects to one member and calls f, for at most changeTimeout.
func (a *Admin) call(ctx context.Context, m MemberStatus, f func(context.Context, *grpc.ClientConn) error) error {
	return a.callFor(ctx, changeTimeout, m, f)
}

func (a *Admin) callFor(ctx context.Context, limit time.Duration, m MemberStatus, f func(context.Context, *grpc.ClientConn) error) error {
	conn, err := dial(m.Endpoint, a.cfg.TLS)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx, conn)
}

// Do takes one step and returns the member that it was about, as the cluster
// then has it. A step that is already taken is no error, so that a plan that
// was interrupted can be begun again. Promote waits for the learner to catch
// up, for as long as ctx lasts. It errs with a *RefusedError when the step would
// put the cluster at risk.
func (a *Admin) Do(ctx context.Context, s Step) (MemberStatus, error) {
	settle := time.Now().Add(settleTime)
	for {
		ms, err := a.Members(ctx)
		if err == nil {
			if m, done := taken(ms, s); done {
				return m, nil
			}
			err = Guard(ms, s)
		}
		if err == nil {
			err = a.take(ctx, ms, s)
		}
		if err == nil {
			continue // the next look shows it
		}
		if !worthWaiting(err, s, settle) {
			return MemberStatus{}, a.explain(err, s)
		}
		a.cfg.Logger.Debug("a change of the membership waits", "step", s.String(), "err", err)
		select {
		case <-ctx.Done():
			return MemberStatus{}, fmt.Errorf("%s %s: %w: %w", s.Kind, s.who(), ctx.Err(), err)
		case <-time.After(againAfter):
		}
	}
}

// taken tells whether the members are already as s would make them.
func taken(ms []MemberStatus, s Step) (MemberStatus, bool) {
	i := slices.IndexFunc(ms, func(m MemberStatus) bool {
		if s.ID != "" {
			return m.IDText == s.ID
		}
		return m.IDText != "" && slices.Contains(m.PeerURLs, s.Peer.URL)
	})
	switch {
	case s.Kind == Remove:
		return MemberStatus{}, i < 0
	case i < 0:
		return MemberStatus{}, false
	case s.Kind == AddLearner:
		return ms[i], ms[i].Role == Learner
	default:
		return ms[i], ms[i].Role != Learner
	}
}

// worthWaiting tells whether err can pass by itself.
func worthWaiting(err error, s Step, settle time.Time) bool {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return s.Kind == Promote && (strings.Contains(refused.Why, "still fetching") || strings.Contains(refused.Why, "does not answer"))
	}
	switch {
	case errors.Is(err, ErrUnreachable):
		return time.Now().Before(settle)
	case sameError(err, rpctypes.ErrGRPCLearnerNotReady), sameError(err, rpctypes.ErrGRPCNotLeader),
		sameError(err, rpctypes.ErrGRPCLeaderChanged), sameError(err, rpctypes.ErrGRPCMemberNotLearner),
		sameError(err, rpctypes.ErrGRPCMemberNotFound):
		return time.Now().Before(settle) || s.Kind == Promote
	case sameError(err, rpctypes.ErrGRPCUnhealthy), status.Code(err) == codes.Unavailable, status.Code(err) == codes.DeadlineExceeded:
		return time.Now().Before(settle)
	}
	return false
}

func sameError(err, known error) bool {
	return status.Convert(err).Message() == status.Convert(known).Message()
}

// explain turns etcd's own refusal into ours.
func (a *Admin) explain(err error, s Step) error {
	var refused *RefusedError
	switch {
	case errors.As(err, &refused), errors.Is(err, ErrUnreachable):
		return err
	case sameError(err, rpctypes.ErrGRPCUnhealthy), sameError(err, rpctypes.ErrMemberNotEnoughStarted), sameError(err, rpctypes.ErrGRPCMemberNotEnoughStarted):
		return &RefusedError{Step: s, Why: "etcd: " + oneLine(status.Convert(err).Message()), Safe: "bring all voters back first: hactl etcd member list"}
	}
	return fmt.Errorf("%s %s: %w", s.Kind, s.who(), plainError(err))
}

func (a *Admin) take(ctx context.Context, ms []MemberStatus, s Step) error {
	lead, err := leader(ms)
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	a.cfg.Logger.Info("change of the membership", "step", string(s.Kind), "member", s.who(), "why", s.Why)
	if s.Kind == AddLearner {
		return a.call(ctx, lead, func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := etcdserverpb.NewClusterClient(conn).MemberAdd(ctx, &etcdserverpb.MemberAddRequest{PeerURLs: []string{s.Peer.URL}, IsLearner: true})
			return err
		})
	}
	i := slices.IndexFunc(nodes(ms), s.isAbout)
	if i < 0 {
		return rpctypes.ErrGRPCMemberNotFound
	}
	id, err := strconv.ParseUint(nodes(ms)[i].id, 16, 64)
	if err != nil {
		return err
	}
	if s.Kind == Remove && id == lead.ID {
		// It could not tell the others that it is gone.
		if _, err := a.MoveLeader(ctx, ""); err != nil {
			return err
		}
		if ms, err = a.Members(ctx); err != nil {
			return err
		}
		if lead, err = leader(ms); err != nil || lead.ID == id {
			return rpctypes.ErrGRPCLeaderChanged
		}
	}
	return a.call(ctx, lead, func(ctx context.Context, conn *grpc.ClientConn) error {
		c := etcdserverpb.NewClusterClient(conn)
		var err error
		if s.Kind == Promote {
			_, err = c.MemberPromote(ctx, &etcdserverpb.MemberPromoteRequest{ID: id})
		} else {
			_, err = c.MemberRemove(ctx, &etcdserverpb.MemberRemoveRequest{ID: id})
		}
		return err
	})
}

// MoveLeader gives leadership to the member that to means (a name or an id), or
// to the voter that is furthest when to is empty, and returns the new leader.
// It errs with a *RefusedError when that member cannot lead.
func (a *Admin) MoveLeader(ctx context.Context, to string) (MemberStatus, error) {
	ms, err := a.Members(ctx)
	if err != nil {
		return MemberStatus{}, err
	}
	lead, err := leader(ms)
	if err != nil {
		return MemberStatus{}, fmt.Errorf("move the leader: %w", err)
	}
	target, err := successor(ms, to)
	if err != nil {
		return MemberStatus{}, err
	}
	if target.ID == lead.ID {
		return target, nil
	}
	err = a.call(ctx, lead, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := etcdserverpb.NewMaintenanceClient(conn).MoveLeader(ctx, &etcdserverpb.MoveLeaderRequest{TargetID: target.ID})
		return err
	})
	if err != nil {
		return MemberStatus{}, fmt.Errorf("move the leader from %s to %s: %w", lead.Name, target.Name, plainError(err))
	}
	target.Role = Leader
	return target, nil
}

// successor is the member that to means, or the one that is furthest.
func successor(ms []MemberStatus, to string) (MemberStatus, error) {
	refused := func(who, why string) error {
		return &RefusedError{Step: Step{Kind: "move-leader", Peer: Peer{Name: who}}, Why: why, Safe: "move it to a voter that answers: hactl etcd member list"}
	}
	if to != "" {
		m, err := Find(ms, to)
		switch {
		case err != nil:
			return m, err
		case m.Role == Learner:
			return m, refused(m.Name, "a learner cannot lead")
		case !m.Reachable:
			return m, refused(m.Name, "it does not answer")
		}
		return m, nil
	}
	var best MemberStatus
	for _, m := range ms {
		if m.Role == Voter && m.Reachable && m.LeaderID != "" && (best.ID == 0 || m.Applied > best.Applied) {
			best = m
		}
	}
	if best.ID == 0 {
		return best, refused("", "no other voter answers")
	}
	return best, nil
}
