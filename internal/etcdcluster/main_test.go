package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/testwait"
)

// patience is for a slow machine with other work.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	ownMember()
	etcdtest.VerifyTestMain(m)
}

// calm are options for tests in which no leader should be lost by chance on a
// busy machine.
var calm = etcdtest.Options{Heartbeat: 300 * time.Millisecond, Election: 3 * time.Second}

// master is one machine of a test's cluster.
type master struct {
	tb  testing.TB
	cfg Config

	mu     sync.Mutex
	states []string
	stop   context.CancelFunc
	ended  chan error
}

// newMasters makes n machines; each has a loopback address of its own.
func newMasters(tb testing.TB, n int) []*master {
	tb.Helper()
	var ms []*master
	for i := range n {
		ms = append(ms, newMaster(tb, fmt.Sprintf("m%d", i+1)))
	}
	return ms
}

func newMaster(tb testing.TB, name string) *master {
	tb.Helper()
	addr, dir := etcdtest.Address(tb), tb.TempDir()
	return &master{tb: tb, cfg: Config{
		Name: name, Cluster: "prod", StateDir: dir, DataDir: filepath.Join(dir, "etcd"),
		ClientURL: "http://" + addr + ":2379", PeerURL: "http://" + addr + ":2380", MetricsURL: "http://" + addr + ":2381",
		NoFsync: true,
	}}
}

func peersOf(ms []*master) []Peer {
	var ps []Peer
	for _, m := range ms {
		ps = append(ps, Peer{m.cfg.Name, m.cfg.PeerURL})
	}
	return ps
}

// found writes the intent to found a cluster of ms on m.
func (m *master) found(ms []*master) {
	m.tb.Helper()
	if err := WriteIntent(m.cfg.StateDir, m.cfg.DataDir, NewIntent(m.cfg.Cluster, m.cfg.Name, peersOf(ms))); err != nil {
		m.tb.Fatal(err)
	}
}

// start runs the member until the test or stopNow ends it.
func (m *master) start() {
	m.tb.Helper()
	cfg := m.cfg
	m.mu.Lock()
	m.states = nil
	m.mu.Unlock()
	cfg.Notify = func(s string) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.states = append(m.states, s)
	}
	member, err := New(cfg)
	if err != nil {
		m.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.stop, m.ended = cancel, make(chan error, 1)
	ended := m.ended
	go func() { ended <- member.Run(ctx) }()
	m.tb.Cleanup(func() {
		cancel()
		if m.ended == ended {
			<-ended
		}
	})
}

// stopNow ends the member and returns Run's error.
func (m *master) stopNow() error {
	m.tb.Helper()
	m.stop()
	return m.wait()
}

// wait returns Run's error when the member ends.
func (m *master) wait() error {
	m.tb.Helper()
	select {
	case err := <-m.ended:
		m.ended = nil
		return err
	case <-time.After(patience):
		m.tb.Fatalf("%s does not end; it said %q", m.cfg.Name, m.said())
		return nil
	}
}

func (m *master) said() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.states)
}

func (m *master) waitSaid(what string) {
	m.tb.Helper()
	testwait.For(m.tb, m.cfg.Name+" to say "+what, patience, func() error {
		select {
		case err := <-m.ended:
			m.ended <- err
			m.tb.Fatalf("%s ended: %v", m.cfg.Name, err)
		default:
		}
		if said := m.said(); !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, what) }) {
			return fmt.Errorf("it said %q", said)
		}
		return nil
	})
}

func (m *master) client() *clientv3.Client {
	m.tb.Helper()
	cl, err := clientv3.New(clientv3.Config{Endpoints: []string{m.cfg.ClientURL}, Logger: zap.NewNop()})
	if err != nil {
		m.tb.Fatal(err)
	}
	m.tb.Cleanup(func() { _ = cl.Close() })
	return cl
}

// startAll founds a cluster of ms and waits until all serve.
func startAll(ms []*master) {
	for _, m := range ms {
		m.tb.Helper()
		m.found(ms)
		m.start()
	}
	for _, m := range ms {
		m.waitSaid("READY=1")
	}
}

func leaderOf(tb testing.TB, ms []*master) *master {
	tb.Helper()
	var leader *master
	testwait.For(tb, "a leader", patience, func() error {
		for _, m := range ms {
			if m.ended == nil {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			st, err := m.client().Status(ctx, m.cfg.ClientURL)
			cancel()
			if err == nil && st.Leader == st.Header.MemberId {
				leader = m
				return nil
			}
		}
		return errors.New("none of the members leads")
	})
	return leader
}

func mustPut(tb testing.TB, m *master, key, value string) {
	tb.Helper()
	cl := m.client()
	testwait.For(tb, "a write through "+m.cfg.Name, patience, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := cl.Put(ctx, key, value)
		return err
	})
}

func wantErr(tb testing.TB, err, want error) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Fatalf("got error %v, want %v", err, want)
	}
}

func removeAll(tb testing.TB, dir string) {
	tb.Helper()
	if err := os.RemoveAll(dir); err != nil {
		tb.Fatal(err)
	}
}
