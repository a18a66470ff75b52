package rendezvous

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/mesh"
)

// Config says who this machine is and whom it looks for. All but Seeds, Logger
// and Registerer are required.
type Config struct {
	Name    string   // the master's
	Cluster string   // the cluster's name; clusters with different names never mix
	Bind    string   // IP:PORT to listen on, UDP and TCP, and to be reached at
	Key     []byte   // of Key
	Seeds   []string // IP:PORT of the others' rendezvous; this machine's own may be among them

	// Card is what this machine says of itself. It is asked each time that
	// something is said, from several goroutines, and must be quick: it reads no
	// network.
	Card func() Card
	// Config returns the configuration in its canonical text (config.Marshal's):
	// the answer to ConfigOf, and who may have the secrets.
	Config func() ([]byte, error)
	// Secrets returns what SecretsOf asks for. Nil: there are none here.
	Secrets func() (Secrets, error)

	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: no metrics. A second Node on one goes on with the first one's.

	// wrap lets tests cut a network.
	wrap func(memberlist.NodeAwareTransport) memberlist.Transport
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = logging.Discard()
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("rendezvous: "+format, args...)) }
	if c.Name == "" {
		bad("Name is missing")
	}
	if err := c.mesh("-", nil).Validate(); err != nil {
		errs = append(errs, fmt.Errorf("rendezvous: %w", err))
	}
	for _, s := range c.Seeds {
		if _, err := netip.ParseAddrPort(s); err != nil {
			bad("Seeds: %q: want IP:PORT", s)
		}
	}
	if c.Card == nil || c.Config == nil || c.Secrets == nil {
		bad("Card, Config and Secrets must be given")
	}
	return errors.Join(errs...)
}

func (c Config) mesh(node string, trouble func()) mesh.Config {
	return mesh.Config{
		Name: node, Cluster: c.Cluster, Bind: c.Bind, Key: c.Key, PushPullEvery: pushPullEvery,
		Logger: c.Logger.With("master", c.Name, "mesh", "rendezvous"), Trouble: trouble, Wrap: c.wrap,
	}
}
