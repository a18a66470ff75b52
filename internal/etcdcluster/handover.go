package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver"
)

// handOver moves leadership away while the member still serves, so that the
// others need not wait for an election. Members that stop at the same time are
// passed over.
func (m *Member) handOver(s *etcdserver.EtcdServer) {
	if s.Leader() != s.MemberID() {
		return
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.MoveTimeout)
	defer cancel()
	to, err := m.moveAway(ctx, s)
	switch {
	case errors.Is(err, errNobody):
		m.cfg.Logger.Info("nobody takes the leadership over", "member", m.cfg.Name)
	case err != nil:
		m.metrics.moves.WithLabelValues("failed").Inc()
		m.cfg.Logger.Warn("leadership was not handed over", "member", m.cfg.Name, "err", err)
	default:
		m.metrics.moves.WithLabelValues("ok").Inc()
		m.cfg.Logger.Info("leadership handed over", "member", m.cfg.Name, "to", memberName(s, to), "took", time.Since(began).Round(time.Millisecond))
	}
}

var errNobody = errors.New("no other voter can be reached")

func (m *Member) moveAway(ctx context.Context, s *etcdserver.EtcdServer) (types.ID, error) {
	err := errNobody
	for _, other := range s.Cluster().Members() {
		if other.ID == s.MemberID() || other.IsLearner || !listens(ctx, other.PeerURLs) {
			continue
		}
		// Raft itself gives a hand-over up after an election timeout.
		try, cancel := context.WithTimeout(ctx, m.cfg.Election+2*m.cfg.Heartbeat)
		merr := s.MoveLeader(try, uint64(s.MemberID()), uint64(other.ID))
		cancel()
		if lead := s.Leader(); lead != 0 && lead != s.MemberID() {
			return lead, nil // to this one, or another was elected meanwhile
		}
		err = fmt.Errorf("to %s: %w", memberName(s, other.ID), merr)
		if ctx.Err() != nil {
			break
		}
	}
	return 0, err
}

// listens tells whether one of the URLs accepts connections.
func listens(ctx context.Context, urls []string) bool {
	d := net.Dialer{Timeout: 300 * time.Millisecond}
	for _, u := range urls {
		if c, err := d.DialContext(ctx, "tcp", hostOf(u)); err == nil {
			_ = c.Close()
			return true
		}
	}
	return false
}
