package gossip

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/hactl/hactl/internal/mesh"
)

// Node is this master's part in the gossip.
type Node struct {
	cfg     Config
	metrics *metrics
	newMeta chan struct{} // has an element when meta must be told

	mu       sync.Mutex
	meta     []byte
	picture  picture
	current  []Peer
	changed  chan struct{}
	conflict map[string]bool // names whose conflict was logged
}

// New returns a node that does not take part yet. It errs when cfg is wrong,
// naming every fault.
func New(cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, newMeta: make(chan struct{}, 1), changed: make(chan struct{}),
		picture: picture{peers: map[string]*peer{}}, conflict: map[string]bool{},
	}
	var err error
	if n.meta, err = cfg.Meta.encode(); err != nil {
		return nil, fmt.Errorf("gossip: Meta: %w", err)
	}
	now := time.Now()
	self := n.picture.get(cfg.Name, now)
	self.Self, self.Address, self.Meta = true, cfg.Bind, cfg.Meta
	for _, s := range cfg.Peers {
		if s.Name != "" && s.Name != cfg.Name {
			n.picture.get(s.Name, now).Address = s.Address
		}
	}
	n.current = n.picture.list()
	if n.metrics, err = newMetrics(cfg.Registerer); err != nil {
		return nil, err
	}
	return n, nil
}

// Peers returns all configured and all seen nodes, this one too, by name; and a
// channel that is closed when the picture is no longer the latest. It may be
// called before, while and after Run runs.
func (n *Node) Peers() (peers []Peer, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]Peer(nil), n.current...), n.changed
}

// SetMeta changes what is said of this node. It returns an error, and changes
// nothing, when m is not valid or too long.
func (n *Node) SetMeta(m Meta) error {
	text, err := m.encode()
	if err != nil {
		return fmt.Errorf("gossip: Meta: %w", err)
	}
	n.mu.Lock()
	same := string(n.meta) == string(text)
	n.meta = text
	n.picture.get(n.cfg.Name, time.Now()).Meta = m
	if !same {
		n.publish()
	}
	n.mu.Unlock()
	if !same {
		select {
		case n.newMeta <- struct{}{}:
		default:
		}
	}
	return nil
}

// Run takes part until ctx ends, then says goodbye and returns nil. It errs
// when the address cannot be listened on.
func (n *Node) Run(ctx context.Context) error {
	lib, err := n.cfg.library(n)
	var ml *memberlist.Memberlist
	if err == nil {
		ml, err = memberlist.Create(lib)
	}
	if err != nil {
		return fmt.Errorf("gossip on %s: %w", n.cfg.Bind, err)
	}
	n.cfg.Logger.Info("gossip listens", "master", n.cfg.Name, "address", n.cfg.Bind)
	var joins sync.WaitGroup
	n.loop(ctx, ml, &joins)
	joins.Wait() // each is bounded by mesh.StreamTimeout
	n.goodbye(ml)
	if err := ml.Shutdown(); err != nil {
		return fmt.Errorf("gossip on %s: stop: %w", n.cfg.Bind, err)
	}
	return nil
}

// goodbye tells the others that this node leaves of its own will.
func (n *Node) goodbye(ml *memberlist.Memberlist) {
	n.mu.Lock()
	m := n.picture.get(n.cfg.Name, time.Now()).Meta
	m.Leaving = true
	if text, err := m.encode(); err == nil {
		n.meta = text
	}
	n.mu.Unlock()
	err := errors.Join(ml.UpdateNode(n.cfg.LeaveTimeout/2), ml.Leave(n.cfg.LeaveTimeout/2))
	if err != nil {
		n.cfg.Logger.Debug("gossip: goodbye was not sent", "master", n.cfg.Name, "err", err)
	}
}

func (n *Node) loop(ctx context.Context, ml *memberlist.Memberlist, joins *sync.WaitGroup) {
	review := time.NewTicker(mesh.ProbeEvery)
	defer review.Stop()
	rejoin := time.NewTimer(0)
	defer rejoin.Stop()
	done := make(chan struct{}, 1)
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.newMeta:
			if err := ml.UpdateNode(time.Second); err != nil {
				n.cfg.Logger.Debug("gossip: the news of this node was not sent", "master", n.cfg.Name, "err", err)
			}
		case <-review.C:
			n.mu.Lock()
			if n.picture.review(time.Now()) {
				n.publish()
			}
			n.mu.Unlock()
			n.metrics.health.Set(float64(ml.GetHealthScore()))
		case <-rejoin.C:
			joins.Go(func() {
				n.rejoin(ml)
				done <- struct{}{}
			})
		case <-done:
			rejoin.Reset(mesh.Jitter(n.cfg.RejoinEvery))
		}
	}
}

// rejoin tries every configured peer that is not seen, all at the same time.
func (n *Node) rejoin(ml *memberlist.Memberlist) {
	var wg sync.WaitGroup
	for _, s := range n.missing() {
		wg.Go(func() {
			if _, err := ml.Join([]string{s.Address}); err != nil {
				n.metrics.joins.WithLabelValues("failed").Inc()
				n.cfg.Logger.Debug("gossip: a peer was not reached", "master", n.cfg.Name, "peer", s.Name, "address", s.Address, "err", err)
				return
			}
			n.metrics.joins.WithLabelValues("ok").Inc()
		})
	}
	wg.Wait()
}

func (n *Node) missing() []Seed {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []Seed
	for _, s := range n.cfg.Peers {
		if s.Name == n.cfg.Name || s.Address == n.cfg.Bind {
			continue
		}
		seen := false
		for _, e := range n.picture.peers {
			if (e.Name == s.Name || s.Name == "" && e.Address == s.Address) && (e.State == Alive || e.State == Suspect) {
				seen = true
			}
		}
		if !seen {
			out = append(out, s)
		}
	}
	return out
}

// publish makes the picture the latest one. The lock is held.
func (n *Node) publish() {
	n.current = n.picture.list()
	close(n.changed)
	n.changed = make(chan struct{})
	n.metrics.count(n.current)
}

// Conflict tells two nodes that claim one name.
type Conflict struct {
	Name           string
	Address, Other string // IP:PORT of the one that has it, and of the other
}

func (c Conflict) Error() string {
	return fmt.Sprintf("the name %s is claimed by %s and by %s", c.Name, c.Address, c.Other)
}

// Conflicts returns the conflicts of names seen within the last minute, joined;
// nil when there are none. It is a health.Check's answer.
func (n *Node) Conflicts() error {
	peers, _ := n.Peers()
	var errs []error
	for _, p := range peers {
		if p.Conflict != "" {
			errs = append(errs, Conflict{p.Name, p.Address, p.Conflict})
		}
	}
	return errors.Join(errs...)
}
