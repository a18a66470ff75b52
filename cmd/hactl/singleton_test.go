package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

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
	refuse := func(code int, want string, args ...string) (out, hint string) {
		t.Helper()
		out, err := run(args...)
		if exitcode.Of(err) != code || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v (code %d), want code %d and %q\n%s", args, err, exitcode.Of(err), code, want, out)
		}
		var coded *exitcode.Error
		if errors.As(err, &coded) {
			hint = coded.Hint
		}
		return out, hint
	}
	server := " --etcd-servers " + cluster.Endpoints()[0]
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
	if _, hint := refuse(exitcode.Refused, `no candidate "m9" waits for work, only m2`, "move", "--to", "m9", "work"); hint != "hactl singleton move work --to m2"+server {
		t.Errorf("hint %q", hint)
	}
	if _, hint := refuse(exitcode.Failed, "no singleton", "move", "none"); hint != "hactl singleton ls"+server {
		t.Errorf("hint %q", hint)
	}
	if out, _ := refuse(exitcode.Failed, `"none": no singleton`, "ls", "none", "work"); !strings.Contains(out, "\nwork ") {
		t.Errorf("what there is was not listed:\n%s", out)
	}
	refuse(exitcode.Refused, "terminal", "pause", "work")
	must("would stop work on m1", "pause", "--dry-run", "work")
	must("is paused", "pause", "--yes", "work")
	must("paused", "ls")
	if i := get(); i.Holder != "" || !i.Paused {
		t.Errorf("paused: %+v", i)
	}
	for _, args := range [][]string{{"move", "--dry-run", "work"}, {"move", "--to", "m2", "work"}} {
		if _, hint := refuse(exitcode.Refused, "work is paused", args...); hint != "hactl singleton resume work"+server {
			t.Errorf("hint %q", hint)
		}
	}
	if i := get(); !i.Paused || i.MoveTo != "" || i.Holder != "" {
		t.Errorf("a move changed the pause: %+v", i)
	}
	must("is held by", "resume", "work")
	must("is not paused", "resume", "work")
}

// A holder that died leaves its record as it was: that it is dead is told by its
// renewals, which do not move.
func TestSingletonWithADeadHolder(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	client, err := etcdlock.Dial(etcdlock.Config{Endpoints: cluster.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	take := func(name string, ttl time.Duration) *etcdlock.Lock {
		t.Helper()
		lock, err := client.Lock(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lock.Take(t.Context(), lease.Record{}, lease.Claim{ID: "dead", Holder: "d1", TTL: ttl}); err != nil {
			t.Fatal(err)
		}
		return lock
	}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &out, getenv: func(string) string { return "" }}
		args = append([]string{"hactl", "singleton", args[0], "--etcd-servers", cluster.Endpoints()[0]}, args[1:]...)
		err := newApp(e).RunContext(t.Context(), args)
		return out.String(), err
	}
	short := take("short", time.Second)
	if out, err := run("pause", "--yes", "short"); err != nil || !strings.Contains(out, "short is paused; its last holder d1 was not heard of for ") {
		t.Errorf("pause: %v\n%s", err, out)
	}
	if out, err := run("resume", "short"); err != nil || !strings.Contains(out, "not paused any more, but nobody waits for it; its last holder d1") {
		t.Errorf("resume: %v\n%s", err, out)
	}
	if rec, err := short.Read(t.Context()); err != nil || rec.Paused || rec.Ended {
		t.Errorf("after the resume: %+v, %v", rec, err)
	}
	// Not heard of yet is not dead.
	long := take("long", time.Hour)
	out, err := run("pause", "--yes", "--timeout=500ms", "long")
	if exitcode.Of(err) != exitcode.TimedOut || !strings.Contains(err.Error(), "the pause of long is set, but d1 still held it") {
		t.Errorf("pause: %v\n%s", err, out)
	}
	if rec, err := long.Read(t.Context()); err != nil || !rec.Paused {
		t.Errorf("%+v, %v", rec, err)
	}
	if out, err := run("resume", "--timeout=500ms", "long"); exitcode.Of(err) != exitcode.TimedOut || !strings.Contains(err.Error(), "long is not paused any more, but nobody was seen") {
		t.Errorf("resume: %v\n%s", err, out)
	}
}

func TestVital(t *testing.T) {
	const ttl = 3 * time.Second
	held := etcdlock.Info{Holder: "m1", Token: 5, Beat: 7, TTL: ttl, Delay: 2 * time.Second}
	beats, taken, ended := held, held, held
	beats.Beat, taken.Token, ended.Holder = 8, 9, ""
	for name, tc := range map[string]struct {
		i    etcdlock.Info
		at   time.Duration
		want life
	}{
		"it renewed":                      {beats, time.Hour, alive},
		"another one took it":             {taken, time.Hour, alive},
		"nobody holds it":                 {ended, time.Hour, unknown},
		"within its term":                 {held, ttl, unknown},
		"run out, but for the lock delay": {held, ttl + 2*time.Second, unknown},
		"run out":                         {held, 6 * time.Second, dead},
	} {
		var v vital
		if got := v.see(held, 0); got != unknown {
			t.Errorf("at first sight: %v", got)
		}
		if got := v.see(tc.i, tc.at); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// Every hint can be typed as it stands, in the place that the command was given.
func TestSingletonWithoutACluster(t *testing.T) {
	root := t.TempDir()
	e := &env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }}
	err := newApp(e).RunContext(t.Context(), []string{"hactl", "singleton", "ls", "--root", root, "work"})
	var coded *exitcode.Error
	if !errors.As(err, &coded) || coded.Code != exitcode.Usage || coded.Hint != "hactl singleton ls work --root "+root+" --etcd-servers URL" {
		t.Errorf("%v, hint %q", err, coded.Hint)
	}
	if got := quoted("it's"); got != `'it'\''s'` {
		t.Errorf("quoted: %s", got)
	}
}

func TestSingletonTable(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	err := printSingletons(&out, []etcdlock.Info{
		{Name: "a", Holder: "m1", Token: 7, Since: now.Add(-90 * time.Second), TTL: 3 * time.Second, Renewed: now, Waiting: []etcdlock.Candidate{{Name: "m2"}, {Name: "m3"}}},
		{Name: "b", Holder: "m1", Token: 8, Since: now, TTL: 3 * time.Second, Renewed: now.Add(-time.Minute)},
		{Name: "c", Token: 9, Paused: true, Last: "m3", Ended: "paused", MoveTo: "m2"},
		{Name: "d", Token: 9, Last: "m3"},
		{Name: "e", Token: 9, Last: "m3", Ended: "paused"},
	}, now)
	want := `NAME  HOLDER  TOKEN  SINCE  WAITING  NOTE
a     m1      7      1m30s  m2,m3    -
b     m1      8      0s     -        not renewed for 1m0s
c     -       9      -      -        paused; moves to m2; last held by m3
d     -       9      -      -        last held by m3
e     -       9      -      -        last held by m3, paused
`
	if err != nil || out.String() != want {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestMoveTarget(t *testing.T) {
	c := cli.NewContext(nil, flag.NewFlagSet("move", flag.ContinueOnError), nil)
	i := etcdlock.Info{Name: "k", Holder: "m1", Waiting: []etcdlock.Candidate{{Name: "m2"}, {Name: "m3"}}}
	for to, want := range map[string]string{"": "m2", "m3": "m3", "m1": "m1"} {
		if got, err := moveTarget(c, i, to); err != nil || got != want {
			t.Errorf("to %q: %q, %v", to, got, err)
		}
	}
	var e *exitcode.Error
	if _, err := moveTarget(c, etcdlock.Info{Name: "k"}, ""); !errors.As(err, &e) || e.Code != exitcode.Refused {
		t.Errorf("nobody waits: %v", err)
	}
}
