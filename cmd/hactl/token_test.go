package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/token"
)

// tokenMaster is a master with etcd, on which token commands are typed.
type tokenMaster struct {
	*testing.T
	layout layout.Layout
	etcd   *etcdtest.Cluster
	orders *token.Store
}

func newTokenMaster(t *testing.T) *tokenMaster {
	t.Helper()
	m := &tokenMaster{T: t, layout: layout.Layout{Root: t.TempDir()}, etcd: etcdtest.Start(t, 1, etcdtest.Options{})}
	c := config.Default()
	c.Name, c.Masters = "prod", []config.Master{{Name: "m1", Address: "10.0.0.1"}, {Name: "m2", Address: "10.0.0.2"}, {Name: "m3", Address: "10.0.0.3"}}
	text, err := config.Marshal(c)
	m.ok(err)
	m.ok(m.layout.MkdirAll())
	m.ok(os.WriteFile(m.layout.ConfigFile(), text, 0o644))
	store, err := pki.New(pki.Config{Dir: m.layout.PKI()})
	m.ok(err)
	_, err = store.EnsureGossipKey()
	m.ok(err)
	key, err := store.ReadGossipKey()
	m.ok(err)
	m.orders, err = token.New(m.etcd.Client(), key, "prod")
	m.ok(err)
	return m
}

func (m *tokenMaster) ok(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *tokenMaster) run(args ...string) (stdout, stderr string, err error) {
	var out, talk bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &talk, getenv: func(string) string { return "" }}
	args = append([]string{"hactl", "token", args[0], "--root", m.layout.Root, "--etcd-servers", m.etcd.Endpoints()[0]}, args[1:]...)
	err = newApp(e).RunContext(m.Context(), args)
	return out.String(), talk.String(), err
}

func (m *tokenMaster) must(want string, args ...string) {
	m.Helper()
	out, talk, err := m.run(args...)
	if err != nil || !strings.Contains(out+talk, want) || strings.Contains(out+talk, "hactl1.") {
		m.Fatalf("token %v: %v, want %q and no token:\n%s%s", args, err, want, out, talk)
	}
}

func (m *tokenMaster) refuse(code int, want string, args ...string) {
	m.Helper()
	_, _, err := m.run(args...)
	if exitcode.Of(err) != code || !strings.Contains(err.Error(), want) {
		m.Errorf("token %v: %v (code %d), want code %d and %q", args, err, exitcode.Of(err), code, want)
	}
}

// ls is the one row of `token ls -o json`.
func (m *tokenMaster) ls() tokenRow {
	m.Helper()
	out, _, err := m.run("ls", "-o", "json", "--timeout", "3s")
	m.ok(err)
	var r tokenReport
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Tokens) != 1 || strings.Contains(out, "hactl1.") {
		m.Fatalf("%v:\n%s", err, out)
	}
	return r.Tokens[0]
}

func (m *tokenMaster) file() string {
	m.Helper()
	text, err := pki.ReadToken(m.layout.TokenFile())
	m.ok(err)
	return text
}

func TestTokenCommands(t *testing.T) {
	m := newTokenMaster(t)
	if r := m.ls(); r.Status != tokenMissing || !r.Confirmed || r.Problem != "" {
		t.Errorf("before there is one: %+v", r)
	}
	m.must("would give all 3 masters a new token, good until", "rotate", "--dry-run")
	if r := m.ls(); r.Status != tokenMissing {
		t.Errorf("after a dry run: %+v", r)
	}

	m.must("the token is now", "rotate", "--ttl", "2h")
	first := m.file()
	if fi, err := os.Stat(m.layout.TokenFile()); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the token file: %v, %v", fi, err)
	}
	print, err := pki.TokenFingerprint(first)
	m.ok(err)
	r := m.ls()
	if r.Status != tokenValid || !r.Confirmed || r.Fingerprint != print || r.Until == nil {
		t.Errorf("rotated: %+v", r)
	} else if left := time.Until(*r.Until); left > 2*time.Hour || left < time.Hour {
		t.Errorf("it is good for %v, want 2h", left)
	}
	m.must(print, "ls")

	m.must("without an end", "rotate", "--ttl", "0")
	m.ok(m.orders.Good(t.Context(), m.file()))
	if r := m.ls(); r.Until != nil || r.Status != tokenValid {
		t.Errorf("without an end: %+v", r)
	}
	// A master that did not hear of it has a token that is worth nothing.
	m.ok(os.WriteFile(m.layout.TokenFile(), []byte(first+"\n"), 0o600))
	if r := m.ls(); r.Status != tokenReplaced || !r.Confirmed || !strings.Contains(r.Problem, "replaced on") {
		t.Errorf("an old one: %+v", r)
	}

	m.refuse(exitcode.Refused, "terminal", "revoke")
	m.must("would remove the token from all 3 masters", "revoke", "--dry-run")
	m.file()
	m.must("revoked", "revoke", "--yes")
	if _, err := os.Stat(m.layout.TokenFile()); err == nil {
		t.Error("the file of the revoked token is still there")
	}
	if r := m.ls(); r.Status != tokenMissing || !strings.Contains(r.Problem, "revoked on") {
		t.Errorf("revoked: %+v", r)
	}
	m.must("revoked", "revoke", "--yes") // again
	m.must("the token is now", "rotate")

	m.ok(os.WriteFile(m.layout.TokenFile(), []byte(pki.NewToken(time.Now().Add(-time.Hour))), 0o600))
	m.ok(os.Chmod(m.layout.TokenFile(), 0o644))
	if r := m.ls(); r.Status != tokenUnusable || !strings.Contains(r.Problem, "can be read by others") {
		t.Errorf("for all to read: %+v", r)
	}
	m.refuse(exitcode.Usage, "want a minute or more", "rotate", "--ttl", "5s")
	m.refuse(exitcode.Usage, "unknown output", "ls", "-o", "xml")
}

func TestTokenExpired(t *testing.T) {
	m := newTokenMaster(t)
	m.ok(os.WriteFile(m.layout.TokenFile(), []byte(pki.NewToken(time.Now().Add(-time.Hour))), 0o600))
	if r := m.ls(); r.Status != tokenExpired || !r.Confirmed {
		t.Errorf("%+v", r)
	}
	m.must("expired", "ls")
}

func TestTokenWithoutEtcd(t *testing.T) {
	m := newTokenMaster(t)
	m.must("the token is now", "rotate")
	before := m.file()
	endpoint := m.etcd.Endpoints()[0]
	m.etcd.Members[0].Stop()
	for _, args := range [][]string{{"rotate"}, {"rotate", "--dry-run"}, {"revoke", "--yes"}} {
		var out bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &out, getenv: func(string) string { return "" }}
		args = append([]string{"hactl", "token", args[0], "--root", m.layout.Root, "--etcd-servers", endpoint, "--timeout", "1s"}, args[1:]...)
		if err := newApp(e).RunContext(t.Context(), args); exitcode.Of(err) != exitcode.Unreachable {
			t.Errorf("%v: %v (code %d)", args, err, exitcode.Of(err))
		}
	}
	if m.file() != before {
		t.Error("the file was changed though etcd was not told")
	}
	if r := m.ls(); r.Status != tokenValid || r.Confirmed || r.Problem == "" {
		t.Errorf("%+v, want valid as far as is known", r)
	}
}

// The shape is a contract; docs/pki.md shows it.
func TestTokenJSON(t *testing.T) {
	until := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	err := writeJSON(&out, tokenReport{[]tokenRow{
		{File: "/etc/hactl/token", Fingerprint: "2f6a01bc", Until: &until, Status: tokenValid, Confirmed: true},
		{File: "/etc/hactl/token", Status: tokenMissing, Problem: "revoked on m1 at 2026-11-22T12:00:00Z"},
	}})
	m := &tokenMaster{T: t}
	m.ok(err)
	want, err := os.ReadFile("testdata/token-ls.json")
	m.ok(err)
	if out.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestTokenTable(t *testing.T) {
	until := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	for _, r := range []tokenRow{
		{File: "/etc/hactl/token", Fingerprint: "2f6a01bc", Until: &until, Status: tokenValid},
		{File: "/etc/hactl/token", Status: tokenMissing, Problem: "revoked on m1"},
		{File: "/etc/hactl/token", Fingerprint: "2f6a01bc", Status: tokenValid},
	} {
		if err := printToken(&out, r, until.Add(-90*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	want := `FILE              TOKEN     UNTIL                 LEFT     STATUS  NOTE
/etc/hactl/token  2f6a01bc  2026-11-23T12:00:00Z  1h30m0s  valid   -
FILE              TOKEN  UNTIL  LEFT  STATUS   NOTE
/etc/hactl/token  -      -      -     missing  revoked on m1
FILE              TOKEN     UNTIL   LEFT  STATUS  NOTE
/etc/hactl/token  2f6a01bc  no end  -     valid   -
`
	if out.String() != want {
		t.Errorf("got\n%s", out.String())
	}
}
