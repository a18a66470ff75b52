package pki

import (
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

// Each way in which a leaf can be bad gets it issued again, and nothing else.
func TestEnsureIssuesAgainWhatIsBad(t *testing.T) {
	const name = "etcd/peer"
	cases := []struct {
		name string
		harm func(t *testing.T, s *Store, c *clock)
		why  string
		all  bool // it concerns every leaf
	}{
		{"certificate gone", func(t *testing.T, s *Store, _ *clock) { remove(t, s.file(name+".crt")) }, "missing", false},
		{"key gone", func(t *testing.T, s *Store, _ *clock) { remove(t, s.file(name+".key")) }, "missing", false},
		{"both gone", func(t *testing.T, s *Store, _ *clock) { remove(t, s.file(name+".key"), s.file(name+".crt")) }, "missing", false},
		{"certificate empty", func(t *testing.T, s *Store, _ *clock) { put(t, s.file(name+".crt"), "") }, "no PEM certificate", false},
		{"certificate garbage", func(t *testing.T, s *Store, _ *clock) {
			put(t, s.file(name+".crt"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
		}, "unreadable", false},
		{"key garbage", func(t *testing.T, s *Store, _ *clock) { put(t, s.file(name+".key"), "x") }, "no PEM private key", false},
		{"key of another", func(t *testing.T, s *Store, _ *clock) { copyFile(t, s.file("etcd/server.key"), s.file(name+".key")) }, "its key is another", false},
		{"certificate of another leaf", func(t *testing.T, s *Store, _ *clock) {
			copyFile(t, s.file("hactl/agent.key"), s.file(name+".key"))
			copyFile(t, s.file("hactl/agent.crt"), s.file(name+".crt"))
		}, "made out to CN=m1,O=hactl:masters", false},
		{"of another CA", func(t *testing.T, s *Store, _ *clock) {
			o, _ := newStore(t, t.TempDir())
			mustEnsure(t, o, t.TempDir())
			copyFile(t, o.file(name+".key"), s.file(name+".key"))
			copyFile(t, o.file(name+".crt"), s.file(name+".crt"))
		}, "not signed by etcd/ca.crt", false},
		{"soon expiring", func(_ *testing.T, _ *Store, c *clock) { c.t = start.Add(leafLifetime - 29*24*time.Hour) }, "expires 2027-11-22", true},
		{"expired", func(_ *testing.T, _ *Store, c *clock) { c.t = start.Add(leafLifetime + time.Second) }, "expired 2027-11-22", true},
		{"from the future", func(_ *testing.T, _ *Store, c *clock) { c.t = start.Add(-4 * time.Minute) }, "", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, clk := newStore(t, t.TempDir())
			conf := t.TempDir()
			mustEnsure(t, s, conf)
			c.harm(t, s, clk)
			changes, err := s.EnsureLeaves(leavesOf("m1"))
			if err != nil {
				t.Fatal(err)
			}
			if c.why == "" {
				if len(changes) > 0 {
					t.Errorf("changed %v", changes)
				}
				return
			}
			for _, ch := range changes {
				if !strings.Contains(ch.Why, c.why) {
					t.Errorf("%s: %q, want %q", ch.File, ch.Why, c.why)
				}
				if !c.all && !strings.HasPrefix(ch.File, s.file(name)) {
					t.Errorf("%s was changed too", ch.File)
				}
			}
			if want := len(leafNames); c.all && len(changes) != want || len(changes) == 0 {
				t.Errorf("%d changes: %v", len(changes), changes)
			}
			if again, err := s.EnsureLeaves(leavesOf("m1")); err != nil || len(again) > 0 {
				t.Errorf("once more: %v, %v", again, err)
			}
		})
	}
}

func TestNewNamesAreIssued(t *testing.T) {
	s, _ := newStore(t, t.TempDir())
	mustEnsure(t, s, t.TempDir())
	key := read(t, s.file("apiserver.key"))
	l := leavesOf("m1")
	l.Masters = append(l.Masters, Master{"m4", "10.0.0.4"})
	changes, err := s.EnsureLeaves(l)
	if err != nil || len(changes) != 1 || changes[0] != (Change{s.file("apiserver.crt"), "made out to other names"}) {
		t.Fatalf("%v, %v; want only the API server's certificate", changes, err)
	}
	if err := leafCert(t, s, "apiserver").VerifyHostname("10.0.0.4"); err != nil {
		t.Error(err)
	}
	if read(t, s.file("apiserver.key")) != key {
		t.Error("the key changed; a renewal should replace one file")
	}
}

// A leaf that lives as long as its CA is not issued again and again.
func TestLeafAtTheEndOfItsCA(t *testing.T) {
	s, clk := newStore(t, t.TempDir())
	mustEnsure(t, s, t.TempDir())
	clk.t = start.Add(caLifetime - 10*24*time.Hour)
	if changes, err := s.EnsureLeaves(leavesOf("m1")); err != nil || len(changes) != len(leafNames) {
		t.Fatalf("%v, %v", changes, err)
	}
	if got := leafCert(t, s, "etcd/peer").NotAfter; !got.Equal(start.Add(caLifetime)) {
		t.Errorf("valid until %s, beyond its CA", got)
	}
	if changes, err := s.EnsureLeaves(leavesOf("m1")); err != nil || len(changes) > 0 {
		t.Errorf("issued again: %v, %v", changes, err)
	}
	clk.t = start.Add(caLifetime + time.Second)
	_, err := s.EnsureLeaves(leavesOf("m1"))
	if exitcode.Of(err) != exitcode.Refused || !strings.Contains(err.Error(), "it expired on 2036-11-19") {
		t.Errorf("after the CA's end: %v", err)
	}
}
