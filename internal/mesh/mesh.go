package mesh

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// How fast a mesh is. For 3 to 7 masters in one network; the library's defaults
// are for thousands.
const (
	// ProbeEvery is the pause between two probes, each of one peer in turn. With
	// 3 masters each peer is probed once a second.
	ProbeEvery   = 500 * time.Millisecond
	ProbeTimeout = 250 * time.Millisecond

	// suspicionMult times ProbeEvery is how long a peer that failed a probe may
	// answer before it is dead: 2 s. With 5 masters or more two others must agree,
	// else it takes suspicionMax times as long.
	suspicionMult = 4
	suspicionMax  = 3

	// StreamTimeout bounds each exchange over TCP.
	StreamTimeout = 3 * time.Second
)

// Config of one node of a mesh.
type Config struct {
	Name    string // unique in the mesh
	Cluster string // the label; clusters with different names never mix
	Bind    string // IP:PORT to listen on, UDP and TCP, and to be reached at
	Key     []byte // 16, 24 or 32 bytes, the same on all
	// PushPullEvery is the pause between two full exchanges with one peer, over TCP.
	PushPullEvery time.Duration

	Logger  *slog.Logger
	Trouble func() // called for each warning and error of the library's

	// Wrap lets tests cut a network; nil in production.
	Wrap func(memberlist.NodeAwareTransport) memberlist.Transport
}

// Validate reports every fault.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
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
	return errors.Join(errs...)
}

// Library is the configuration of memberlist, without delegates. c must be valid.
func (c Config) Library() (*memberlist.Config, error) {
	addr := netip.MustParseAddrPort(c.Bind)
	m := memberlist.DefaultLANConfig()
	m.Name, m.Label = c.Name, c.Cluster
	m.BindAddr, m.BindPort = addr.Addr().String(), int(addr.Port())
	m.AdvertiseAddr, m.AdvertisePort = m.BindAddr, m.BindPort
	m.SecretKey = c.Key
	m.GossipVerifyIncoming, m.GossipVerifyOutgoing = true, true
	m.EnableCompression = false // the messages are small
	m.ProbeInterval, m.ProbeTimeout = ProbeEvery, ProbeTimeout
	m.SuspicionMult, m.SuspicionMaxTimeoutMult = suspicionMult, suspicionMax
	m.AwarenessMaxMultiplier = 4 // a busy machine probes up to 4 times slower
	m.PushPullInterval, m.TCPTimeout = c.PushPullEvery, StreamTimeout
	m.Logger = libraryLogger(c.Logger, c.Trouble)
	if c.Wrap != nil {
		t, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{m.BindAddr}, BindPort: m.BindPort, Logger: m.Logger,
		})
		if err != nil {
			return nil, err
		}
		m.Transport = c.Wrap(t)
	}
	return m, nil
}

// Jitter spreads d by half, so that machines that lost each other do not all try
// at the same moment.
func Jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2))
}

// Address is IP:PORT of a node.
func Address(node *memberlist.Node) string {
	return (&net.TCPAddr{IP: node.Addr, Port: int(node.Port)}).String()
}
