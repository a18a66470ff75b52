package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/lease"
)

func leaseID(id int64) clientv3.LeaseID { return clientv3.LeaseID(id) }

func claim(holder string) lease.Claim {
	return lease.Claim{ID: holder, Holder: holder, TTL: 3 * time.Second}
}

// op is one call of the lock, as porcupine sees it.
type op struct {
	kind  string // read, take, renew, release
	seen  lease.Record
	token int64
}

type outcome struct {
	rec     lease.Record
	token   int64
	ok      bool
	unknown bool // no answer: it may have happened, now or later
}

// state is the lock's: the guard of the next take, and the standing term.
type state struct {
	token int64 // of the last take; 0: none
	ended bool
}

// model is the lock as one machine without failures would be. Beats are left out:
// a take may fail for one that came between.
var model = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(st, in, out any) (bool, any) {
		s, o, r := st.(state), in.(op), out.(outcome)
		stands := func(token int64) bool { return s.token == token && !s.ended }
		switch o.kind {
		case "read":
			if r.unknown {
				return true, s
			}
			free := r.rec.Token == 0 || r.rec.Ended
			return free == (s.token == 0 || s.ended) && (free || r.rec.Token == s.token), s
		case "take":
			if r.ok { // tokens only grow
				return r.token > s.token, state{token: r.token}
			}
			return true, s
		case "renew":
			return r.unknown || r.ok == stands(o.token), s
		default:
			if stands(o.token) && (r.ok || r.unknown) {
				s.ended = true
			}
			return true, s
		}
	},
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(in, out any) string {
		return fmt.Sprintf("%+v → %+v", in, out)
	},
}

// Five clients take, renew, release and read, with a member killed meanwhile; the
// history must be that of one lock.
func TestHistoryIsLinearizable(t *testing.T) {
	cluster := etcdtest.StartProcesses(t, 3, etcdtest.Options{})
	var (
		mu      sync.Mutex
		history []porcupine.Operation
		unsure  []porcupine.Operation // takes without an answer
		wg      sync.WaitGroup
	)
	start := time.Now()
	call := func(client int, o op, f func(ctx context.Context) outcome) outcome {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		begin := time.Since(start)
		r := f(ctx)
		end := time.Since(start)
		mu.Lock()
		defer mu.Unlock()
		if r.unknown {
			end = time.Hour
			if o.kind == "take" { // whether it happened, a later read tells: see settle
				unsure = append(unsure, porcupine.Operation{ClientId: client, Input: o, Call: int64(begin), Return: int64(end)})
				return r
			}
		}
		history = append(history, porcupine.Operation{ClientId: client, Input: o, Call: int64(begin), Output: r, Return: int64(end)})
		return r
	}
	for id := range 5 {
		c := dial(t, cluster)
		l, err := c.Lock("history")
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { client(id, l, call) })
	}
	leader := cluster.Leader()
	leader.Kill()
	wg.Wait()
	leader.Restart()
	mu.Lock()
	defer mu.Unlock()
	history = settle(history, unsure)
	takes := 0
	for _, o := range history {
		if o.Input.(op).kind == "take" && o.Output.(outcome).ok {
			takes++
		}
	}
	t.Logf("%d operations, %d terms", len(history), takes)
	if takes == 0 {
		t.Error("nobody ever took the lock: the history says nothing")
	}
	if res := porcupine.CheckOperationsTimeout(model, history, time.Minute); res != porcupine.Ok {
		t.Errorf("the history is not that of one lock: %v", res)
	}
}

// settle adds the takes without an answer whose claim somebody read later.
func settle(history, unsure []porcupine.Operation) []porcupine.Operation {
	known := map[int64]bool{0: true}
	for _, o := range history {
		if r := o.Output.(outcome); o.Input.(op).kind == "take" && r.ok {
			known[r.token] = true
		}
	}
	for _, o := range history {
		r := o.Output.(outcome)
		if o.Input.(op).kind != "read" || r.rec.Ended || known[r.rec.Token] {
			continue
		}
		for _, u := range unsure {
			if r.rec.Holder == fmt.Sprintf("c%d", u.ClientId) && u.Call < o.Return && !known[r.rec.Token] {
				known[r.rec.Token] = true
				u.Output = outcome{ok: true, token: r.rec.Token}
				// It is a client of its own: the real one went on meanwhile.
				u.ClientId = 100 + len(history)
				history = append(history, u)
			}
		}
	}
	return history
}

func client(id int, l *Lock, call func(int, op, func(context.Context) outcome) outcome) {
	for range 25 {
		r := call(id, op{kind: "read"}, func(ctx context.Context) outcome {
			rec, err := l.Read(ctx)
			return outcome{rec: rec, unknown: err != nil}
		})
		if r.unknown || (r.rec.Token != 0 && !r.rec.Ended) {
			continue
		}
		var held lease.Held
		took := call(id, op{kind: "take", seen: r.rec}, func(ctx context.Context) outcome {
			h, err := l.Take(ctx, r.rec, claim(fmt.Sprintf("c%d", id)))
			if err != nil {
				return outcome{unknown: !errors.Is(err, lease.ErrChanged)}
			}
			held = h
			return outcome{ok: true, token: h.Token()}
		})
		if !took.ok {
			continue
		}
		for range 2 {
			call(id, op{kind: "renew", token: took.token}, func(ctx context.Context) outcome {
				err := held.Renew(ctx)
				return outcome{ok: err == nil, unknown: err != nil && !errors.Is(err, lease.ErrLost)}
			})
		}
		call(id, op{kind: "release", token: took.token}, func(ctx context.Context) outcome {
			err := held.Release(ctx, lease.Release{Reason: "test"})
			return outcome{ok: err == nil, unknown: err != nil}
		})
	}
}
