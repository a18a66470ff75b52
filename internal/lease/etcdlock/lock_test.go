package etcdlock

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/leasetest"
)

func TestMain(m *testing.M) {
	etcdtest.Main()
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreCurrent()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// A move never lifts a pause, and is ordered anew over another move.
func TestMoveLiftsNoPause(t *testing.T) {
	l, err := dial(t, etcdtest.Start(t, 1, etcdtest.Options{})).Lock("paused")
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		do     func() error
		err    error
		moveTo string
		paused bool
	}{
		{func() error { return l.Move(t.Context(), "m1", "test") }, nil, "m1", false},
		{func() error { return l.Move(t.Context(), "m2", "test") }, nil, "m2", false},
		{func() error { return l.Pause(t.Context(), "test") }, nil, "", true},
		{func() error { return l.Move(t.Context(), "m1", "test") }, ErrPaused, "", true},
		{func() error { return l.Unpause(t.Context()) }, nil, "", false},
		{func() error { return l.Move(t.Context(), "m1", "test") }, nil, "m1", false},
	} {
		err := step.do()
		rec, readErr := l.Read(t.Context())
		if !errors.Is(err, step.err) || readErr != nil || rec.MoveTo != step.moveTo || rec.Paused != step.paused {
			t.Errorf("%v, %v: %+v, want %+v", err, readErr, rec, step)
		}
	}
}

func dial(t *testing.T, cluster *etcdtest.Cluster) *Client {
	t.Helper()
	c, err := Dial(Config{Endpoints: cluster.Endpoints(), TLS: cluster.TLS()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestLockSuite(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{TLS: true})
	c := dial(t, cluster)
	cl := cluster.Client()
	var n atomic.Int32
	leasetest.Suite(t, func(t *testing.T) (lease.Lock, leasetest.Orders) {
		l, err := c.Lock(fmt.Sprintf("test-%d", n.Add(1)))
		if err != nil {
			t.Fatal(err)
		}
		do := func(what string, f func() error) func() {
			return func() {
				if err := f(); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
		}
		return l, leasetest.Orders{
			Pause:   do("pause", func() error { return l.Pause(t.Context(), "test") }),
			Unpause: do("unpause", func() error { return l.Unpause(t.Context()) }),
			Move: func(to string) {
				do("move", func() error { return l.Move(t.Context(), to, "test") })()
			},
			Delete: do("delete", func() error {
				_, err := cl.Delete(t.Context(), l.prefix, clientv3.WithPrefix())
				return err
			}),
		}
	})
}
