package pki

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

func TestEnsureCAsRefusesABrokenSet(t *testing.T) {
	cases := []struct {
		name string
		harm func(t *testing.T, s *Store)
		want string // in the error
		hint string
	}{
		{"CA certificate gone", func(t *testing.T, s *Store) { remove(t, s.file("ca.crt")) }, "ca.crt is missing", "another master"},
		{"CA key gone", func(t *testing.T, s *Store) { remove(t, s.file("etcd/ca.key")) }, "etcd/ca.key is missing", "another master"},
		{"a whole CA gone", func(t *testing.T, s *Store) { remove(t, s.file("etcd/ca.key"), s.file("etcd/ca.crt")) }, "etcd/ca.key, etcd/ca.crt are missing", "another master"},
		{"service account key gone", func(t *testing.T, s *Store) { remove(t, s.file("sa.key")) }, "sa.key is missing", "another master"},
		{"all CAs gone, leaves left", func(t *testing.T, s *Store) {
			for _, f := range caFiles() {
				remove(t, s.file(f))
			}
		}, "etcd/peer.crt", "remove that folder"},
		{"CA certificate empty", func(t *testing.T, s *Store) { put(t, s.file("ca.crt"), "") }, "ca.crt cannot be used", "copy"},
		{"CA key cut", func(t *testing.T, s *Store) { put(t, s.file("ca.key"), read(t, s.file("ca.key"))[:80]) }, "ca.key cannot be used", "copy"},
		{"CA key of another", func(t *testing.T, s *Store) { copyFile(t, s.file("etcd/ca.key"), s.file("ca.key")) }, "does not fit the key", "ca.crt"},
		{"a leaf as CA", func(t *testing.T, s *Store) {
			copyFile(t, s.file("apiserver.crt"), s.file("ca.crt"))
			copyFile(t, s.file("apiserver.key"), s.file("ca.key"))
		}, "not a CA", "ca.crt"},
		{"service account key garbage", func(t *testing.T, s *Store) { put(t, s.file("sa.key"), "x") }, "sa.key cannot be used", "copy"},
		{"public key of another", func(t *testing.T, s *Store) { put(t, s.file("sa.pub"), "x") }, "sa.pub cannot be used", "copy"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, _ := newStore(t, t.TempDir())
			mustEnsure(t, s, t.TempDir())
			c.harm(t, s)
			before := tree(t, s.dir)
			_, err := s.EnsureCAs()
			var coded *exitcode.Error
			if !errors.As(err, &coded) || coded.Code != exitcode.Refused || !strings.Contains(err.Error(), c.want) || !strings.Contains(coded.Hint, c.hint) {
				t.Errorf("%v, hint %q; want a refusal with %q and %q", err, coded.Hint, c.want, c.hint)
			}
			if !maps.Equal(before, tree(t, s.dir)) {
				t.Error("the refusal changed files")
			}
		})
	}
}

func TestPublicKeyIsMadeAgain(t *testing.T) {
	s, _ := newStore(t, t.TempDir())
	mustEnsure(t, s, t.TempDir())
	want := read(t, s.file("sa.pub"))
	remove(t, s.file("sa.pub"))
	if changes := mustEnsure(t, s, t.TempDir()); changes[0].File != s.file("sa.pub") || read(t, s.file("sa.pub")) != want {
		t.Errorf("%v", changes)
	}
}

func TestClockBehindTheCA(t *testing.T) {
	s, clk := newStore(t, t.TempDir())
	mustEnsure(t, s, t.TempDir())
	clk.t = start.Add(-time.Hour)
	_, err := s.EnsureCAs()
	if err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("%v; want one that names the clock", err)
	}
}
