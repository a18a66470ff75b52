package etcdlock

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/hactl/hactl/internal/lease"
)

// Lock is one singleton's lock. It is a lease.Lock.
type Lock struct {
	c      *Client
	name   string
	prefix string
}

var _ lease.Lock = (*Lock)(nil)

// Lock returns the singleton's lock. It errs on a name that Prefix refuses.
func (c *Client) Lock(name string) (*Lock, error) {
	prefix, err := Prefix(name)
	if err != nil {
		return nil, err
	}
	return &Lock{c: c, name: nameOf(prefix), prefix: prefix}, nil
}

// Name is the singleton's name, as List and Get tell it.
func (l *Lock) Name() string { return l.name }

func (l *Lock) key(k string) []byte { return []byte(l.prefix + k) }

// Read reads the three keys in one linearizable transaction.
func (l *Lock) Read(ctx context.Context) (lease.Record, error) {
	resp, err := ask(ctx, l.c, true, func(ctx context.Context, ep *endpoint) (*etcdserverpb.TxnResponse, error) {
		return ep.kv.Txn(ctx, &etcdserverpb.TxnRequest{Success: l.gets()})
	})
	if err != nil {
		return lease.Record{}, fmt.Errorf("etcd: %w", err)
	}
	return l.record(resp)
}

func (l *Lock) gets() []*etcdserverpb.RequestOp {
	var ops []*etcdserverpb.RequestOp
	for _, k := range []string{keyTerm, keyBeat, keyOrder} {
		ops = append(ops, &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{
			RequestRange: &etcdserverpb.RangeRequest{Key: l.key(k)},
		}})
	}
	return ops
}

// record makes a record of the answers to gets.
func (l *Lock) record(resp *etcdserverpb.TxnResponse) (lease.Record, error) {
	rec := lease.Record{Rev: resp.Header.GetRevision()}
	for _, kv := range l.keyValues(resp) {
		if err := apply(&rec, strings.TrimPrefix(string(kv.Key), l.prefix), kv, false); err != nil {
			return rec, fmt.Errorf("etcd: %s: %w", l.prefix, err)
		}
	}
	return rec, nil
}

func (l *Lock) keyValues(resp *etcdserverpb.TxnResponse) []*mvccpb.KeyValue {
	var kvs []*mvccpb.KeyValue
	for _, r := range resp.Responses {
		kvs = append(kvs, r.GetResponseRange().GetKvs()...)
	}
	return kvs
}

// Take writes the claim if the keys are as seen. A copy of the request that comes
// second sees the first one's claim and says the same.
func (l *Lock) Take(ctx context.Context, seen lease.Record, c lease.Claim) (lease.Held, error) {
	v := valueOf(c)
	v.Claim, v.Since = rand.Text(), time.Now().UTC()
	req := &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{
			l.modIs(keyTerm, seen.Token), l.modIs(keyBeat, seen.Beat), l.modIs(keyOrder, seen.Order),
		},
		Success: []*etcdserverpb.RequestOp{put(l.key(keyTerm), mustJSON(v)), put(l.key(keyBeat), mustJSON(beatValue{At: v.Since}))},
		Failure: l.gets(),
	}
	if !seen.Paused && seen.Order != 0 { // an order to move was for this moment
		req.Success = append(req.Success, del(l.key(keyOrder)))
	}
	resp, err := ask(ctx, l.c, true, func(ctx context.Context, ep *endpoint) (*etcdserverpb.TxnResponse, error) {
		return ep.kv.Txn(ctx, req)
	})
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	if resp.Succeeded {
		return l.held(resp.Header.GetRevision(), v), nil
	}
	for _, kv := range l.keyValues(resp) {
		var now termValue
		if string(kv.Key) == string(l.key(keyTerm)) && json.Unmarshal(kv.Value, &now) == nil && now.Claim == v.Claim && now.Ended == nil {
			return l.held(kv.ModRevision, v), nil
		}
	}
	return nil, lease.ErrChanged
}

func valueOf(c lease.Claim) termValue {
	return termValue{
		Holder: c.Holder, Address: c.Address, ID: c.ID, Priority: c.Priority,
		TTLMillis: c.TTL.Milliseconds(), DelayMillis: c.LockDelay.Milliseconds(),
	}
}

func (l *Lock) held(token int64, v termValue) *held { return &held{l: l, token: token, value: v} }

// Resume returns the held lock of a term that another process of this machine took
// with claim c and whose work is known to have stopped, so that it can be released.
func (l *Lock) Resume(token int64, c lease.Claim) lease.Held { return l.held(token, valueOf(c)) }

type held struct {
	l     *Lock
	token int64
	value termValue
	seq   atomic.Int64
}

func (h *held) Token() int64 { return h.token }

// Renew writes the next heartbeat in a transaction that holds only in our term.
func (h *held) Renew(ctx context.Context) error {
	v := mustJSON(beatValue{Seq: h.seq.Add(1), At: time.Now().UTC()})
	req := &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{h.l.modIs(keyTerm, h.token)},
		Success: []*etcdserverpb.RequestOp{put(h.l.key(keyBeat), v)},
	}
	resp, err := ask(ctx, h.l.c, true, func(ctx context.Context, ep *endpoint) (*etcdserverpb.TxnResponse, error) {
		return ep.kv.Txn(ctx, req)
	})
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	if !resp.Succeeded {
		return fmt.Errorf("%w: etcd has another term", lease.ErrLost)
	}
	return nil
}

// Release marks the term as ended. An order to move is fulfilled by it.
func (h *held) Release(ctx context.Context, r lease.Release) error {
	v := h.value
	v.Ended = &endValue{Token: h.token, At: time.Now().UTC(), Next: r.Next, Reason: r.Reason}
	req := &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{h.l.modIs(keyTerm, h.token)},
		Success: []*etcdserverpb.RequestOp{put(h.l.key(keyTerm), mustJSON(v))},
	}
	if r.Next != "" {
		req.Success = append(req.Success, del(h.l.key(keyOrder)))
	}
	_, err := ask(ctx, h.l.c, true, func(ctx context.Context, ep *endpoint) (*etcdserverpb.TxnResponse, error) {
		return ep.kv.Txn(ctx, req)
	})
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	return nil
}

func (l *Lock) modIs(key string, rev int64) *etcdserverpb.Compare {
	return &etcdserverpb.Compare{
		Result: etcdserverpb.Compare_EQUAL, Target: etcdserverpb.Compare_MOD, Key: l.key(key),
		TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: rev},
	}
}

func put(key, value []byte) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: key, Value: value}}}
}

func del(key []byte) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: key}}}
}
