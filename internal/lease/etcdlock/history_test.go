package etcdlock

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/history"
	"github.com/hactl/hactl/internal/lease/history/linear"
)

func leaseID(id int64) clientv3.LeaseID { return clientv3.LeaseID(id) }

func claim(holder string) lease.Claim {
	return lease.Claim{ID: holder, Holder: holder, TTL: 3 * time.Second}
}

// Five clients take, renew, release and read, with a member killed meanwhile; the
// history must be that of one lock.
func TestHistoryIsLinearizable(t *testing.T) {
	cluster := etcdtest.StartProcesses(t, 3, etcdtest.Options{})
	file := filepath.Join(t.TempDir(), "history")
	out, err := history.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var wg sync.WaitGroup
	for id := range 5 {
		l, err := dial(t, cluster).Lock("history")
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("c%d", id)
		r := history.New(history.Config{Who: name, Out: out})
		wg.Go(func() { client(name, r.Lock(l)) })
	}
	leader := cluster.Leader()
	leader.Kill()
	wg.Wait()
	leader.Restart()
	tail := history.Tail{Name: file}
	ops, err := tail.Next()
	if err != nil {
		t.Fatal(err)
	}
	report, err := linear.Check(ops)
	if err != nil {
		t.Error(err)
	}
	t.Logf("%+v", report)
	if report.Terms == 0 {
		t.Error("nobody ever took the lock: the history says nothing")
	}
}

// client does what it may at once, whoever held the lock a moment ago: the clocks
// are not judged here. What is said to it the recorder has written down.
func client(name string, l lease.Lock) {
	for range 25 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		if rec, err := l.Read(ctx); err == nil && (rec.Token == 0 || rec.Ended) {
			if h, err := l.Take(ctx, rec, claim(name)); err == nil {
				for range 2 {
					_ = h.Renew(ctx)
				}
				_ = h.Release(ctx, lease.Release{Reason: "test"})
			}
		}
		cancel()
	}
}
