package etcdcluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// A call that comes before the comparison waits for it and is answered: an error
// would reach the API server's own client.
func TestACallWaitsForTheComparison(t *testing.T) {
	cases := []struct {
		name  string
		after time.Duration // until the member is admitted
		limit time.Duration // of the call
		want  error
	}{
		{"at once", 0, time.Minute, nil},
		{"compared meanwhile", time.Second, time.Minute, nil},
		{"never compared", time.Hour, time.Minute, errNotCompared},
		{"gives up itself", time.Hour, time.Second, context.DeadlineExceeded},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &Member{}
				timer := time.AfterFunc(c.after, func() { m.admitted.Store(true) })
				defer timer.Stop()
				ctx, cancel := context.WithTimeout(t.Context(), c.limit)
				defer cancel()
				asked := false
				_, err := m.admitCall(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/etcdserverpb.KV/Txn"}, func(context.Context, any) (any, error) {
					asked = true
					return nil, nil
				})
				if !errors.Is(err, c.want) || asked != (c.want == nil) {
					t.Errorf("err = %v, handled = %v; want %v", err, asked, c.want)
				}
			})
		})
	}
}

// etcd panics when it is asked for its status after its backend was closed; a
// member that is alive must not hide a panic.
func TestAPanicCountsOnlyWhileTheMemberLives(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 1)[0]
	m.found([]*master{m})
	member, err := New(m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- member.Run(ctx) }()
	mustPut(t, m, "k", "v")
	panics := func() (recovered any, err error) {
		defer func() { recovered = recover() }()
		_, err = member.outlast(t.Context(), nil, nil, func(context.Context, any) (any, error) { panic("closed") })
		return nil, err
	}
	if recovered, err := panics(); recovered == nil {
		t.Errorf("a panic of a living member was hidden: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if recovered, err := panics(); recovered != nil || !errors.Is(err, rpctypes.ErrGRPCStopped) {
		t.Errorf("after the end: %v, panic %v; want %v", err, recovered, rpctypes.ErrGRPCStopped)
	}
	handled := false
	_, err = member.outlast(t.Context(), nil, nil, func(context.Context, any) (any, error) { handled = true; return nil, nil })
	if handled || !errors.Is(err, rpctypes.ErrGRPCStopped) {
		t.Errorf("a member that stopped was asked: %v", err)
	}
}
