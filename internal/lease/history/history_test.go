package history

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/leasetest"
)

// tick is a clock that goes on by a second with each look.
type tick struct {
	lease.Clock
	now time.Duration
}

func (c *tick) Now() time.Duration { c.now += time.Second; return c.now }

// silent is a Lock whose renewals are never answered.
type silent struct{ lease.Lock }

func (s silent) Take(ctx context.Context, seen lease.Record, c lease.Claim) (lease.Held, error) {
	h, err := s.Lock.Take(ctx, seen, c)
	return mute{h}, err
}

type mute struct{ lease.Held }

func (mute) Renew(context.Context) error { return context.DeadlineExceeded }

func TestRecorderWritesEveryCall(t *testing.T) {
	file := filepath.Join(t.TempDir(), "h")
	out, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	r := New(Config{Who: "m1", Out: out, Clock: &tick{}})
	l := r.Lock(silent{&leasetest.Memory{}})
	ctx := t.Context()
	rec, err := l.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	h, err := l.Take(ctx, rec, lease.Claim{ID: "x", Holder: "m1", TTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Take(ctx, rec, lease.Claim{ID: "y", Holder: "m1", TTL: time.Second}); !errors.Is(err, lease.ErrChanged) {
		t.Fatalf("take on an old record: %v", err)
	}
	if err := h.Renew(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("renew: %v", err)
	}
	if err := h.Release(ctx, lease.Release{}); err != nil {
		t.Fatal(err)
	}
	if err := r.Note(Deleted, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	tail := Tail{Name: file}
	ops, err := tail.Next()
	if err != nil {
		t.Fatal(err)
	}
	want := []Op{
		{Kind: Read, Answer: OK},
		{Kind: Take, Answer: OK, ID: "x", Token: h.Token()},
		{Kind: Take, Answer: Changed, ID: "y"},
		{Kind: Renew, Answer: Unknown, Token: h.Token()},
		{Kind: Release, Answer: OK, Token: h.Token()},
		{Kind: Deleted, Answer: OK},
	}
	if len(ops) != len(want) {
		t.Fatalf("%+v", ops)
	}
	for i, w := range want {
		g := ops[i]
		if g.Kind != w.Kind || g.Answer != w.Answer || g.ID != w.ID || g.Token != w.Token || g.N != int64(i+1) || g.Who != "m1" || g.Run == "" ||
			g.Call != time.Duration(2*i+1)*time.Second || g.Return != g.Call+time.Second {
			t.Errorf("%d: %+v, want %+v", i, g, w)
		}
	}
	if !strings.Contains(ops[3].Err, "deadline") {
		t.Errorf("why the renewal failed: %q", ops[3].Err)
	}
}

// A file is read while it grows, and a call whose caller was killed stays open.
func TestTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "h")
	tail := Tail{Name: file, Ahead: 10 * time.Second}
	if ops, err := tail.Next(); err != nil || len(ops) != 0 {
		t.Fatalf("no file yet: %v, %v", ops, err)
	}
	add := func(text string) {
		t.Helper()
		f, err := Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	call := Op{Who: "m1", Run: "r", N: 1, Kind: Renew, Call: 11 * time.Second, Return: 12 * time.Second, Token: 5, Answer: OK}
	killed := Op{Who: "m1", Run: "r", N: 2, Kind: Renew, Call: 13 * time.Second, Token: 5}
	begin, end := call.ends()
	open, _ := killed.ends()
	text := string(end.encode())
	add(string(begin.encode()) + string(open.encode()) + text[:10])
	if ops, err := tail.Next(); err != nil || len(ops) != 0 || len(tail.Open()) != 2 {
		t.Fatalf("in the middle of a line: %v, %v, open %v", ops, err, tail.Open())
	}
	add(text[10:])
	ops, err := tail.Next()
	if err != nil || len(ops) != 1 || ops[0].Call != time.Second || ops[0].Return != 2*time.Second || ops[0].Token != 5 || ops[0].Answer != OK {
		t.Fatalf("%+v, %v", ops, err)
	}
	if open := tail.Open(); len(open) != 1 || open[0].N != 2 || open[0].Call != 3*time.Second || open[0].Answer != Unknown {
		t.Errorf("open: %+v", open)
	}
	add("not a line\n")
	if _, err := tail.Next(); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a broken line: %v", err)
	}
}

// full is a disk without space.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestFullDiskHoldsUpNoCall(t *testing.T) {
	l := New(Config{Who: "m1", Out: full{}}).Lock(&leasetest.Memory{})
	if _, err := l.Read(t.Context()); err != nil {
		t.Error(err)
	}
}
