package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
)

func TestSingletonCommands(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	client, err := etcdlock.Dial(etcdlock.Config{Endpoints: cluster.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	defer func() { cancel(); <-ended; <-ended }()
	for _, name := range []string{"m1", "m2"} {
		lock, err := client.Lock("work")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lock.Enlist(t.Context(), etcdlock.Candidate{Name: name, ID: name}, nil); err != nil {
			t.Fatal(err)
		}
		e, err := lease.New(lease.Config{Lock: lock, Holder: name})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			ended <- e.Run(ctx, func(ctx context.Context, _ *lease.Term) error { <-ctx.Done(); return nil })
		}()
	}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &out, getenv: func(string) string { return "" }}
		args = append([]string{"hactl", "singleton", args[0], "--etcd-servers", cluster.Endpoints()[0]}, args[1:]...)
		err := newApp(e).RunContext(t.Context(), args)
		return out.String(), err
	}
	must := func(want string, args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil || !strings.Contains(out, want) {
			t.Fatalf("%v: %v, want %q:\n%s", args, err, want, out)
		}
		return out
	}
	refuse := func(code int, want string, args ...string) {
		t.Helper()
		out, err := run(args...)
		if exitcode.Of(err) != code || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v (code %d), want code %d and %q\n%s", args, err, exitcode.Of(err), code, want, out)
		}
	}
	get := func() etcdlock.Info {
		t.Helper()
		var doc struct{ Singletons []etcdlock.Info }
		if err := json.Unmarshal([]byte(must("singletons", "ls", "-o", "json", "work")), &doc); err != nil || len(doc.Singletons) != 1 {
			t.Fatalf("json: %+v, %v", doc, err)
		}
		return doc.Singletons[0]
	}
	must("", "move", "--to", "m2", "work") // it may have it already
	if i := get(); i.Holder != "m2" || len(i.Waiting) != 1 || i.Waiting[0].Name != "m1" {
		t.Errorf("after the move: %+v", i)
	}
	must("would move work from m2 to m1", "move", "--dry-run", "work")
	must("is held by m1", "move", "work")
	must("already holds", "move", "--to", "m1", "work")
	refuse(exitcode.Refused, "no candidate", "move", "--to", "m9", "work")
	refuse(exitcode.Failed, "no singleton", "move", "none")
	refuse(exitcode.Refused, "terminal", "pause", "work")
	must("would stop work on m1", "pause", "--dry-run", "work")
	must("is paused", "pause", "--yes", "work")
	must("paused", "ls")
	if i := get(); i.Holder != "" || !i.Paused {
		t.Errorf("paused: %+v", i)
	}
	must("is held by", "resume", "work")
	must("is not paused", "resume", "work")
}

func TestSingletonTable(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	err := printSingletons(&out, []etcdlock.Info{
		{Name: "a", Holder: "m1", Token: 7, Since: now.Add(-90 * time.Second), TTL: 3 * time.Second, Renewed: now, Waiting: []etcdlock.Candidate{{Name: "m2"}, {Name: "m3"}}},
		{Name: "b", Holder: "m1", Token: 8, Since: now, TTL: 3 * time.Second, Renewed: now.Add(-time.Minute)},
		{Name: "c", Token: 9, Paused: true, Last: "m3", Ended: "paused", MoveTo: "m2"},
	}, now)
	want := `NAME  HOLDER  TOKEN  SINCE  WAITING  NOTE
a     m1      7      1m30s  m2,m3    -
b     m1      8      0s     -        not renewed for 1m0s
c     -       9      -      -        paused; moves to m2; last held by m3, paused
`
	if err != nil || out.String() != want {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestMoveTarget(t *testing.T) {
	i := etcdlock.Info{Name: "k", Holder: "m1", Waiting: []etcdlock.Candidate{{Name: "m2"}, {Name: "m3"}}}
	for to, want := range map[string]string{"": "m2", "m3": "m3", "m1": "m1"} {
		if got, err := moveTarget(i, to); err != nil || got != want {
			t.Errorf("to %q: %q, %v", to, got, err)
		}
	}
	var e *exitcode.Error
	if _, err := moveTarget(etcdlock.Info{Name: "k"}, ""); !errors.As(err, &e) || e.Code != exitcode.Refused {
		t.Errorf("nobody waits: %v", err)
	}
}
