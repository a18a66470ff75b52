package leasetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease"
)

// Orders are what people write; a Lock that is given to Suite has them.
type Orders struct {
	Pause, Unpause, Delete func()
	Move                   func(to string)
}

// Suite holds a lease.Lock to its contract. fresh returns a lock that was never
// taken, and the orders for it.
func Suite(t *testing.T, fresh func(t *testing.T) (lease.Lock, Orders)) {
	for name, test := range map[string]func(*testing.T, lease.Lock, Orders){
		"take once":               takeOnce,
		"renew and lose":          renewAndLose,
		"release":                 release,
		"take over":               takeOver,
		"a beat defeats a take":   beatDefeatsTake,
		"an order defeats a take": orderDefeatsTake,
		"orders":                  orders,
		"watch":                   watch,
		"watch ends with ctx":     watchEnds,
		"ended context":           endedContext,
	} {
		t.Run(name, func(t *testing.T) {
			l, o := fresh(t)
			test(t, l, o)
		})
	}
}

var (
	claimA = lease.Claim{ID: "id-a", Holder: "a", Address: "10.0.0.1", Priority: 3, TTL: 3 * time.Second, LockDelay: time.Second}
	claimB = lease.Claim{ID: "id-b", Holder: "b", TTL: 2 * time.Second}
)

func read(t *testing.T, l lease.Lock) lease.Record {
	t.Helper()
	rec, err := l.Read(t.Context())
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return rec
}

func take(t *testing.T, l lease.Lock, c lease.Claim) lease.Held {
	t.Helper()
	held, err := l.Take(t.Context(), read(t, l), c)
	if err != nil {
		t.Fatalf("take for %s: %v", c.Holder, err)
	}
	return held
}

func mustRenew(t *testing.T, h lease.Held) {
	t.Helper()
	if err := h.Renew(t.Context()); err != nil {
		t.Fatalf("renew: %v", err)
	}
}

func takeOnce(t *testing.T, l lease.Lock, _ Orders) {
	empty := read(t, l)
	if empty.Token != 0 || empty.Beat != 0 || empty.Order != 0 || empty.Ended {
		t.Fatalf("a fresh lock reads %+v", empty)
	}
	held := take(t, l, claimA)
	rec := read(t, l)
	if rec.Token != held.Token() || rec.Claim != claimA || rec.Ended || rec.Rev < rec.Token || rec.Beat == 0 {
		t.Fatalf("after the take of %d: %+v", held.Token(), rec)
	}
	if _, err := l.Take(t.Context(), empty, claimB); !errors.Is(err, lease.ErrChanged) {
		t.Fatalf("a second take: %v", err)
	}
	if rec2 := read(t, l); rec2.Token != rec.Token || rec2.Holder != "a" {
		t.Fatalf("the second take changed %+v", rec2)
	}
}

func renewAndLose(t *testing.T, l lease.Lock, o Orders) {
	held := take(t, l, claimA)
	before := read(t, l)
	mustRenew(t, held)
	after := read(t, l)
	if after.Beat <= before.Beat || after.Token != before.Token {
		t.Fatalf("a renewal: %+v after %+v", after, before)
	}
	o.Delete()
	if err := held.Renew(t.Context()); !errors.Is(err, lease.ErrLost) {
		t.Fatalf("renewal of a deleted term: %v", err)
	}
	if rec := read(t, l); rec.Token != 0 {
		t.Fatalf("a refused renewal wrote %+v", rec)
	}
}

func release(t *testing.T, l lease.Lock, _ Orders) {
	held := take(t, l, claimA)
	want := lease.Release{Next: "b", Reason: "test"}
	for range 2 { // the second one finds nothing to do
		if err := held.Release(t.Context(), want); err != nil {
			t.Fatal(err)
		}
	}
	rec := read(t, l)
	if !rec.Ended || rec.Release != want || rec.Holder != "a" {
		t.Fatalf("after the release: %+v", rec)
	}
	if err := held.Renew(t.Context()); !errors.Is(err, lease.ErrLost) {
		t.Fatalf("renewal after the release: %v", err)
	}
	second := take(t, l, claimB)
	if second.Token() <= held.Token() {
		t.Fatalf("token %d after %d", second.Token(), held.Token())
	}
	if err := held.Release(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if rec := read(t, l); rec.Ended || rec.Token != second.Token() {
		t.Fatalf("the first holder's late release ended the second's term: %+v", rec)
	}
}

func takeOver(t *testing.T, l lease.Lock, _ Orders) {
	first := take(t, l, claimA)
	mustRenew(t, first)
	second := take(t, l, claimB) // how long to wait before is the caller's matter
	if second.Token() <= first.Token() {
		t.Fatalf("token %d after %d", second.Token(), first.Token())
	}
	if err := first.Renew(t.Context()); !errors.Is(err, lease.ErrLost) {
		t.Fatalf("the first holder's renewal: %v", err)
	}
	mustRenew(t, second)
}

func beatDefeatsTake(t *testing.T, l lease.Lock, _ Orders) {
	first := take(t, l, claimA)
	seen := read(t, l)
	mustRenew(t, first)
	if _, err := l.Take(t.Context(), seen, claimB); !errors.Is(err, lease.ErrChanged) {
		t.Fatalf("a take that missed a renewal: %v", err)
	}
	mustRenew(t, first)
}

func orderDefeatsTake(t *testing.T, l lease.Lock, o Orders) {
	seen := read(t, l)
	o.Pause()
	if _, err := l.Take(t.Context(), seen, claimA); !errors.Is(err, lease.ErrChanged) {
		t.Fatalf("a take that missed an order: %v", err)
	}
}

func orders(t *testing.T, l lease.Lock, o Orders) {
	o.Pause()
	if rec := read(t, l); !rec.Paused || rec.Order == 0 {
		t.Fatalf("paused: %+v", rec)
	}
	o.Unpause()
	if rec := read(t, l); rec.Paused || rec.Order != 0 {
		t.Fatalf("not paused: %+v", rec)
	}
	o.Move("b")
	if rec := read(t, l); rec.MoveTo != "b" || rec.Order == 0 {
		t.Fatalf("moved: %+v", rec)
	}
	held := take(t, l, claimB)
	if rec := read(t, l); rec.MoveTo != "" || rec.Order != 0 {
		t.Fatalf("the order outlived the take: %+v", rec)
	}
	o.Move("a")
	if err := held.Release(t.Context(), lease.Release{Next: "a"}); err != nil {
		t.Fatal(err)
	}
	if rec := read(t, l); rec.MoveTo != "" || rec.Next != "a" {
		t.Fatalf("the order outlived the hand-over: %+v", rec)
	}
	held = take(t, l, claimA)
	o.Pause()
	if err := held.Release(t.Context(), lease.Release{Reason: "paused"}); err != nil {
		t.Fatal(err)
	}
	if rec := read(t, l); !rec.Paused {
		t.Fatalf("the release lifted the pause: %+v", rec)
	}
}

func watch(t *testing.T, l lease.Lock, o Orders) {
	start := read(t, l)
	changes := l.Watch(t.Context(), start)
	next := func(what string, good func(lease.Record) bool) lease.Record {
		t.Helper()
		for timeout := time.After(20 * time.Second); ; {
			select {
			case rec, ok := <-changes:
				if !ok {
					t.Fatalf("%s: the watch ended", what)
				}
				if good(rec) {
					return rec
				}
			case <-timeout:
				t.Fatalf("%s: not seen", what)
			}
		}
	}
	held := take(t, l, claimA)
	first := next("the take", func(r lease.Record) bool { return r.Token == held.Token() && r.Claim == claimA })
	mustRenew(t, held)
	next("the renewal", func(r lease.Record) bool { return r.Beat > first.Beat && r.Rev > first.Rev })
	o.Move("b")
	next("the order", func(r lease.Record) bool { return r.MoveTo == "b" && r.Holder == "a" })
	if err := held.Release(t.Context(), lease.Release{Next: "b"}); err != nil {
		t.Fatal(err)
	}
	next("the release", func(r lease.Record) bool { return r.Ended && r.Next == "b" && r.MoveTo == "" })
	o.Delete()
	last := next("the deletion", func(r lease.Record) bool { return r.Token == 0 })
	if now := read(t, l); now.Token != last.Token || now.Beat != last.Beat || now.Order != last.Order {
		t.Fatalf("watched %+v, read %+v", last, now)
	}
}

func watchEnds(t *testing.T, l lease.Lock, _ Orders) {
	ctx, cancel := context.WithCancel(t.Context())
	changes := l.Watch(ctx, read(t, l))
	cancel()
	for range changes {
		continue // drained: the test hangs if the channel is not closed
	}
}

func endedContext(t *testing.T, l lease.Lock, _ Orders) {
	held := take(t, l, claimA)
	rec := read(t, l)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Read(ctx); err == nil {
		t.Error("read: no error")
	}
	if _, err := l.Take(ctx, rec, claimB); err == nil || errors.Is(err, lease.ErrChanged) {
		t.Errorf("take: %v", err)
	}
	if err := held.Renew(ctx); err == nil || errors.Is(err, lease.ErrLost) {
		t.Errorf("renew: %v", err)
	}
	if err := held.Release(ctx, lease.Release{}); err == nil {
		t.Error("release: no error")
	}
}
