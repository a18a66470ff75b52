package etcdcluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

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
