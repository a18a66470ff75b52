package etcdlock

import (
	"context"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"

	"github.com/hactl/hactl/internal/lease"
)

// Watch follows the three keys on the endpoint that answered last. The channel is
// closed when the stream breaks, its member has lost the leader, the revision was
// compacted, or a value cannot be read; the caller reads again then.
func (l *Lock) Watch(ctx context.Context, after lease.Record) <-chan lease.Record {
	out := make(chan lease.Record)
	go func() {
		defer close(out)
		if err := l.follow(ctx, after, out); err != nil && ctx.Err() == nil {
			l.c.log.Debug("the watch ended", "unit", l.name, "err", err)
		}
	}()
	return out
}

func (l *Lock) follow(ctx context.Context, rec lease.Record, out chan<- lease.Record) error {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader))
	defer cancel()
	ep := l.c.endpoints[l.c.preferred.Load()]
	stream, err := ep.watch.Watch(ctx)
	if err != nil {
		return plain(err)
	}
	// One range, so that what one transaction changed comes as one answer, and in
	// the order of revisions. "waiting/" lies behind it.
	if err := stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: l.key(keyBeat), RangeEnd: l.key(keyWaiting), StartRevision: rec.Rev + 1},
	}}); err != nil {
		return plain(err)
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return plain(err)
		}
		if resp.Canceled {
			return &statusError{msg: "canceled: " + resp.CancelReason}
		}
		if len(resp.Events) == 0 {
			continue
		}
		for _, ev := range resp.Events {
			key := strings.TrimPrefix(string(ev.Kv.Key), l.prefix)
			if err := apply(&rec, key, ev.Kv, ev.Type == mvccpb.Event_DELETE); err != nil {
				return err
			}
			rec.Rev = max(rec.Rev, ev.Kv.ModRevision)
		}
		select {
		case out <- rec:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
