package etcdtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/testwait"
)

func TestMain(m *testing.M) { etcdtest.VerifyTestMain(m) }

func TestInProcess(t *testing.T) {
	t.Parallel()

	lifeOfACluster(t, etcdtest.Start(t, 3, etcdtest.Options{TLS: true}))
}

func TestProcesses(t *testing.T) {
	t.Parallel()

	c := etcdtest.StartProcesses(t, 3, etcdtest.Options{})
	lifeOfACluster(t, c)

	leader := c.Leader()
	leader.Pause()
	var rest []*etcdtest.Member
	for _, m := range c.Members {
		if m != leader {
			rest = append(rest, m)
		}
	}
	put(t, c, "while the leader is frozen", rest...)
	leader.Resume()
	leader.WaitServing()
}

// lifeOfACluster stops, kills and restarts members, with a watch open, which
// would hold up a member's end.
func lifeOfACluster(t *testing.T, c *etcdtest.Cluster) {
	t.Helper()
	watch := c.Client().Watch(t.Context(), "key")
	put(t, c, "all run")
	if ev := <-watch; len(ev.Events) != 1 {
		t.Fatalf("the watch got %+v, want one event", ev)
	}

	old := c.Leader()
	old.Kill()
	put(t, c, "the leader was killed")
	if now := c.Leader(); now == old {
		t.Fatalf("the killed %s still leads", old.Name)
	}
	old.Restart()
	old.WaitServing()

	f := c.Follower()
	f.Stop()
	put(t, c, "a follower was stopped")
	f.Restart()
	f.WaitServing()
	put(t, c, "all run again", f)
}

func put(t *testing.T, c *etcdtest.Cluster, value string, members ...*etcdtest.Member) {
	t.Helper()
	cl := c.Client(members...)
	testwait.For(t, "a write while "+value, time.Minute, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_, err := cl.Put(ctx, "key", value)
		return err
	})
	got, err := cl.Get(context.Background(), "key")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
		t.Fatalf("read back %v, %v, want %q", got, err, value)
	}
}
