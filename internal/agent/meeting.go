package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/event"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/rendezvous"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/token"
	"github.com/hactl/hactl/internal/version"
)

// recheck is the mean pause between two looks at the token file, its end, and
// the configuration.
const recheck = 2 * time.Second

// askEtcd bounds the question whether the token is good.
const askEtcd = 3 * time.Second

// meeting keeps this master's rendezvous open for as long as there is a token
// that is good, so that a late or a new machine always finds somebody; and keeps
// the token file as the order in etcd wants it.
type meeting struct {
	layout     layout.Layout
	cluster    *config.Cluster // of the start: ports, and where the token file is
	self       config.Master
	machine    string
	orders     *token.Store
	logger     *slog.Logger
	registerer prometheus.Registerer
	now        func() time.Time

	record func(event.Event)

	news    chan struct{} // has an element when an order came
	foreign string        // machines with another cluster's keys that were told of

	mu     sync.Mutex
	order  *token.Order // the last one; nil: none came
	closed string       // why the rendezvous is closed; empty: it is open
	said   bool         // closed is known
}

// status tells whether the rendezvous is open; nil: it is not known yet.
func (m *meeting) status() *status.Rendezvous {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.said {
		return nil
	}
	return &status.Rendezvous{Open: m.closed == "", Why: m.closed}
}

func (a *Agent) newMeeting() (*meeting, error) {
	key, err := gossipKey(a.cfg.Layout)
	if err != nil {
		return nil, err
	}
	m := &meeting{
		layout: a.cfg.Layout, cluster: a.cfg.Cluster, self: a.self,
		logger: a.cfg.Logger, registerer: a.registry, now: time.Now, news: make(chan struct{}, 1), record: a.events.Record,
	}
	if m.machine, err = rendezvous.MachineID(a.cfg.Layout); err != nil {
		return nil, err
	}
	m.orders, err = token.New(a.etcd.cluster, key, a.cfg.Cluster.Name)
	return m, err
}

// Run keeps the rendezvous open whenever it may be, until ctx ends.
func (m *meeting) Run(ctx context.Context) error {
	var watch sync.WaitGroup
	defer watch.Wait()
	watch.Go(func() { m.orders.Watch(ctx, m.ordered, m.trouble()) })
	for ctx.Err() == nil {
		text, err := m.token()
		if err == nil {
			err = m.open(ctx, text)
		}
		if err != nil { // else there is another token: at once with that
			m.say(err)
			m.wait(ctx)
		}
	}
	return nil
}

// ordered takes an order of etcd's.
func (m *meeting) ordered(o token.Order) {
	m.mu.Lock()
	same := m.order != nil && *m.order == o
	m.order = &o
	m.mu.Unlock()
	if !same {
		m.logger.Info("etcd says which token is good", "revoked", o.Revoked(), "by", o.By, "at", o.At)
	}
	select {
	case m.news <- struct{}{}:
	default:
	}
}

// trouble logs what is wrong with the watch, once per change.
func (m *meeting) trouble() func(error) {
	last := ""
	return func(err error) {
		if text := err.Error(); text != last {
			last = text
			m.logger.Warn("etcd does not say which token is good", "err", err)
		}
	}
}

// say logs when the rendezvous cannot be open, once per reason.
func (m *meeting) say(err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	m.mu.Lock()
	news := why != m.closed
	m.closed, m.said = why, true
	m.mu.Unlock()
	switch {
	case !news || why == "":
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, pki.ErrTokenExpired), errors.Is(err, token.ErrNotGood):
		m.logger.Info("no rendezvous: no machine can join until there is a new token", "reason", err)
	default:
		m.logger.Warn("no rendezvous: no machine can join", "err", err)
	}
}

func (m *meeting) wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-m.news:
	case <-time.After(recheck):
	}
}

func (m *meeting) file() string { return m.layout.Under(m.cluster.Token.File) }

// token brings the file to what the last order wants, and returns the token, if
// it is good now.
func (m *meeting) token() (string, error) {
	m.mu.Lock()
	order := m.order
	m.mu.Unlock()
	if order != nil {
		if err := m.obey(*order); err != nil {
			return "", err
		}
	}
	text, err := pki.ReadToken(m.file())
	if err != nil {
		return "", err
	}
	return text, pki.TokenValid(text, m.now())
}

func (m *meeting) obey(o token.Order) error {
	have, err := os.ReadFile(m.file())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if o.Revoked() {
		if err == nil {
			if err := os.Remove(m.file()); err != nil {
				return fmt.Errorf("remove the revoked token: %w", err)
			}
			m.logger.Info("the token was revoked; its file is removed", "file", m.file())
		}
		return fmt.Errorf("%w: revoked on %s", token.ErrNotGood, o.By)
	}
	if strings.TrimSpace(string(have)) == o.Token {
		return nil
	}
	if err := atomicfile.MkdirWrite(m.file(), []byte(o.Token+"\n"), 0o600, 0o755); err != nil {
		return fmt.Errorf("write the new token: %w", err)
	}
	m.logger.Info("the token was rotated; its file is written", "file", m.file())
	return nil
}

// open runs the rendezvous with one token for as long as that is the good one. It
// returns why it cannot.
func (m *meeting) open(ctx context.Context, text string) error {
	key, err := rendezvous.Key(text, m.cluster.Name)
	if err != nil {
		return err
	}
	node, err := rendezvous.New(m.config(ctx, key, text))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx) }()
	for {
		card := m.card()
		select {
		case err := <-done: // before its time: the port is taken
			return err
		case <-m.news:
		case <-time.After(recheck):
		}
		now, err := m.token()
		if ctx.Err() != nil || err != nil || now != text {
			cancel()
			return errors.Join(<-done, err)
		}
		m.say(nil)
		seen, _ := node.Cards()
		m.tellForeign(seen, card.CA)
		if m.card() != card {
			node.Refresh()
		}
	}
}

// tellForeign tells, once, of machines that have this cluster's token and name and
// the keys of another: two clusters were founded, and their masters would fight
// over addresses.
func (m *meeting) tellForeign(seen []rendezvous.Seen, ours string) {
	var names []string
	for _, s := range seen {
		if s.Alive && s.CA != "" && ours != "" && s.CA != ours {
			names = append(names, s.Name+" at "+s.Address)
		}
	}
	slices.Sort(names)
	text := strings.Join(names, ", ")
	if text == m.foreign {
		return
	}
	m.foreign = text
	if text != "" {
		m.logger.Warn("machines of another cluster of this name are here", "machines", text)
		m.record(event.Event{Source: sourceMeeting, Unit: "*", Action: "found-foreign", Reason: "machines with the keys of another cluster of this name: " + text,
			Detail: "hactl status there tells which cluster is to be kept; hactl reset on the other's masters"})
	}
}

func (m *meeting) config(ctx context.Context, key []byte, text string) rendezvous.Config {
	c := rendezvous.Config{
		Name: m.self.Name, Cluster: m.cluster.Name, Bind: m.cluster.JoinAddress(m.self), Key: key,
		Card: m.card, Config: m.text, Secrets: func() (rendezvous.Secrets, error) { return m.secrets(ctx, text) },
		Logger: m.logger, Registerer: m.registerer,
	}
	for _, o := range m.cluster.Masters {
		c.Seeds = append(c.Seeds, m.cluster.JoinAddress(o))
	}
	return c
}

// text is the configuration as it is on the disk now: it changes while the agent
// runs, when masters come and go.
func (m *meeting) text() ([]byte, error) {
	c, err := config.Load(m.layout)
	if err != nil {
		return nil, err
	}
	return config.Marshal(c)
}

func (m *meeting) card() rendezvous.Card {
	c := rendezvous.Card{
		Name: m.self.Name, Address: m.self.Address, Machine: m.machine, Release: version.Release,
		Kubernetes: m.cluster.Kubernetes.Version, Phase: rendezvous.Member, Serving: true,
	}
	if now, err := config.Load(m.layout); err == nil {
		c.Kubernetes = now.Kubernetes.Version
	}
	if text, err := m.text(); err == nil {
		c.Config = rendezvous.HashConfig(text)
	}
	if s, err := master.ReadSecrets(m.layout, m.cluster); err == nil {
		c.CA = s.Fingerprint()
	}
	if in, err := etcdcluster.ReadIntent(m.layout.State()); err == nil {
		c.Cluster = in.ClusterID
		if in.State == etcdcluster.Removed {
			c.Phase = rendezvous.Removed
		}
	}
	return c
}

// secrets returns the shared secrets if etcd says, now, that the token is good: a
// master that was off or cut off while it was rotated must not give them to
// whoever has the old one. Without etcd's quorum a new machine could not become a
// member anyway.
func (m *meeting) secrets(ctx context.Context, text string) (rendezvous.Secrets, error) {
	if m.card().Phase == rendezvous.Removed {
		return nil, nil // what it has may be another cluster's by now
	}
	if err := pki.TokenValid(text, m.now()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askEtcd)
	defer cancel()
	if err := m.orders.Good(ctx, text); err != nil {
		if errors.Is(err, token.ErrNotGood) {
			return nil, err
		}
		return nil, fmt.Errorf("whether the token is still good only etcd knows, which does not say: %w", err)
	}
	return master.ReadSecrets(m.layout, m.cluster)
}
