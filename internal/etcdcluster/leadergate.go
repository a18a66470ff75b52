package etcdcluster

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// leaderGate holds writes back while the leader that they would be forwarded to
// is known to be dead.
//
// A follower learns of a dead leader only when its election timeout ends, one to
// two seconds later. Until then it forwards every proposal to the dead leader,
// where it is lost: the client waits for etcd's request timeout of some seven
// seconds and gets an error, and kube-apiserver answers 500. But a process that
// dies closes its connections at once, and its port refuses new ones, so a
// follower can know within milliseconds, and let writes wait for the next leader
// instead of losing them with the last.
//
// It only ever delays, for at most its limit, and only before anything was
// proposed: what a write means, and whether it was done, stay etcd's. A leader
// that hangs or is cut off refuses nothing and is not covered.
type leaderGate struct {
	self  uint64
	limit time.Duration // longest hold; 0: three election timeouts
	raft  raftView
	held  func(time.Duration) // counts holds; may be nil

	mu   sync.Mutex
	dead map[uint64]uint64 // member → the term in which its process was seen dead
}

// raftView is what the gate asks its own member; *etcdserver.EtcdServer has it.
type raftView interface {
	Lead() uint64
	Term() uint64
	LeaderChangedNotify() <-chan struct{}
}

func newLeaderGate(self uint64, raft raftView, limit time.Duration, held func(time.Duration)) *leaderGate {
	if held == nil {
		held = func(time.Duration) {}
	}
	return &leaderGate{
		self: self, limit: limit, raft: raft, held: held,
		dead: map[uint64]uint64{},
	}
}

// sawDead notes that a member's process is dead. The note holds for the present
// term only: a process that comes back cannot lead in the term that it died in,
// and one that leads a later term is alive. It returns true when that is news,
// and about the leader.
func (g *leaderGate) sawDead(member uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	term := g.raft.Term()
	news := g.dead[member] != term && g.raft.Lead() == member
	g.dead[member] = term
	return news
}

// leaderDead says whether the leader of the present term was seen dead. Without
// a leader raft itself lets proposals wait.
func (g *leaderGate) leaderDead() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	lead := g.raft.Lead()
	return lead != 0 && lead != g.self && g.dead[lead] == g.raft.Term()
}

// wait returns when a write may be proposed: at once, unless the leader is dead.
// It returns ctx's error when that ends first.
func (g *leaderGate) wait(ctx context.Context) error {
	if !g.leaderDead() {
		return nil
	}
	began := time.Now()
	defer func() { g.held(time.Since(began)) }()
	limit := time.NewTimer(g.limit)
	defer limit.Stop()
	// The leader is lost some time before the next one is known: both are
	// changes of raft's state, and only the second is announced.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		newLeader := g.raft.LeaderChangedNotify()
		if !g.leaderDead() {
			return nil
		}
		select {
		case <-newLeader:
		case <-tick.C:
		case <-limit.C:
			return nil // etcd gives the answer that it would have given
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// isWrite tells the calls that become proposals by what they do.
func isWrite(method string) bool {
	switch method[strings.LastIndexByte(method, '/')+1:] {
	case "Put", "DeleteRange", "Txn", "Compact", "LeaseGrant", "LeaseRevoke":
		return true
	default:
		return false
	}
}

// holdWrites is the server's interceptor; it is given to etcd before there is a
// gate.
func (m *Member) holdWrites(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if g := m.gate.Load(); g != nil && isWrite(info.FullMethod) {
		if err := g.wait(ctx); err != nil {
			return nil, err
		}
	}
	return handler(ctx, req)
}
