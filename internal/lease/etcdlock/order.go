package etcdlock

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Move orders the holder to hand over to a candidate; an empty one means any but
// itself. The order is done when Get shows another holder. It does not lift a pause.
func (l *Lock) Move(ctx context.Context, to, by string) error {
	return l.order(ctx, put(l.key(keyOrder), mustJSON(orderValue{MoveTo: to, By: by, At: time.Now().UTC()})))
}

// Pause orders that nobody holds the singleton.
func (l *Lock) Pause(ctx context.Context, by string) error {
	return l.order(ctx, put(l.key(keyOrder), mustJSON(orderValue{Paused: true, By: by, At: time.Now().UTC()})))
}

// Unpause takes every order back.
func (l *Lock) Unpause(ctx context.Context) error {
	return l.order(ctx, del(l.key(keyOrder)))
}

func (l *Lock) order(ctx context.Context, op *etcdserverpb.RequestOp) error {
	_, err := ask(ctx, l.c, false, func(ctx context.Context, ep *endpoint) (*etcdserverpb.TxnResponse, error) {
		return ep.kv.Txn(ctx, &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{op}})
	})
	if err != nil {
		return fmt.Errorf("etcd: order for %s: %w", l.name, err)
	}
	return nil
}
