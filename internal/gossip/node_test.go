package gossip

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/hactl/hactl/internal/mesh/meshtest"
	"github.com/hactl/hactl/internal/testwait"
)

const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// memberlist does not wait at its end for a probe that is under way.
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"),
	)
}

// value reads a counter or a gauge.
func value(tb testing.TB, m prometheus.Metric) float64 {
	tb.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		tb.Fatal(err)
	}
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

var key = bytes.Repeat([]byte{7}, 32)

// testNode is a node that can be started again.
type testNode struct {
	tb   testing.TB
	cfg  Config
	log  *meshtest.Log
	node *Node
	stop func()
}

// newNodes makes n nodes m1, m2, … that know each other's addresses.
func newNodes(tb testing.TB, n int, w *meshtest.Wire) []*testNode {
	tb.Helper()
	var seeds []Seed
	for i := range n {
		seeds = append(seeds, Seed{fmt.Sprintf("m%d", i+1), meshtest.FreeAddress(tb, 7946)})
	}
	var nodes []*testNode
	for _, s := range seeds {
		nodes = append(nodes, newNode(tb, s, seeds, w))
	}
	return nodes
}

func newNode(tb testing.TB, self Seed, seeds []Seed, w *meshtest.Wire) *testNode {
	tb.Helper()
	t := &testNode{tb: tb, log: &meshtest.Log{}}
	t.cfg = Config{
		Name: self.Name, Cluster: "prod", Bind: self.Address, Key: key, Peers: seeds,
		Meta: Meta{Version: "v1", APIServer: strings.Replace(self.Address, ":7946", ":6444", 1)}, RejoinEvery: 200 * time.Millisecond,
		Logger:     slog.New(slog.NewTextHandler(t.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
		Registerer: prometheus.NewRegistry(),
	}
	if w != nil {
		t.cfg.wrap = w.Plug(self.Address)
	}
	return t
}

func (t *testNode) start() {
	t.tb.Helper()
	t.cfg.Registerer = prometheus.NewRegistry()
	node, err := New(t.cfg)
	if err != nil {
		t.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx) }()
	var once sync.Once
	t.node = node
	t.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.tb.Errorf("run %s: %v", t.cfg.Name, err)
			}
		})
	}
	t.tb.Cleanup(t.stop)
}

func (t *testNode) peer(name string) Peer {
	peers, _ := t.node.Peers()
	i := slices.IndexFunc(peers, func(p Peer) bool { return p.Name == name })
	if i < 0 {
		return Peer{}
	}
	return peers[i]
}

// waitPeer waits until t sees a peer in one of the states.
func (t *testNode) waitPeer(name string, states ...State) Peer {
	t.tb.Helper()
	var p Peer
	testwait.For(t.tb, fmt.Sprintf("%s to see %s %v", t.cfg.Name, name, states), patience, func() error {
		if p = t.peer(name); !slices.Contains(states, p.State) {
			return fmt.Errorf("it is %+v\nlog: %s", p, t.log)
		}
		return nil
	})
	return p
}

func startAll(nodes []*testNode) {
	for _, n := range nodes {
		n.tb.Helper()
		n.start()
	}
	for _, n := range nodes {
		for _, o := range nodes {
			n.waitPeer(o.cfg.Name, Alive)
		}
	}
}

func TestThreeNodes(t *testing.T) {
	nodes := newNodes(t, 3, nil)
	m1, m2, m3 := nodes[0], nodes[1], nodes[2]
	fresh, err := New(m1.cfg.withRegistry())
	if err != nil {
		t.Fatal(err)
	}
	m1.node = fresh
	if p := m1.peer("m3"); p.State != Unseen || p.Address != m3.cfg.Bind {
		t.Errorf("before it started m3 is %+v", p)
	}
	startAll(nodes)
	if p := m1.peer("m2"); p.Meta != m2.cfg.Meta || p.Self || p.Address != m2.cfg.Bind || p.MetaErr != "" || p.Since.IsZero() {
		t.Errorf("m2 is %+v", p)
	}
	if p := m1.peer("m1"); !p.Self || p.State != Alive {
		t.Errorf("m1 itself is %+v", p)
	}

	// News travel, and close the channel of the old picture.
	_, changed := m1.node.Peers()
	news := Meta{Version: "v2", Ready: true}
	if err := m2.node.SetMeta(news); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(patience):
		t.Fatal("the picture did not change")
	}
	testwait.For(t, "the news of m2", patience, func() error {
		if p := m1.peer("m2"); p.Meta != news {
			return fmt.Errorf("m2 is %+v", p)
		}
		return nil
	})
	if err := m2.node.SetMeta(Meta{Agent: "nowhere"}); err == nil {
		t.Error("a meta with a bad address was taken")
	}

	// A goodbye is seen as such; the return too.
	m3.stop()
	m1.waitPeer("m3", Left)
	m2.waitPeer("m3", Left)
	m3.start()
	m1.waitPeer("m3", Alive)
	m3.waitPeer("m1", Alive)
	if err := m1.node.Conflicts(); err != nil {
		t.Error(err)
	}
	if n := value(t, m1.node.metrics.peers.WithLabelValues("alive")); n != 3 {
		t.Errorf("the metric counts %v nodes alive, want 3", n)
	}
}

func TestPartition(t *testing.T) {
	w := &meshtest.Wire{}
	nodes := newNodes(t, 3, w)
	m1, m2, m3 := nodes[0], nodes[1], nodes[2]
	startAll(nodes)

	w.Set(m3.cfg.Bind)
	m1.waitPeer("m3", Dead)
	m2.waitPeer("m3", Dead)
	m3.waitPeer("m1", Dead)
	m3.waitPeer("m2", Dead)
	if p := m1.peer("m2"); p.State != Alive && p.State != Suspect {
		t.Errorf("on the same side m2 is %+v", p)
	}
	if n := strings.Count(m1.log.String(), "state=dead"); n != 1 {
		t.Errorf("the loss was logged %d times, want once:\n%s", n, m1.log)
	}

	w.Set()
	for _, n := range nodes {
		for _, o := range nodes {
			n.waitPeer(o.cfg.Name, Alive)
		}
	}
}

func TestNewAddressUnderAnOldName(t *testing.T) {
	nodes := newNodes(t, 3, nil)
	startAll(nodes)
	nodes[2].stop() // says goodbye, so its name is free at once
	nodes[0].waitPeer("m3", Left)
	moved := newNode(t, Seed{"m3", meshtest.FreeAddress(t, 7946)}, nodes[0].cfg.Peers, nil)
	moved.start()
	testwait.For(t, "m3 at its new address", patience, func() error {
		if p := nodes[0].peer("m3"); p.State != Alive || p.Address != moved.cfg.Bind {
			return fmt.Errorf("m3 is %+v", p)
		}
		return nil
	})
}

func TestTwoOfOneName(t *testing.T) {
	nodes := newNodes(t, 2, nil)
	startAll(nodes)
	twin := newNode(t, Seed{"m2", meshtest.FreeAddress(t, 7946)}, nodes[0].cfg.Peers, nil)
	twin.start()
	testwait.For(t, "m1 to see the conflict", patience, func() error {
		if p := nodes[0].peer("m2"); p.Conflict == "" {
			return fmt.Errorf("m2 is %+v", p)
		}
		return nil
	})
	err := nodes[0].node.Conflicts()
	if err == nil || !strings.Contains(err.Error(), twin.cfg.Bind) || !strings.Contains(err.Error(), nodes[1].cfg.Bind) {
		t.Errorf("the conflict is %v, want both addresses", err)
	}
	testwait.For(t, "more messages of the twin", patience, func() error {
		if n := value(t, nodes[0].node.metrics.conflicts); n < 3 {
			return fmt.Errorf("%v so far", n)
		}
		return nil
	})
	if n := strings.Count(nodes[0].log.String(), "two machines have one name"); n != 1 {
		t.Errorf("the conflict was logged %d times, want once", n)
	}
	if p := nodes[0].peer("m2"); p.Address != nodes[1].cfg.Bind {
		t.Errorf("the twin took the name: %+v", p)
	}
}

func TestStrangersAreIgnored(t *testing.T) {
	nodes := newNodes(t, 2, nil)
	startAll(nodes)
	seeds := nodes[0].cfg.Peers
	wrongKey := newNode(t, Seed{"x1", meshtest.FreeAddress(t, 7946)}, seeds, nil)
	wrongKey.cfg.Key = bytes.Repeat([]byte{8}, 32)
	otherCluster := newNode(t, Seed{"x2", meshtest.FreeAddress(t, 7946)}, seeds, nil)
	otherCluster.cfg.Cluster = "test"
	wrongKey.start()
	otherCluster.start()

	// One with the label and no key at all, and plain rubbish.
	plain := memberlist.DefaultLANConfig()
	host, _, err := net.SplitHostPort(meshtest.FreeAddress(t, 7946))
	if err != nil {
		t.Fatal(err)
	}
	plain.Name, plain.Label, plain.BindAddr, plain.BindPort, plain.AdvertisePort = "x3", "prod", host, 7946, 7946
	plain.LogOutput = &meshtest.Log{}
	ml, err := memberlist.Create(plain)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ml.Shutdown() }()
	conn, err := net.Dial("udp", nodes[0].cfg.Bind)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	testwait.For(t, "the strangers' messages to be refused", patience, func() error {
		_, _ = ml.Join([]string{nodes[0].cfg.Bind})
		for n := range 8 {
			if _, err := conn.Write(bytes.Repeat([]byte{byte(n), 255, 0}, n+1)); err != nil {
				return err
			}
		}
		joins := value(t, wrongKey.node.metrics.joins.WithLabelValues("failed")) >= 3 &&
			value(t, otherCluster.node.metrics.joins.WithLabelValues("failed")) >= 3
		if n := value(t, nodes[0].node.metrics.troubles); n < 20 || !joins {
			return fmt.Errorf("%v so far, joins %v", n, joins)
		}
		return nil
	})
	peers, _ := nodes[0].node.Peers()
	if len(peers) != 2 {
		t.Errorf("m1 sees %+v, want m1 and m2 only", peers)
	}
	if p := wrongKey.peer("m1"); p.State != Unseen {
		t.Errorf("with a wrong key m1 is %+v", p)
	}
	if lines := strings.Count(nodes[0].log.String(), "\n"); lines > 40 {
		t.Errorf("the strangers filled the log: %d lines", lines)
	}
	nodes[0].waitPeer("m2", Alive)
}

func TestPortTaken(t *testing.T) {
	nodes := newNodes(t, 1, nil)
	startAll(nodes)
	other, err := New(nodes[0].cfg.withRegistry())
	if err != nil {
		t.Fatal(err)
	}
	err = other.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), nodes[0].cfg.Bind) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v, want that %s is in use", err, nodes[0].cfg.Bind)
	}
}

func (c Config) withRegistry() Config {
	c.Registerer = prometheus.NewRegistry()
	return c
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Name: "m1", Cluster: "prod", Bind: "127.0.0.1:7946", Key: key}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for want, f := range map[string]func(*Config){
		"Name is missing":              func(c *Config) { c.Name = "" },
		`Cluster ""`:                   func(c *Config) { c.Cluster = "" },
		"want 1 to 255 bytes":          func(c *Config) { c.Cluster = strings.Repeat("x", 256) },
		"want IP:PORT":                 func(c *Config) { c.Bind = "m1:7946" },
		"Key has 0 bytes":              func(c *Config) { c.Key = nil },
		"Key has 31 bytes":             func(c *Config) { c.Key = c.Key[1:] },
		"has no address":               func(c *Config) { c.Peers = []Seed{{Name: "m2"}} },
		`Meta: API server "x"`:         func(c *Config) { c.Meta.APIServer = "x" },
		"must not be negative":         func(c *Config) { c.RejoinEvery = -1 },
		"version: longer than 64":      func(c *Config) { c.Meta.Version = strings.Repeat("v", 65) },
		`version "v\n": not printable`: func(c *Config) { c.Meta.Version = "v\n" },
	} {
		c := good
		f(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	_, err := New(Config{})
	for _, want := range []string{"Name", "Cluster", "Bind", "Key"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error %v does not name %s: all faults belong in one", err, want)
		}
	}
}
