package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/client/v3/concurrency"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/watchdog"
)

// restartLock is held in etcd by the master whose watchdog restarts its API
// server or its etcd member.
const restartLock = "/hactl/watchdog/restart"

// lockTTL is how long the lock outlives an agent that died in a restart: about
// as long as the restart may take.
const lockTTL = 90 * time.Second

// permits is the rule that never two masters restart an API server or an etcd
// member at the same time.
type permits struct {
	client *clientv3.Client
	turns  watchdog.Turns // while etcd does not answer
	shared map[string]bool
}

// Permit implements watchdog.Permit.
func (p *permits) Permit(ctx context.Context, unit string) (func(), error) {
	if !p.shared[unit] {
		return func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	release, err := p.lock(ctx)
	switch {
	case err == nil:
		return release, nil
	case errors.Is(err, concurrency.ErrLocked):
		return nil, errors.New("another master's restart is under way")
	default:
		// Without etcd nobody can be asked; the clock is what all share.
		return p.turns.Permit(ctx, unit)
	}
}

func (p *permits) lock(ctx context.Context) (func(), error) {
	lease, err := p.client.Grant(ctx, int64(lockTTL.Seconds()))
	if err != nil {
		return nil, fmt.Errorf("restart lock: %w", err)
	}
	session, err := concurrency.NewSession(p.client, concurrency.WithLease(lease.ID))
	if err != nil {
		return nil, fmt.Errorf("restart lock: %w", err)
	}
	mutex := concurrency.NewMutex(session, restartLock)
	if err := mutex.TryLock(ctx); err != nil {
		p.revoke(session)
		return nil, fmt.Errorf("restart lock: %w", err)
	}
	return func() { p.revoke(session) }, nil
}

// revoke gives the lock back, or leaves it to its TTL: Session.Close alone would
// wait for as long as that while etcd does not answer.
func (p *permits) revoke(session *concurrency.Session) {
	session.Orphan()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_, _ = p.client.Revoke(ctx, session.Lease())
}
