package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/event"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/mesh/meshtest"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/rendezvous"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/internal/token"
)

const patience = 2 * time.Minute

// meetingCluster is m1 and m2, which run the agent's meeting, and m3, which will
// be new.
type meetingCluster struct {
	*testing.T
	etcd     *etcdtest.Cluster
	config   *config.Cluster
	secrets  rendezvous.Secrets
	meetings []*meeting
	layouts  []layout.Layout
	logs     []*meshtest.Log
	orders   *token.Store
	ahead    atomic.Int64 // nanoseconds that the masters' clocks run ahead
}

func newMeetingCluster(t *testing.T, text string) *meetingCluster {
	t.Helper()
	mc := &meetingCluster{T: t, etcd: etcdtest.Start(t, 1, etcdtest.Options{}), config: config.Default()}
	mc.config.Name = "prod"
	for i := range 3 {
		a := netip.MustParseAddrPort(meshtest.FreeAddress(t, 7947)).Addr().String()
		mc.config.Masters = append(mc.config.Masters, config.Master{Name: fmt.Sprintf("m%d", i+1), Address: a})
	}
	for i := range 2 {
		mc.addMaster(i, text)
	}
	return mc
}

func (mc *meetingCluster) addMaster(i int, text string) {
	mc.Helper()
	l := layout.Layout{Root: mc.TempDir()}
	must(mc.T, l.MkdirAll())
	writeConfig(mc.T, l, mc.config)
	var err error
	if i == 0 {
		mc.secrets, err = master.EnsureSecrets(l, mc.config)
	} else {
		err = master.WriteSecrets(l, mc.config, mc.secrets)
	}
	must(mc.T, err)
	if text != "" {
		must(mc.T, os.WriteFile(l.TokenFile(), []byte(text+"\n"), 0o600))
	}
	key, err := gossipKey(l)
	must(mc.T, err)
	log := &meshtest.Log{}
	m := &meeting{
		layout: l, cluster: mc.config, self: mc.config.Masters[i], registerer: prometheus.NewRegistry(),
		logger: slog.New(slog.NewTextHandler(log, nil)), news: make(chan struct{}, 1),
		now: func() time.Time { return time.Now().Add(time.Duration(mc.ahead.Load())) },
	}
	m.machine, err = rendezvous.MachineID(l)
	must(mc.T, err)
	m.orders, err = token.New(mc.etcd.Client(), key, mc.config.Name)
	must(mc.T, err)
	mc.orders = m.orders
	mc.meetings, mc.layouts, mc.logs = append(mc.meetings, m), append(mc.layouts, l), append(mc.logs, log)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	mc.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			mc.Errorf("m%d: %v", i+1, err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeConfig(t *testing.T, l layout.Layout, c *config.Cluster) {
	t.Helper()
	text, err := config.Marshal(c)
	must(t, err)
	must(t, os.WriteFile(l.ConfigFile(), text, 0o644))
}

// newcomer starts m3's rendezvous with a token; it ends with the returned func.
func (mc *meetingCluster) newcomer(text string) (*rendezvous.Node, func()) {
	mc.Helper()
	key, err := rendezvous.Key(text, mc.config.Name)
	must(mc.T, err)
	self := mc.config.Masters[2]
	canonical, err := config.Marshal(mc.config)
	must(mc.T, err)
	c := rendezvous.Config{
		Name: self.Name, Cluster: mc.config.Name, Bind: mc.config.JoinAddress(self), Key: key,
		Card: func() rendezvous.Card {
			return rendezvous.Card{Name: self.Name, Address: self.Address, Machine: "new", Config: rendezvous.HashConfig(canonical), Phase: rendezvous.Fresh}
		},
		Config:  func() ([]byte, error) { return canonical, nil },
		Secrets: func() (rendezvous.Secrets, error) { return nil, nil },
	}
	for _, m := range mc.config.Masters {
		c.Seeds = append(c.Seeds, mc.config.JoinAddress(m))
	}
	node, err := rendezvous.New(c)
	must(mc.T, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx) }()
	stop := func() {
		cancel()
		if err := <-done; err != nil {
			mc.Errorf("m3: %v", err)
		}
		done <- nil
	}
	mc.Cleanup(stop)
	return node, stop
}

// waitSecrets waits until a newcomer gets the secrets from every master.
func (mc *meetingCluster) waitSecrets(node *rendezvous.Node) {
	mc.Helper()
	for _, from := range []string{"m1", "m2"} {
		testwait.For(mc.T, "the secrets of "+from, patience, func() error {
			s, err := node.SecretsOf(mc.Context(), from)
			if err == nil && !reflect.DeepEqual(s, mc.secrets) {
				mc.Fatal("they are not the cluster's")
			}
			return err
		})
	}
}

// waitShut waits until a newcomer with a token that is not good knows that somebody is
// there who does not listen to it, or nobody at all.
func (mc *meetingCluster) waitShut(node *rendezvous.Node) {
	mc.Helper()
	testwait.For(mc.T, "the rendezvous to shut", patience, func() error {
		cards, _ := node.Cards()
		for _, c := range cards {
			if c.Alive {
				return fmt.Errorf("%s is still met", c.Name)
			}
		}
		if un := node.Unmet(); len(un) != 2 {
			return fmt.Errorf("unmet: %+v", un)
		}
		return nil
	})
}

func (mc *meetingCluster) waitFiles(want string) {
	mc.Helper()
	for _, l := range mc.layouts {
		testwait.For(mc.T, "the token file "+l.TokenFile(), patience, func() error {
			text, err := os.ReadFile(l.TokenFile())
			if want == "" {
				if !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("it is there: %w", err)
				}
				return nil
			}
			if err == nil && strings.TrimSpace(string(text)) != want {
				err = errors.New("it holds another")
			}
			return err
		})
	}
}

// waitStatus waits until every agent tells that its rendezvous is open, or why not.
func (mc *meetingCluster) waitStatus(open bool, why string) {
	mc.Helper()
	for i, m := range mc.meetings {
		testwait.For(mc.T, fmt.Sprintf("the status of m%d's rendezvous", i+1), patience, func() error {
			if s := m.status(); s == nil || s.Open != open || (s.Why == "") != open || !strings.Contains(s.Why, why) {
				return fmt.Errorf("it is %+v, want open = %v, %q", s, open, why)
			}
			return nil
		})
	}
}

func (mc *meetingCluster) order(text string) {
	mc.Helper()
	must(mc.T, mc.orders.Put(mc.Context(), token.Order{Token: text, At: time.Now(), By: "m1"}))
}

func TestANewMachineFindsTheAgents(t *testing.T) {
	text := pki.NewToken(time.Now().Add(time.Hour))
	mc := newMeetingCluster(t, text)
	node, _ := mc.newcomer(text)
	mc.waitSecrets(node)
	cards, _ := node.Cards()
	for _, c := range cards {
		if !c.Serving || c.Phase != rendezvous.Member {
			t.Errorf("the card of %s: %+v", c.Name, c.Card)
		}
	}
	// The configuration is what the file has now.
	changed := *mc.config
	changed.Kubernetes.Version = "v1.35.4"
	writeConfig(t, mc.layouts[0], &changed)
	got, err := node.ConfigOf(t.Context(), "m1")
	if want, _ := config.Marshal(&changed); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the configuration is %q, %v", got, err)
	}
	if _, err := node.SecretsOf(t.Context(), "m1"); !errors.Is(err, rendezvous.ErrRefused) {
		t.Errorf("with another configuration: %v, want ErrRefused", err)
	}
}

func TestARotatedTokenIsWorthNothing(t *testing.T) {
	old := pki.NewToken(time.Now().Add(time.Hour))
	mc := newMeetingCluster(t, old)
	node, stop := mc.newcomer(old)
	mc.waitSecrets(node)

	// Though this master has not heard of it yet: etcd knows.
	fresh := pki.NewToken(time.Now().Add(time.Hour))
	mc.order(fresh)
	if s, err := mc.meetings[0].secrets(t.Context(), old); !errors.Is(err, token.ErrNotGood) || s != nil {
		t.Errorf("the secrets for the old token: %d files, %v", len(s), err)
	}
	mc.waitFiles(fresh)
	for _, l := range mc.layouts {
		if fi, err := os.Stat(l.TokenFile()); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("the token file: %v, %v", fi, err)
		}
	}
	mc.waitShut(node)
	stop()

	node, stop = mc.newcomer(fresh)
	mc.waitSecrets(node)

	mc.order("")
	mc.waitFiles("")
	mc.waitShut(node)
	stop()

	// A file that somebody puts back does not open it again.
	must(t, os.WriteFile(mc.layouts[0].TokenFile(), []byte(fresh+"\n"), 0o600))
	mc.waitFiles("")

	mc.order(old) // what etcd names is good, whatever was before
	mc.waitFiles(old)
	node, _ = mc.newcomer(old)
	mc.waitSecrets(node)
	for i, log := range mc.logs {
		if strings.Contains(log.String(), "hactl1.") || strings.Contains(log.String(), old[8:20]) {
			t.Errorf("the log of m%d shows a token:\n%s", i+1, log)
		}
	}
}

func TestAnExpiredTokenClosesTheRendezvous(t *testing.T) {
	text := pki.NewToken(time.Now().Add(time.Hour))
	mc := newMeetingCluster(t, text)
	node, _ := mc.newcomer(text)
	mc.waitSecrets(node)
	mc.waitStatus(true, "")
	mc.ahead.Store(int64(time.Hour))
	if s, err := mc.meetings[0].secrets(t.Context(), text); !errors.Is(err, pki.ErrTokenExpired) || s != nil {
		t.Errorf("the secrets for an expired token: %d files, %v", len(s), err)
	}
	mc.waitShut(node)
	mc.waitStatus(false, "expired")
	for i, log := range mc.logs {
		testwait.For(t, fmt.Sprintf("m%d to say why", i+1), patience, func() error {
			if n := strings.Count(log.String(), "the token expired"); n != 1 {
				return fmt.Errorf("said %d times:\n%s", n, log)
			}
			return nil
		})
	}
}

func TestAMasterWithoutATokenWaitsForOne(t *testing.T) {
	mc := newMeetingCluster(t, "")
	text := pki.NewToken(time.Time{})
	node, _ := mc.newcomer(text)
	for i, log := range mc.logs {
		testwait.For(t, fmt.Sprintf("m%d to say that it has no token", i+1), patience, func() error {
			if !strings.Contains(log.String(), "no rendezvous") {
				return errors.New(log.String())
			}
			return nil
		})
	}
	for _, l := range mc.layouts {
		must(t, os.WriteFile(l.TokenFile(), []byte(text+"\n"), 0o600))
	}
	mc.waitSecrets(node)
}

// Without etcd a master is still met and tells its configuration, but nobody can
// know that the token was not rotated.
func TestWithoutEtcdNoSecrets(t *testing.T) {
	text := pki.NewToken(time.Time{})
	mc := newMeetingCluster(t, text)
	node, _ := mc.newcomer(text)
	mc.waitSecrets(node)
	mc.etcd.Members[0].Stop()
	if _, err := node.ConfigOf(t.Context(), "m1"); err != nil {
		t.Error(err)
	}
	s, err := node.SecretsOf(t.Context(), "m1")
	if err == nil || s != nil || !strings.Contains(err.Error(), "only etcd knows") {
		t.Errorf("%d files, %v", len(s), err)
	}
	mc.etcd.Members[0].Restart()
	mc.waitSecrets(node)
}

// Two clusters of one name, founded apart, are told of once, not every two seconds.
func TestForeignMachinesAreToldOfOnce(t *testing.T) {
	var told []event.Event
	m := &meeting{logger: logging.Discard(), record: func(e event.Event) { told = append(told, e) }}
	seen := func(name, ca string, here bool) rendezvous.Seen {
		return rendezvous.Seen{Card: rendezvous.Card{Name: name, Address: "10.0.0.9", CA: ca}, Alive: here}
	}
	for _, c := range []struct {
		seen []rendezvous.Seen
		told int
	}{
		{[]rendezvous.Seen{seen("m2", "ours", true), seen("m3", "", true), seen("m4", "other", false)}, 0},
		{[]rendezvous.Seen{seen("m2", "ours", true), seen("m4", "other", true)}, 1},
		{[]rendezvous.Seen{seen("m4", "other", true), seen("m2", "ours", true)}, 1},
		{nil, 1}, // they went
		{[]rendezvous.Seen{seen("m4", "other", true)}, 2},
	} {
		m.tellForeign(c.seen, "ours")
		if len(told) != c.told {
			t.Fatalf("after %+v: told %d times, want %d", c.seen, len(told), c.told)
		}
	}
	if !strings.Contains(told[0].Reason, "m4 at 10.0.0.9") {
		t.Errorf("told %+v", told[0])
	}
}
