package dev

import (
	"os"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/exitcode"
)

func TestLogs(t *testing.T) {
	f := testFolder(t)
	l := f.Layout("m1")
	if err := l.MkdirAll(); err != nil {
		t.Fatal(err)
	}
	for unit, text := range map[string]string{
		"hactl-etcd":               "one\ntwo\nthree\nhalf a li",
		"podmaster@kube-scheduler": "scheduled\n",
	} {
		if err := os.WriteFile(l.LogFile(unit), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cases := []struct {
		proc  string
		lines int
		want  string
	}{
		{"etcd", 0, "one\ntwo\nthree\n"},
		{"hactl-etcd.service", 2, "two\nthree\n"},
		{"scheduler", 0, "scheduled\n"}, // in its podmaster's log
		{"", 1, "hactl-etcd | three\npodmaster@kube-scheduler | scheduled\n"},
	}
	for _, c := range cases {
		var b strings.Builder
		if err := f.Logs(t.Context(), &b, LogOptions{Host: "m1", Proc: c.proc, Lines: c.lines}); err != nil {
			t.Errorf("%q: %v", c.proc, err)
		}
		if b.String() != c.want {
			t.Errorf("%q, %d lines: got %q, want %q", c.proc, c.lines, b.String(), c.want)
		}
	}
	err := f.Logs(t.Context(), &strings.Builder{}, LogOptions{Host: "m1", Proc: "nginx"})
	if exitcode.Of(err) != exitcode.Usage || !strings.Contains(err.Error(), "hactl-etcd") {
		t.Errorf("no such log: %v", err)
	}
}

// A line is printed once it is whole, and a new file is read from its start.
func TestTailFollows(t *testing.T) {
	path := t.TempDir() + "/x.log"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var b strings.Builder
	tl := &tail{path: path}
	step := func(f func() error, want string) {
		t.Helper()
		b.Reset()
		if err := f(); err != nil || b.String() != want {
			t.Errorf("got %q, %v; want %q", b.String(), err, want)
		}
	}
	step(func() error { return tl.last(&b, 0) }, "")
	write("a\nb")
	step(func() error { return tl.more(&b) }, "a\n")
	write("a\nbc\nd\n")
	step(func() error { return tl.more(&b) }, "bc\nd\n")
	write("n\n") // rotated
	step(func() error { return tl.more(&b) }, "n\n")
}
