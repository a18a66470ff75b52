package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/testwait"
)

// etcdTestMaster is a master's files around a real etcd cluster of three.
func etcdTestMaster(t *testing.T) (*etcdtest.Cluster, layout.Layout) {
	t.Helper()
	c := etcdtest.Start(t, 3, etcdtest.Options{TLS: true})
	l := layout.Layout{Root: t.TempDir()}
	if err := l.MkdirAll(); err != nil {
		t.Fatal(err)
	}
	conf := config.Default()
	conf.Name = "prod"
	for _, m := range c.Members {
		conf.Masters = append(conf.Masters, config.Master{Name: m.Name, Address: m.Address})
	}
	text, err := config.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	files := etcdcluster.ClientFiles(l)
	if err := os.MkdirAll(filepath.Dir(files.CA), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(path string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(l.ConfigFile(), text)
	from := c.TLSFiles()
	for src, dst := range map[string]string{from.CA: files.CA, from.Cert: files.Cert, from.Key: files.Key} {
		data, err := os.ReadFile(src)
		if err != nil {
			t.Fatal(err)
		}
		write(dst, data)
	}
	return c, l
}

// hactl runs a command line and returns what it printed.
func hactl(t *testing.T, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	e := &env{stdin: strings.NewReader(stdin), stdout: &out, stderr: &errOut, getenv: func(string) string { return "" }}
	app := newApp(e)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	err = app.RunContext(ctx, flagsFirst(app, append([]string{"hactl"}, args...)))
	exitcode.Print(&errOut, "hactl", err)
	return out.String(), errOut.String(), err
}

func TestEtcdCommands(t *testing.T) {
	c, l := etcdTestMaster(t)
	root := "--root=" + l.Root
	run := func(code int, args ...string) (string, string) {
		t.Helper()
		out, errOut, err := hactl(t, "", append(args, root)...)
		if exitcode.Of(err) != code {
			t.Fatalf("hactl %v: exit code %d, want %d\n%s%s", args, exitcode.Of(err), code, out, errOut)
		}
		return out, errOut
	}
	contains := func(what, text string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s lacks %q:\n%s", what, w, text)
			}
		}
	}

	leader := c.Leader()
	out, errOut := run(0, "etcd", "member", "list")
	contains("member list", out, "NAME", "m1", "m2", "m3", "leader", "voter", c.Members[2].Endpoint())
	if errOut != "" {
		t.Errorf("member list says %q", errOut)
	}
	out, _ = run(0, "etcd", "member", "ls", "-o", "json")
	var list etcdMembersJSON
	if err := json.Unmarshal([]byte(out), &list); err != nil || !list.Quorum || list.Leader != leader.Name || len(list.Members) != 3 || list.Members[0].IDText == "" {
		t.Errorf("member list -o json: %+v, %v\n%s", list, err, out)
	}

	// Refusals say what would be safe.
	_, errOut = run(exitcode.Refused, "etcd", "member", "add", "m2")
	contains("add of a member", errOut, "a member with this peer URL exists", "try: ")
	_, errOut = run(0, "etcd", "member", "promote", "m2", "--timeout=1m")
	contains("promote of a voter, as again after an interruption", errOut, "m2 votes")
	_, errOut = run(exitcode.Refused, "etcd", "member", "remove", "m2")
	contains("remove without a terminal", errOut, "remove m2", "--yes")
	_, errOut = run(exitcode.Usage, "etcd", "member", "remove", "m9", "--yes")
	contains("remove of nobody", errOut, `no such member: "m9"`, "hactl etcd member list")
	_, errOut = run(exitcode.Usage, "etcd", "member", "add", "m9")
	contains("add of nobody", errOut, "one of m1, m2, m3")
	_, errOut = run(exitcode.Usage, "etcd", "member", "remove")
	contains("remove without a name", errOut, "want 1 arguments, got 0")
	_, errOut = run(exitcode.Usage, "etcd", "member", "list", "-o", "yaml")
	contains("a wrong output", errOut, "want table or json")
	_, errOut = run(exitcode.Refused, "etcd", "member", "replace", "m2", "--yes")
	contains("replace of one that runs", errOut, "it runs and answers")

	_, errOut = run(0, "etcd", "member", "remove", "m2", "--dry-run")
	contains("remove --dry-run", errOut, "remove m2", "dry run: nothing was changed")
	_, errOut = run(0, "etcd", "defrag", "--dry-run")
	contains("defrag --dry-run", errOut, "m1", "dry run")
	if lines := strings.Split(strings.TrimSpace(errOut), "\n"); !strings.HasPrefix(lines[2], leader.Name) {
		t.Errorf("the leader %s is not last:\n%s", leader.Name, errOut)
	}
	_, errOut = run(0, "etcd", "defrag")
	contains("defrag", errOut, "m1: ", "m2: ", "m3: ", "became")

	_, errOut = run(0, "etcd", "move-leader", leader.Name)
	contains("move-leader", errOut, leader.Name+" leads")
	run(0, "etcd", "move-leader")
	if c.Leader() == leader {
		t.Error("move-leader without a name moved nothing")
	}
	run(exitcode.Usage, "etcd", "move-leader", "m1", "m2")

	_, errOut = run(0, "etcd", "alarm", "list")
	contains("alarm list", errOut, "no alarms")
	if out, _ := run(0, "etcd", "alarm", "list", "-o", "json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("alarm list -o json: %q", out)
	}
	run(0, "etcd", "alarm", "disarm")
	run(exitcode.Refused, "etcd", "alarm", "repair")
	run(0, "etcd", "alarm", "repair", "--yes")

	file := filepath.Join(t.TempDir(), "snapshot")
	out, _ = run(0, "etcd", "snapshot", "save", file, "-o", "json")
	var s etcdcluster.Snapshot
	if err := json.Unmarshal([]byte(out), &s); err != nil || s.File != file || s.Revision == 0 {
		t.Errorf("snapshot save: %v\n%s", err, out)
	}
	_, errOut = run(exitcode.Refused, "etcd", "snapshot", "save", file)
	contains("snapshot over a file", errOut, fs.ErrExist.Error(), "another file name")

	// One down: it may go, the others may not. Without a quorum nothing may.
	down := c.Follower()
	down.Kill()
	out, _ = run(0, "etcd", "member", "list")
	contains("member list with one down", out, "connection refused")
	other := c.Follower()
	_, errOut = run(exitcode.Refused, "etcd", "member", "remove", other.Name, "--yes")
	contains("remove of a well one", errOut, "would be well, and a quorum is 2", "remove the members that are down first")
	_, errOut = run(exitcode.Refused, "etcd", "defrag")
	contains("defrag with one down", errOut, "does not answer")
	_, errOut = run(0, "etcd", "member", "remove", down.Name, "--yes")
	contains("remove of the dead", errOut, "is no member any more")

	other.Kill()
	left := c.Running()[0]
	testwait.For(t, "the last member to see no leader", 2*time.Minute, func() error {
		_, errOut, err := hactl(t, "", "etcd", "member", "remove", left.Name, "--yes", root)
		if exitcode.Of(err) != exitcode.Refused || !strings.Contains(errOut, "voters are well") {
			return err
		}
		return nil
	})
	left.Kill()
	_, errOut = run(exitcode.Unreachable, "etcd", "member", "list")
	contains("with all down", errOut, "no etcd member answers", "hactl status")
}

func TestEtcdRunRefuses(t *testing.T) {
	_, l := etcdTestMaster(t)
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no name":       {[]string{"--root", l.Root}, exitcode.Usage, "--name is missing"},
		"unknown name":  {[]string{"--root", l.Root, "--name", "m9"}, exitcode.Usage, "one of m1, m2, m3"},
		"an argument":   {[]string{"--root", l.Root, "m1"}, exitcode.Usage, `unexpected argument "m1"`},
		"no config":     {[]string{"--root", t.TempDir(), "--name", "m1"}, exitcode.Usage, "cluster.yaml"},
		"a wrong level": {[]string{"--root", l.Root, "--name", "m1", "--log-level", "loud"}, exitcode.Usage, "loud"},
		"never told":    {[]string{"--root", l.Root, "--name", "m1"}, exitcode.Refused, "hactl bootstrap founds a cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			_, errOut, err := hactl(t, "", append([]string{"etcd", "run"}, tt.args...)...)
			if exitcode.Of(err) != tt.code || !strings.Contains(errOut, tt.want) {
				t.Errorf("exit code %d, want %d; said %q, want %q", exitcode.Of(err), tt.code, errOut, tt.want)
			}
		})
	}
}
