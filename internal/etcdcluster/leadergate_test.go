package etcdcluster

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeRaft is raft's state as the gate sees it.
type fakeRaft struct {
	mu         sync.Mutex
	lead, term uint64
	notify     chan struct{}
}

func (f *fakeRaft) Lead() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lead
}

func (f *fakeRaft) Term() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.term
}

func (f *fakeRaft) LeaderChangedNotify() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.notify
}

// elect sets leader and term; like etcd it tells only of a leader, not of none.
func (f *fakeRaft) elect(lead, term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lead, f.term = lead, term
	if lead != 0 {
		close(f.notify)
		f.notify = make(chan struct{})
	}
}

func TestLeaderGate(t *testing.T) {
	const self, other, third = 1, 2, 3
	cases := []struct {
		name string
		// before happens at once, after one second later.
		before, after func(*fakeRaft, *leaderGate)
		want          time.Duration // how long a write is held
	}{
		{name: "a live leader: at once"},
		{
			name:   "a dead leader: until the next one leads",
			before: func(_ *fakeRaft, g *leaderGate) { g.sawDead(other) },
			after:  func(r *fakeRaft, _ *leaderGate) { r.elect(third, 8) },
			want:   time.Second,
		},
		{
			name:   "a dead leader: until this member leads",
			before: func(_ *fakeRaft, g *leaderGate) { g.sawDead(other) },
			after:  func(r *fakeRaft, _ *leaderGate) { r.elect(self, 8) },
			want:   time.Second,
		},
		{
			name:   "a dead leader: until it is known that there is none, raft waits by itself",
			before: func(_ *fakeRaft, g *leaderGate) { g.sawDead(other) },
			after:  func(r *fakeRaft, _ *leaderGate) { r.elect(0, 8) },
			want:   time.Second,
		},
		{
			name:   "nobody is ever elected: no longer than the limit",
			before: func(_ *fakeRaft, g *leaderGate) { g.sawDead(other) },
			want:   3 * time.Second,
		},
		{
			name:   "a dead follower: at once",
			before: func(_ *fakeRaft, g *leaderGate) { g.sawDead(third) },
		},
		{
			name:   "dead in an earlier term, leader in this one: at once",
			before: func(r *fakeRaft, g *leaderGate) { g.sawDead(other); r.elect(other, 8) },
		},
		{
			name:   "this member leads: at once, whatever was seen",
			before: func(r *fakeRaft, g *leaderGate) { r.elect(self, 8); g.sawDead(self) },
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				raft := &fakeRaft{lead: other, term: 7, notify: make(chan struct{})}
				g := newLeaderGate(self, raft, 3*time.Second, nil)
				if c.before != nil {
					c.before(raft, g)
				}
				if c.after != nil {
					time.AfterFunc(time.Second, func() { c.after(raft, g) })
				}
				began := time.Now()
				if err := g.wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				got := time.Since(began)
				if got < c.want || got > c.want+20*time.Millisecond {
					t.Errorf("held for %v, want %v", got, c.want)
				}
			})
		})
	}
}

func TestLeaderGateEndsWithItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raft := &fakeRaft{lead: 2, term: 7, notify: make(chan struct{})}
		g := newLeaderGate(1, raft, time.Hour, nil)
		g.sawDead(2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait = %v, want deadline exceeded", err)
		}
	})
}

func TestIsWrite(t *testing.T) {
	for method, want := range map[string]bool{
		"/etcdserverpb.KV/Put": true, "/etcdserverpb.KV/Txn": true, "/etcdserverpb.KV/DeleteRange": true,
		"/etcdserverpb.KV/Range": false, "/etcdserverpb.Lease/LeaseGrant": true, "/etcdserverpb.Maintenance/Status": false,
	} {
		if isWrite(method) != want {
			t.Errorf("isWrite(%s) = %v", method, !want)
		}
	}
}
