package rendezvous

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
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

var key = bytes.Repeat([]byte{7}, 32)

// machine is one that meets others; it can be started again.
type machine struct {
	tb  testing.TB
	cfg Config
	log *meshtest.Log

	mu      sync.Mutex
	card    Card
	config  *config.Cluster
	secrets Secrets

	node *Node
	stop func()
}

// machines makes m1, m2, … that have each other as seeds and in their
// configuration.
func machines(tb testing.TB, count int, w *meshtest.Wire) []*machine {
	tb.Helper()
	c := config.Default()
	c.Name = "prod"
	for i := range count {
		addr := netip.MustParseAddrPort(meshtest.FreeAddress(tb, 7947))
		c.Masters = append(c.Masters, config.Master{Name: fmt.Sprintf("m%d", i+1), Address: addr.Addr().String()})
	}
	var out []*machine
	for _, m := range c.Masters {
		out = append(out, newMachine(tb, m.Name, m.Address, c, w))
	}
	return out
}

func newMachine(tb testing.TB, name, address string, c *config.Cluster, w *meshtest.Wire) *machine {
	m := &machine{tb: tb, log: &meshtest.Log{}, config: c}
	m.card = Card{Name: name, Address: address, Machine: newID(16), Release: "v1", Kubernetes: c.Kubernetes.Version, Phase: Fresh}
	m.cfg = Config{
		Name: name, Cluster: c.Name, Bind: net.JoinHostPort(address, "7947"), Key: key,
		Card: m.ownCard, Config: m.text, Secrets: m.own,
		Logger: slog.New(slog.NewTextHandler(m.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	for _, o := range c.Masters {
		m.cfg.Seeds = append(m.cfg.Seeds, c.JoinAddress(o))
	}
	if w != nil {
		m.cfg.wrap = w.Plug(m.cfg.Bind)
	}
	return m
}

func (m *machine) text() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return config.Marshal(m.config)
}

func (m *machine) ownCard() Card {
	text, err := m.text()
	if err != nil {
		m.tb.Error(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.card
	c.Config = HashConfig(text)
	return c
}

func (m *machine) own() (Secrets, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.secrets, nil
}

func (m *machine) become(p Phase, s Secrets) {
	m.mu.Lock()
	m.card.Phase, m.secrets = p, s
	m.mu.Unlock()
	m.node.Refresh()
}

func (m *machine) start() {
	m.tb.Helper()
	m.cfg.Registerer = prometheus.NewRegistry()
	node, err := New(m.cfg)
	if err != nil {
		m.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx) }()
	var once sync.Once
	m.node = node
	m.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				m.tb.Errorf("run %s: %v", m.cfg.Name, err)
			}
		})
	}
	m.tb.Cleanup(m.stop)
}

func start(ms ...*machine) {
	for _, m := range ms {
		m.tb.Helper()
		m.start()
	}
}

// sees returns the cards of one name.
func (m *machine) sees(name string) []Seen {
	cards, _ := m.node.Cards()
	return slices.DeleteFunc(cards, func(s Seen) bool { return s.Name != name })
}

// waitCard waits until m has one card of name for which ok is true.
func (m *machine) waitCard(name, what string, ok func(Seen) bool) Seen {
	m.tb.Helper()
	var out Seen
	testwait.For(m.tb, fmt.Sprintf("%s to see %s %s", m.cfg.Name, name, what), patience, func() error {
		cards := m.sees(name)
		if len(cards) != 1 || !ok(cards[0]) {
			return fmt.Errorf("it sees %+v\nlog: %s", cards, m.log)
		}
		out = cards[0]
		return nil
	})
	return out
}

func (m *machine) waitAlive(names ...string) {
	m.tb.Helper()
	for _, name := range names {
		if name != m.cfg.Name {
			m.waitCard(name, "alive", func(s Seen) bool { return s.Alive })
		}
	}
}

func meet(ms ...*machine) {
	for _, m := range ms {
		m.tb.Helper()
		for _, o := range ms {
			m.waitAlive(o.cfg.Name)
		}
	}
}

func TestThreeMeetOneLate(t *testing.T) {
	t.Parallel()
	ms := machines(t, 3, nil)
	start(ms[:2]...)
	meet(ms[:2]...)
	testwait.For(t, "m1 to know that m3 is not there", patience, func() error {
		un := ms[0].node.Unmet()
		if len(un) != 1 || un[0].Address != ms[2].cfg.Bind || un[0].Stranger || !strings.Contains(un[0].Err.Error(), "refused") {
			return fmt.Errorf("%+v", un)
		}
		return nil
	})
	start(ms[2])
	meet(ms...)
	got := ms[0].sees("m3")[0]
	want := ms[2].ownCard()
	if want.Clock = got.Clock; got.Card != want || got.From != ms[2].cfg.Bind || got.SeenAt.IsZero() {
		t.Errorf("the card of m3 is %+v, want %+v", got, want)
	}
	if got.Skew.Abs() > 3*time.Second {
		t.Errorf("one machine's clock is off by %v from itself", got.Skew)
	}
	// News travel, and close the channel of the old picture.
	_, changed := ms[0].node.Cards()
	ms[2].become(Holding, nil)
	select {
	case <-changed:
	case <-time.After(patience):
		t.Fatal("the picture did not change")
	}
	for _, m := range ms[:2] {
		m.waitCard("m3", "holding", func(s Seen) bool { return s.Phase == Holding })
	}
	testwait.For(t, "everybody to be met", patience, func() error {
		if un := ms[0].node.Unmet(); len(un) > 0 {
			return fmt.Errorf("%+v", un)
		}
		return nil
	})
	if err := errors.Join(ms[0].node.Conflicts(), ms[1].node.Conflicts(), ms[2].node.Conflicts()); err != nil {
		t.Error(err)
	}
}

var secrets = Secrets{"etc/kubernetes/pki/ca.key": []byte("the CA's key \x00\xff"), "etc/kubernetes/pki/ca.crt": bytes.Repeat([]byte("c"), 30<<10)}

func TestSecretsAreHandedOver(t *testing.T) {
	t.Parallel()
	ms := machines(t, 2, nil)
	start(ms...)
	meet(ms...)
	if _, err := ms[1].node.SecretsOf(t.Context(), "m1"); !errors.Is(err, ErrNone) {
		t.Errorf("before there are any: %v, want ErrNone", err)
	}
	if _, err := ms[1].node.SecretsOf(t.Context(), "m9"); !errors.Is(err, ErrUnknown) {
		t.Errorf("of nobody: %v, want ErrUnknown", err)
	}
	ms[0].become(Holding, secrets)
	got, err := ms[1].node.SecretsOf(t.Context(), "m1")
	if err != nil || !reflect.DeepEqual(got, secrets) {
		t.Fatalf("%d files, %v", len(got), err)
	}
	text, err := ms[1].node.ConfigOf(t.Context(), "m1")
	if want, _ := ms[0].text(); err != nil || !bytes.Equal(text, want) {
		t.Errorf("the configuration is %q, %v", text, err)
	}
	if !strings.Contains(ms[0].log.String(), "secrets are given") {
		t.Errorf("it is not logged who got the secrets:\n%s", ms[0].log)
	}
	for _, m := range ms {
		if strings.Contains(m.log.String(), "the CA's key") {
			t.Errorf("the log shows a secret:\n%s", m.log)
		}
	}
}

// refusal asks m1 for its secrets and returns why it got none.
func (m *machine) refusal() string {
	m.tb.Helper()
	_, err := m.node.SecretsOf(m.tb.Context(), "m1")
	if !errors.Is(err, ErrRefused) {
		m.tb.Fatalf("%s asked m1 for its secrets: %v, want ErrRefused", m.cfg.Name, err)
	}
	return err.Error()
}

func TestAnotherConfigGetsNoSecrets(t *testing.T) {
	t.Parallel()
	ms := machines(t, 2, nil)
	other := *ms[1].config
	other.Kubernetes.Version = "v1.35.4"
	ms[1].config = &other
	ms[0].secrets = secrets
	start(ms...)
	meet(ms...)
	if why := ms[1].refusal(); !strings.Contains(why, "another configuration") {
		t.Error(why)
	}
	if a, b := ms[1].sees("m1")[0].Config, ms[1].ownCard().Config; a == b {
		t.Error("the cards do not show that the configurations differ")
	}
	text, err := ms[1].node.ConfigOf(t.Context(), "m1")
	if err != nil || !strings.Contains(string(text), ms[0].config.Kubernetes.Version) {
		t.Errorf("the other's configuration for a diff: %q, %v", text, err)
	}
	if n := strings.Count(ms[0].log.String(), "secrets are refused"); n != 1 {
		t.Errorf("the refusal was logged %d times, want once", n)
	}
	ms[1].mu.Lock()
	ms[1].config = ms[0].config
	ms[1].mu.Unlock()
	if _, err := ms[1].node.SecretsOf(t.Context(), "m1"); err != nil {
		t.Errorf("with the same configuration: %v", err)
	}
}

func TestWhoIsNotInTheConfigGetsNoSecrets(t *testing.T) {
	t.Parallel()
	ms := machines(t, 2, nil)
	ms[0].secrets = secrets
	address := netip.MustParseAddrPort(meshtest.FreeAddress(t, 7947)).Addr().String()
	stranger := newMachine(t, "m9", address, ms[0].config, nil)
	// The configuration has m2, at another address.
	moved := newMachine(t, "m2", netip.MustParseAddrPort(meshtest.FreeAddress(t, 7947)).Addr().String(), ms[0].config, nil)
	start(ms[0], stranger, moved)
	meet(ms[0], stranger, moved)
	if why := stranger.refusal(); !strings.Contains(why, "no master m9") {
		t.Error(why)
	}
	if why := moved.refusal(); !strings.Contains(why, "asks from") {
		t.Error(why)
	}
}

func TestTwoMachinesOfOneName(t *testing.T) {
	t.Parallel()
	ms := machines(t, 3, nil)
	ms[0].secrets = secrets
	twin := newMachine(t, "m2", netip.MustParseAddrPort(meshtest.FreeAddress(t, 7947)).Addr().String(), ms[0].config, nil)
	start(append(ms, twin)...)
	for _, m := range append(ms, twin) {
		testwait.For(t, fmt.Sprintf("%s at %s to see the conflict", m.cfg.Name, m.cfg.Bind), patience, func() error {
			err := m.node.Conflicts()
			var c Conflict
			if !errors.As(err, &c) || !strings.Contains(err.Error(), "name m2") ||
				!strings.Contains(err.Error(), twin.cfg.Bind) || !strings.Contains(err.Error(), ms[1].cfg.Bind) {
				return fmt.Errorf("got %w, want a conflict", err)
			}
			return nil
		})
	}
	testwait.For(t, "m1 to have both cards", patience, func() error {
		if cards := ms[0].sees("m2"); len(cards) != 2 {
			return fmt.Errorf("%+v", cards)
		}
		return nil
	})
	if why := ms[1].refusal(); !strings.Contains(why, "two machines") {
		t.Error(why)
	}
	if n := strings.Count(ms[0].log.String(), "two machines claim"); n != 1 {
		t.Errorf("the conflict was logged %d times, want once", n)
	}
	twin.stop()
	for _, m := range ms {
		testwait.For(t, m.cfg.Name+" to forget the conflict", patience, m.node.Conflicts)
	}
	if _, err := ms[1].node.SecretsOf(t.Context(), "m1"); err != nil {
		t.Errorf("when the twin is gone: %v", err)
	}
}

func TestAnotherTokenSeesNobody(t *testing.T) {
	t.Parallel()
	ms := machines(t, 2, nil)
	wrong := newMachine(t, "m9", netip.MustParseAddrPort(meshtest.FreeAddress(t, 7947)).Addr().String(), ms[0].config, nil)
	wrong.cfg.Key = bytes.Repeat([]byte{8}, 32)
	other := newMachine(t, "m8", netip.MustParseAddrPort(meshtest.FreeAddress(t, 7947)).Addr().String(), ms[0].config, nil)
	other.cfg.Cluster = "test"
	start(append(ms, wrong, other)...)
	meet(ms...)
	for _, m := range []*machine{wrong, other} {
		testwait.For(t, m.cfg.Name+" to know why it meets nobody", patience, func() error {
			un := m.node.Unmet()
			if len(un) != 2 {
				return fmt.Errorf("%+v", un)
			}
			for i, u := range un {
				if !u.Stranger || !strings.Contains(u.Err.Error(), "somebody at "+ms[i].cfg.Bind+" answers with another token or cluster name") {
					return fmt.Errorf("%+v", u)
				}
			}
			return nil
		})
		if cards, _ := m.node.Cards(); len(cards) > 0 {
			t.Errorf("%s sees %+v", m.cfg.Name, cards)
		}
	}
	if cards, _ := ms[0].node.Cards(); len(cards) != 1 {
		t.Errorf("m1 sees %+v", cards)
	}
	if lines := strings.Count(ms[0].log.String(), "\n"); lines > 20 {
		t.Errorf("the strangers filled the log with %d lines", lines)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	ms := machines(t, 3, nil)
	ms[0].secrets = secrets
	start(ms...)
	meet(ms...)
	ms[2].stop() // says goodbye
	ms[0].waitCard("m3", "gone", func(s Seen) bool { return !s.Alive })
	ms[2].card.Serving = true // the agent after the bootstrap
	ms[2].start()
	meet(ms...)
	for _, m := range ms[:2] {
		m.waitCard("m3", "serving", func(s Seen) bool { return s.Serving && s.Alive })
		if err := m.node.Conflicts(); err != nil {
			t.Errorf("a restart is a conflict: %v", err)
		}
	}
	if _, err := ms[2].node.SecretsOf(t.Context(), "m1"); err != nil {
		t.Error(err)
	}
}

// A process that was killed says no goodbye; its successor is no twin.
func TestKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	w := &meshtest.Wire{}
	ms := machines(t, 2, w)
	ms[0].secrets = secrets
	start(ms...)
	meet(ms...)
	w.Set(ms[1].cfg.Bind) // its goodbye gets lost
	ms[1].stop()
	w.Set()
	ms[1].start()
	meet(ms...)
	if _, err := ms[1].node.SecretsOf(t.Context(), "m1"); err != nil {
		t.Error(err)
	}
	if err := errors.Join(ms[0].node.Conflicts(), ms[1].node.Conflicts()); err != nil {
		t.Error(err)
	}
}

func TestPartition(t *testing.T) {
	t.Parallel()
	w := &meshtest.Wire{}
	ms := machines(t, 3, w)
	ms[0].secrets = secrets
	start(ms...)
	meet(ms...)
	w.Set(ms[2].cfg.Bind)
	ms[0].waitCard("m3", "gone", func(s Seen) bool { return !s.Alive })
	ms[2].waitCard("m1", "gone", func(s Seen) bool { return !s.Alive })
	if _, err := ms[2].node.SecretsOf(t.Context(), "m1"); !errors.Is(err, ErrUnknown) {
		t.Errorf("through a cut network: %v", err)
	}
	w.Set()
	meet(ms...)
	if _, err := ms[2].node.SecretsOf(t.Context(), "m1"); err != nil {
		t.Error(err)
	}
}

// A machine that freezes in the middle of a question costs the asker a bounded
// time; here its answers are lost.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	w := &meshtest.Wire{}
	ms := machines(t, 2, w)
	start(ms...)
	meet(ms...)
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, ErrNoAnswer)
	defer cancel()
	w.Set(ms[1].cfg.Bind)
	if _, err := ms[1].node.ConfigOf(ctx, "m1"); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("%v, want ErrNoAnswer", err)
	}
}

func TestManyJoinsAndLeavesLeakNothing(t *testing.T) {
	const rounds = 25
	ms := machines(t, 5, nil)
	start(ms[0])
	for i := range rounds { // four machines a round: a hundred joins and leaves
		start(ms[1:]...)
		if i%5 == 0 {
			meet(ms...)
		}
		var stops sync.WaitGroup
		for _, m := range ms[1:] {
			stops.Go(m.stop)
		}
		stops.Wait()
	}
	ms[0].node.mu.Lock()
	entries := len(ms[0].node.picture.others)
	ms[0].node.mu.Unlock()
	if entries > maxEntries {
		t.Errorf("%d entries are remembered", entries)
	}
	ms[0].stop()
	testwait.For(t, "all goroutines to end", patience, func() error {
		if n := runtime.NumGoroutine(); n > 20 {
			return fmt.Errorf("%d goroutines", n)
		}
		return nil
	})
}

func TestPortTaken(t *testing.T) {
	ms := machines(t, 2, nil)
	start(ms...)
	meet(ms...)
	other, err := New(ms[0].cfg)
	if err != nil {
		t.Fatal(err) // with the metrics of the first one
	}
	if err := other.Run(t.Context()); err == nil || !strings.Contains(err.Error(), ms[0].cfg.Bind) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v, want that %s is in use", err, ms[0].cfg.Bind)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := machines(t, 1, nil)[0].cfg
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for want, f := range map[string]func(*Config){
		"Name is missing":  func(c *Config) { c.Name = "" },
		`Cluster ""`:       func(c *Config) { c.Cluster = "" },
		"want IP:PORT":     func(c *Config) { c.Bind = "m1" },
		"Key has 0 bytes":  func(c *Config) { c.Key = nil },
		`Seeds: "m1:7947"`: func(c *Config) { c.Seeds = []string{"m1:7947"} },
		"must be given":    func(c *Config) { c.Secrets = nil },
		"phase":            func(c *Config) { c.Card = func() Card { return Card{Name: "m1", Address: "10.0.0.1", Machine: "x"} } },
		"card is m2's": func(c *Config) {
			c.Card = func() Card { return Card{Name: "m2", Address: "10.0.0.1", Machine: "x", Phase: Fresh} }
		},
	} {
		c := good
		f(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func TestMachineIDStays(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	a, err := MachineID(l)
	if err != nil || len(a) != 32 {
		t.Fatalf("%q, %v", a, err)
	}
	if b, err := MachineID(l); err != nil || a != b {
		t.Errorf("asked again %q, %v", b, err)
	}
	if c, err := MachineID(layout.Layout{Root: t.TempDir()}); err != nil || c == a {
		t.Errorf("another machine has the same: %q, %v", c, err)
	}
}
