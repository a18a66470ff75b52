package gossip

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hactl/hactl/internal/logging"
)

// How fast gossip is. For 3 to 7 masters in one network; the library's defaults
// are for thousands.
const (
	// probeEvery is the pause between two probes, each of one peer in turn. With
	// 3 masters each peer is probed once a second.
	probeEvery   = 500 * time.Millisecond
	probeTimeout = 250 * time.Millisecond
	// suspicionMult times probeEvery is how long a peer that failed a probe may
	// answer before it is dead: 2 s. With 5 masters or more two others must agree,
	// else it takes suspicionMax times as long.
	suspicionMult = 4
	suspicionMax  = 3
	pushPullEvery = 10 * time.Second // full exchange with one peer, over TCP
	streamTimeout = 3 * time.Second
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
	Key     []byte // 16, 24 or 32 bytes, the same on all; derived from the cluster's token
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
	if c.Name == "" {
		bad("Name is missing")
	}
	if c.Cluster == "" || len(c.Cluster) > memberlist.LabelMaxSize {
		bad("Cluster %q: want 1 to %d bytes", c.Cluster, memberlist.LabelMaxSize)
	}
	if _, err := netip.ParseAddrPort(c.Bind); err != nil {
		bad("Bind %q: want IP:PORT", c.Bind)
	}
	if err := memberlist.ValidateKey(c.Key); err != nil {
		bad("Key has %d bytes, want 16, 24 or 32", len(c.Key))
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

// library is the configuration of memberlist.
func (c Config) library(n *Node) (*memberlist.Config, error) {
	addr := netip.MustParseAddrPort(c.Bind)
	m := memberlist.DefaultLANConfig()
	m.Name, m.Label = c.Name, c.Cluster
	m.BindAddr, m.BindPort = addr.Addr().String(), int(addr.Port())
	m.AdvertiseAddr, m.AdvertisePort = m.BindAddr, m.BindPort
	m.SecretKey = c.Key
	m.GossipVerifyIncoming, m.GossipVerifyOutgoing = true, true
	m.EnableCompression = false // the messages are small
	m.ProbeInterval, m.ProbeTimeout = probeEvery, probeTimeout
	m.SuspicionMult, m.SuspicionMaxTimeoutMult = suspicionMult, suspicionMax
	m.AwarenessMaxMultiplier = 4 // a busy machine probes up to 4 times slower
	m.PushPullInterval, m.TCPTimeout = pushPullEvery, streamTimeout
	m.DeadNodeReclaimTime = ReclaimAfter
	d := delegate{n}
	m.Delegate, m.Events, m.Conflict, m.Ping = d, d, d, d
	m.Logger = n.libraryLogger()
	if c.wrap != nil {
		t, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{m.BindAddr}, BindPort: m.BindPort, Logger: m.Logger,
		})
		if err != nil {
			return nil, err
		}
		m.Transport = c.wrap(t)
	}
	return m, nil
}
