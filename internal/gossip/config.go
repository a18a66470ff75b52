package gossip

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/mesh"
)

const (
	pushPullEvery = 10 * time.Second // full exchange with one peer, over TCP

	// DefaultRejoinEvery is the mean pause between two tries to reach a configured
	// peer that is not seen.
	DefaultRejoinEvery = 3 * time.Second
	// ReclaimAfter is how long a peer must have been dead before another address
	// may have its name.
	ReclaimAfter = 10 * time.Second
	// conflictShown is how long a conflict of names stays visible after it was
	// last seen.
	conflictShown = time.Minute
)

// Config says who this node is and whom it looks for. All but Peers, Meta,
// RejoinEvery, LeaveTimeout, Logger and Registerer are required.
type Config struct {
	Name    string // the master's name, unique in the cluster
	Cluster string // the cluster's name; clusters with different names never mix
	Bind    string // IP:PORT to listen on, UDP and TCP, and to be reached at
	Key     []byte // 16, 24 or 32 bytes, the same on all: pki.GossipKeyFile's
	Peers   []Seed // the configured masters; this one may be among them

	Meta Meta // what is said of this node at first; see SetMeta

	RejoinEvery  time.Duration // default DefaultRejoinEvery; jittered by half
	LeaveTimeout time.Duration // default 2s: how long saying goodbye may take

	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: no metrics

	// wrap lets tests cut a network.
	wrap func(memberlist.NodeAwareTransport) memberlist.Transport
}

// Seed is a peer that shall be found.
type Seed struct {
	Name    string // may be empty when only the address is known
	Address string // host:port
}

func (c Config) withDefaults() Config {
	if c.RejoinEvery == 0 {
		c.RejoinEvery = DefaultRejoinEvery
	}
	if c.LeaveTimeout == 0 {
		c.LeaveTimeout = 2 * time.Second
	}
	if c.Logger == nil {
		c.Logger = logging.Discard()
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("gossip: "+format, args...)) }
	if err := c.mesh(nil).Validate(); err != nil {
		errs = append(errs, fmt.Errorf("gossip: %w", err))
	}
	for _, p := range c.Peers {
		if p.Address == "" {
			bad("Peers: %q has no address", p.Name)
		}
	}
	if _, err := c.Meta.encode(); err != nil {
		bad("Meta: %w", err)
	}
	if c.RejoinEvery < 0 || c.LeaveTimeout < 0 {
		bad("RejoinEvery %v and LeaveTimeout %v must not be negative", c.RejoinEvery, c.LeaveTimeout)
	}
	return errors.Join(errs...)
}

func (c Config) mesh(n *Node) mesh.Config {
	m := mesh.Config{
		Name: c.Name, Cluster: c.Cluster, Bind: c.Bind, Key: c.Key, PushPullEvery: pushPullEvery,
		Logger: c.Logger.With("master", c.Name), Wrap: c.wrap,
	}
	if n != nil {
		m.Trouble = n.metrics.troubles.Inc
	}
	return m
}

// library is the configuration of memberlist.
func (c Config) library(n *Node) (*memberlist.Config, error) {
	m, err := c.mesh(n).Library()
	if err != nil {
		return nil, err
	}
	m.DeadNodeReclaimTime = ReclaimAfter
	d := delegate{n}
	m.Delegate, m.Events, m.Conflict, m.Ping = d, d, d, d
	return m, nil
}
