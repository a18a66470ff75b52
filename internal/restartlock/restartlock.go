// Package restartlock keeps two masters from restarting an API server or an etcd
// member at the same time, whoever wants it: a watchdog, or a bootstrap that
// brings a changed configuration.
package restartlock

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// Key is held in etcd by the master that restarts something shared.
const Key = "/hactl/watchdog/restart"

// TTL is how long the lock outlives a program that died in a restart: about as
// long as the restart may take.
const TTL = 90 * time.Second

// ErrTaken is returned by Try when another master's restart is under way.
var ErrTaken = errors.New("another master's restart is under way")

// Lock is held until Release, and while its holder renews it.
type Lock struct {
	client  *clientv3.Client
	session *concurrency.Session
	mutex   *concurrency.Mutex
}

// Try takes the lock if it is free, else it errs with ErrTaken. Any other error
// is etcd's.
func Try(ctx context.Context, client *clientv3.Client) (*Lock, error) {
	return take(ctx, client, (*concurrency.Mutex).TryLock)
}

// Wait takes the lock when its turn comes: who waits longest is the next.
func Wait(ctx context.Context, client *clientv3.Client) (*Lock, error) {
	return take(ctx, client, (*concurrency.Mutex).Lock)
}

func take(ctx context.Context, client *clientv3.Client, lock func(*concurrency.Mutex, context.Context) error) (*Lock, error) {
	lease, err := client.Grant(ctx, int64(TTL.Seconds()))
	if err != nil {
		return nil, fmt.Errorf("restart lock: %w", err)
	}
	session, err := concurrency.NewSession(client, concurrency.WithLease(lease.ID))
	if err != nil {
		return nil, fmt.Errorf("restart lock: %w", err)
	}
	l := &Lock{client, session, concurrency.NewMutex(session, Key)}
	if err := lock(l.mutex, ctx); err != nil {
		l.Release()
		if errors.Is(err, concurrency.ErrLocked) {
			return nil, ErrTaken
		}
		return nil, fmt.Errorf("restart lock: %w", err)
	}
	return l, nil
}

// Held is the condition, for a transaction, that the lock is still held.
func (l *Lock) Held() clientv3.Cmp { return l.mutex.IsOwner() }

// Release gives the lock back, or leaves it to its TTL where etcd does not
// answer: the session's own Close would wait for as long as that.
func (l *Lock) Release() {
	l.session.Orphan()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_, _ = l.client.Revoke(ctx, l.session.Lease())
}
