package etcdlock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// ErrPaused is returned by Move, which does not lift a pause.
var ErrPaused = errors.New("it is paused")

// Move orders the holder to hand over to a candidate; an empty one means any but
// itself. The order is done when Get shows another holder. Nothing is ordered while
// the singleton is paused: then it returns ErrPaused.
func (l *Lock) Move(ctx context.Context, to, by string) error {
	op := put(l.key(keyOrder), mustJSON(orderValue{MoveTo: to, By: by, At: time.Now().UTC()}))
	read := &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{Key: l.key(keyOrder)}}}
	for rev := int64(0); ; {
		// In one step with the look at the order that stands: a pause may come meanwhile.
		resp, err := ask(ctx, l.c, false, func(ctx context.Context, ep *endpoint) (*etcdserverpb.TxnResponse, error) {
			return ep.kv.Txn(ctx, &etcdserverpb.TxnRequest{
				Compare: []*etcdserverpb.Compare{l.modIs(keyOrder, rev)},
				Success: []*etcdserverpb.RequestOp{op}, Failure: []*etcdserverpb.RequestOp{read},
			})
		})
		if err != nil {
			return fmt.Errorf("etcd: order for %s: %w", l.name, err)
		}
		if resp.Succeeded {
			return nil
		}
		rev = 0
		if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
			var now orderValue
			if json.Unmarshal(kvs[0].Value, &now) == nil && now.Paused {
				return fmt.Errorf("move %s: %w", l.name, ErrPaused)
			}
			rev = kvs[0].ModRevision
		}
	}
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
