package etcdcluster

import (
	"context"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hactl/hactl/internal/exitcode"
)

// compareWait is how long clients wait for a restarted member to be compared
// with the others. One of these that hangs must not keep it from serving.
const compareWait = 3 * time.Second

// errNotCompared tells a client to ask another member.
var errNotCompared = status.Error(codes.Unavailable, "hactl: this member is not yet compared with the others")

// compare checks a restarted member's data against the others', as far as they
// answer. It returns a refusal wrapping ErrCorrupt when they differ.
//
// etcd has this check too (the feature gate InitialCorruptCheck), but does it
// before the member answers its peers: members that start at the same time, as
// after a power cut, then wait 14 s for each other. Ours is done when a quorum
// is there, and clients wait until it is.
func (m *Member) compare(s *etcdserver.EtcdServer, restarted bool) error {
	if !restarted || len(s.Cluster().Members()) == 1 {
		return nil
	}
	if err := s.CorruptionChecker().InitialCheck(); err != nil {
		return exitcode.Errorf(exitcode.Refused, "etcd member %s: %w: %w", m.cfg.Name, ErrCorrupt, err).
			WithHint("hactl etcd member replace %s, on this machine, fetches the data anew; if several members say this, hactl etcd member list and a snapshot come first", m.cfg.Name)
	}
	return nil
}

// admits tells whether a call may be answered before the comparison: what says
// something about the member, not about the data.
func (m *Member) admits(method string) bool {
	return m.admitted.Load() || method == "/etcdserverpb.Maintenance/Status" ||
		method == "/etcdserverpb.Cluster/MemberList" || strings.HasPrefix(method, "/grpc.health.")
}

// awaitAdmission lets a call wait for the comparison, which is a matter of
// milliseconds where nothing is wrong: kube-apiserver passes an error on to its
// own client. A call that has waited for compareWait is turned away.
func (m *Member) awaitAdmission(ctx context.Context, method string) error {
	if m.admits(method) {
		return nil
	}
	limit := time.NewTimer(compareWait)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if m.admits(method) {
				return nil
			}
		case <-limit.C:
			return errNotCompared
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Member) admitCall(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := m.awaitAdmission(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (m *Member) admitStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := m.awaitAdmission(ss.Context(), info.FullMethod); err != nil {
		return err
	}
	return handler(srv, ss)
}

// outlast answers for a member that was just removed, or that is on its way down:
// etcd panics when it is asked for its status in the second that is left to it.
func (m *Member) outlast(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	if m.ending() {
		return nil, rpctypes.ErrGRPCStopped
	}
	defer func() {
		if r := recover(); r != nil {
			if !m.ending() {
				panic(r)
			}
			resp, err = nil, rpctypes.ErrGRPCStopped
		}
	}()
	return handler(ctx, req)
}

// ending says whether the member was removed or its server stops.
func (m *Member) ending() bool {
	s := m.server.Load()
	if s == nil {
		return false
	}
	select {
	case <-s.StoppingNotify():
		return true
	default:
		return !s.IsMemberExist(s.MemberID())
	}
}

// interceptors are what every call goes through, outermost first.
func (m *Member) interceptors() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(m.outlast, m.admitCall, m.holdWrites),
		grpc.ChainStreamInterceptor(m.admitStream),
	}
}
