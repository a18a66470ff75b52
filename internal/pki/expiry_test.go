package pki

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

func TestCerts(t *testing.T) {
	conf := t.TempDir()
	s, clk := newStore(t, filepath.Join(conf, "pki"))
	mustEnsure(t, s, conf)
	confs := []string{filepath.Join(conf, "admin.conf"), filepath.Join(conf, "none.conf")}
	list := func() map[string]Cert {
		t.Helper()
		certs, err := s.Certs(confs...)
		if err != nil {
			t.Fatal(err)
		}
		byFile := map[string]Cert{}
		for _, c := range certs {
			rel, _ := filepath.Rel(conf, c.File)
			byFile[rel] = c
		}
		if len(byFile) != len(leafNames)+3+1 || len(byFile) != len(certs) {
			t.Fatalf("%d certificates of %d files", len(certs), len(byFile))
		}
		return byFile
	}
	all := list()
	for f, c := range all {
		if c.Status != StatusOK || c.CA != strings.HasSuffix(f, "ca.crt") || c.Problem != "" || c.Usages == nil || c.Names == nil {
			t.Errorf("%s: %+v", f, c)
		}
	}
	peer := all["pki/etcd/peer.crt"]
	if peer.Subject != "CN=m1" || peer.Issuer != "CN=etcd-ca,O=prod" || strings.Join(peer.Usages, ",") != "server,client" ||
		!slices.Contains(peer.Names, "10.0.0.1") || !slices.Contains(peer.Names, "localhost") || peer.Left(start) != leafLifetime {
		t.Errorf("%+v", peer)
	}
	if admin := all["admin.conf"]; admin.Subject != "CN=kubernetes-admin,O=system:masters" {
		t.Errorf("%+v", admin)
	}
	for _, c := range []struct {
		at       time.Duration
		leaf, ca string
	}{
		{-time.Hour, StatusEarly, StatusEarly},
		{leafLifetime - DefaultRenewBefore - time.Second, StatusOK, StatusOK},
		{leafLifetime - DefaultRenewBefore + time.Second, StatusExpiring, StatusOK},
		{leafLifetime + time.Second, StatusExpired, StatusOK},
		{caLifetime + time.Second, StatusExpired, StatusExpired},
	} {
		clk.t = start.Add(c.at)
		all := list()
		if got := all["pki/hactl/admin.crt"].Status; got != c.leaf {
			t.Errorf("leaf after %s: %s, want %s", c.at, got, c.leaf)
		}
		if got := all["pki/front-proxy-ca.crt"].Status; got != c.ca {
			t.Errorf("CA after %s: %s, want %s", c.at, got, c.ca)
		}
	}
	put(t, s.file("apiserver.crt"), "x")
	put(t, confs[0], "x: [")
	all = list()
	for _, f := range []string{"pki/apiserver.crt", "admin.conf"} {
		if c := all[f]; c.Status != StatusBroken || c.Problem == "" {
			t.Errorf("%s: %+v", f, c)
		}
	}
	empty, _ := newStore(t, filepath.Join(conf, "none"))
	if _, err := empty.Certs(); err == nil {
		t.Error("no error for a folder that is not there")
	}
}

func TestRenew(t *testing.T) {
	conf := t.TempDir()
	s, clk := newStore(t, filepath.Join(conf, "pki"))
	mustEnsure(t, s, conf)
	confs := []string{filepath.Join(conf, "admin.conf"), filepath.Join(conf, "scheduler.conf"), filepath.Join(conf, "none.conf")}
	before := tree(t, conf)
	clk.t = start.Add(2 * leafLifetime) // long expired: the machine was off
	changed := func() []string {
		var files []string
		for f, text := range tree(t, conf) {
			if before[f] != text {
				files = append(files, f)
			}
		}
		return sorted(files)
	}

	changes, err := s.Renew(Renewal{Kubeconfigs: confs, DryRun: true, NewKeys: true})
	if err != nil || len(changes) != 2*len(leafNames)+2 || len(changed()) > 0 {
		t.Fatalf("dry run: %d %v, changed %v", len(changes), err, changed())
	}
	changes, err = s.Renew(Renewal{Names: []string{"etcd/peer", confs[0]}, Kubeconfigs: confs})
	if want := []string{"admin.conf", "pki/etcd/peer.crt"}; err != nil || len(changes) != 2 || !slices.Equal(changed(), want) {
		t.Fatalf("two: %v, %v, changed %v", changes, err, changed())
	}
	if _, err = s.Renew(Renewal{Kubeconfigs: confs}); err != nil {
		t.Fatal(err)
	}
	// As good as what Ensure would have issued: nothing is left to do.
	if left, err := s.EnsureLeaves(leavesOf("m1")); err != nil || len(left) > 0 {
		t.Errorf("not as they were: %v, %v", left, err)
	}
	for f := range before {
		if strings.HasSuffix(f, ".key") && slices.Contains(changed(), f) {
			t.Errorf("%s: a new key", f)
		}
	}
	if _, err = s.Renew(Renewal{NewKeys: true}); err != nil {
		t.Fatal(err)
	}
	for _, l := range leafNames {
		if !slices.Contains(changed(), "pki/"+l+".key") {
			t.Errorf("%s: no new key", l)
		}
	}
	for _, f := range caFiles() {
		if slices.Contains(changed(), "pki/"+f) {
			t.Errorf("%s was touched", f)
		}
	}
	if left, err := s.EnsureLeaves(leavesOf("m1")); err != nil || len(left) > 0 {
		t.Errorf("not as they were: %v, %v", left, err)
	}
}

func TestRenewRefuses(t *testing.T) {
	cases := []struct {
		name  string
		harm  func(t *testing.T, s *Store)
		names []string
		want  string
		code  int
	}{
		{"no such leaf", func(*testing.T, *Store) {}, []string{"etcd/per"}, "there are: apiserver, ", exitcode.Usage},
		{"a CA", func(*testing.T, *Store) {}, []string{"etcd/ca"}, "no leaf", exitcode.Usage},
		{"a broken leaf", func(t *testing.T, s *Store) { put(t, s.file("apiserver.crt"), "x") }, nil, "no PEM certificate", exitcode.Failed},
		{"a broken key", func(t *testing.T, s *Store) { put(t, s.file("apiserver.key"), "x") }, nil, "no PEM private key", exitcode.Failed},
		{"no CA key", func(t *testing.T, s *Store) { remove(t, s.file("ca.key")) }, nil, "ca.key", exitcode.Refused},
		{"of another cluster", func(t *testing.T, s *Store) {
			o, _ := newStore(t, t.TempDir())
			mustEnsure(t, o, t.TempDir())
			copyFile(t, o.file("apiserver.crt"), s.file("apiserver.crt"))
		}, nil, "none of the CAs", exitcode.Refused},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, _ := newStore(t, t.TempDir())
			mustEnsure(t, s, t.TempDir())
			c.harm(t, s)
			if _, err := s.Renew(Renewal{Names: c.names}); err == nil || !strings.Contains(err.Error(), c.want) || exitcode.Of(err) != c.code {
				t.Errorf("%v (%d), want %q (%d)", err, exitcode.Of(err), c.want, c.code)
			}
		})
	}
}
