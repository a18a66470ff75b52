package bootstrap

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/rendezvous"
)

func testCluster() *config.Cluster {
	c := config.Default()
	c.Name = "guards"
	c.Masters = []config.Master{{Name: m1, Address: "127.0.0.1"}, {Name: m2, Address: "127.93.0.2"}}
	return c
}

// A master that is excepted from the founding and runs may be the cluster itself.
func TestAnExceptedMasterThatAnswersStopsTheFounding(t *testing.T) {
	c := testCluster()
	r := newRun(Config{Without: []string{m2}})
	r.cluster = c
	for _, n := range []Next{{Do: MakeSecrets}, {Do: Found}} {
		if err := r.excepted(t.Context(), n); err != nil {
			t.Errorf("%s, and nobody there: %v", n.Do, err)
		}
	}
	l, err := net.Listen("tcp", "127.93.0.2:2380")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, n := range []Next{{Do: MakeSecrets}, {Do: Found}} {
		if err := r.excepted(t.Context(), n); exitcode.Of(err) != exitcode.Refused || !strings.Contains(err.Error(), "m2") {
			t.Errorf("%s beside a running m2: %v", n.Do, err)
		}
	}
	if err := r.excepted(t.Context(), Next{Do: Join}); err != nil {
		t.Errorf("joining is not founding: %v", err)
	}
}

// cards is a meeting of which only the cards are looked at.
type cards struct {
	Meeting
	seen []rendezvous.Seen
}

func (c cards) Cards() ([]rendezvous.Seen, <-chan struct{}) { return c.seen, nil }

func TestSecretsAreHandedOutOnlyAtTheFounding(t *testing.T) {
	c := testCluster()
	l := layout.Layout{Root: t.TempDir()}
	if err := l.MkdirAll(); err != nil {
		t.Fatal(err)
	}
	if _, err := master.EnsureSecrets(l, c); err != nil {
		t.Fatal(err)
	}
	seen := func(p rendezvous.Phase) cards {
		return cards{seen: []rendezvous.Seen{{Card: rendezvous.Card{Name: m2, Phase: p}}}}
	}
	good, old := pki.NewToken(time.Now().Add(time.Hour)), pki.NewToken(time.Now().Add(-time.Second))
	for _, x := range []struct {
		what  string
		token string
		at    Meeting
		given bool
	}{
		{"at the founding", good, seen(rendezvous.Fresh), true},
		{"the token has expired", old, seen(rendezvous.Fresh), false},
		{"there is a cluster, whose agents know the good token", good, seen(rendezvous.Member), false},
	} {
		r := newRun(Config{Layout: l})
		r.cluster, r.meeting = c, x.at
		s, err := r.handOut(x.token)
		if (len(s) > 0) != x.given {
			t.Errorf("%s: %d files, %v", x.what, len(s), err)
		}
	}
}

// Data of which nobody can say that they are not needed are not wiped.
func TestResetKeepsDataOfUnknownWorth(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	if err := l.MkdirAll(); err != nil {
		t.Fatal(err)
	}
	text, err := config.Marshal(testCluster())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.ConfigFile(), text, 0o600); err != nil {
		t.Fatal(err)
	}
	reset := func(force bool) error {
		r := newRun(Config{Layout: l})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return r.mayReset(ctx, force)
	}
	if err := reset(false); err != nil {
		t.Errorf("a machine with nothing: %v", err)
	}
	if err := etcdcluster.WriteIntent(l.State(), l.EtcdData(), etcdcluster.NewIntent("guards", m1, []etcdcluster.Peer{{Name: m1, URL: "https://127.0.0.1:2380"}})); err != nil {
		t.Fatal(err)
	}
	if err := reset(false); err != nil {
		t.Errorf("a member that never ran: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(l.EtcdData(), "member", "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := reset(false); exitcode.Of(err) != exitcode.Refused {
		t.Errorf("a member of which nobody tells: %v", err)
	}
	if err := reset(true); err != nil {
		t.Errorf("with force: %v", err)
	}
}
