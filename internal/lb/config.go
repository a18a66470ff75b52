package lb

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hactl/hactl/internal/lb/dataplane"
	"github.com/hactl/hactl/internal/lb/pool"
	"github.com/hactl/hactl/internal/logging"
)

// CheckKind is how backends are asked whether they are ready.
type CheckKind string

// The kinds of check.
const (
	CheckHTTPS CheckKind = "https" // GET Path over verified TLS says 200
	CheckTCP   CheckKind = "tcp"   // a connection is accepted
	CheckNone  CheckKind = "none"  // always ready; failing connects still go elsewhere
)

// Check configures the health checks.
type Check struct {
	Kind CheckKind // default https
	Path string    // for https; default /readyz
	// Roots gives the CA certificates that backends are verified with; needed
	// for https. It is called for each handshake.
	Roots func() *x509.CertPool
	Name  string // that certificates must have; default kubernetes
	// Certificate and Token say who asks, for servers that do not answer just anybody.
	// They are called for each handshake and each probe; nil: not given.
	Certificate func() *tls.Certificate
	Token       func() string
	Files       *CheckFiles   // where these come from, to tell of bad ones; nil: not from files
	Every       time.Duration // default 500ms
	Timeout     time.Duration // default 1s; with Every it bounds how long a frozen backend is believed
	Rise        int           // default 1
	Fall        int           // default 2
}

// Config configures a Balancer. Listeners and Source are required.
type Config struct {
	Listeners []*os.File // listening sockets; the balancer closes them
	Source    Source
	Check     Check
	Algorithm pool.Algorithm // default least-conn
	Zone      string         // the own zone, for local-first
	// Data sets limits and times of the data path; its Router, Logger and Hello
	// are set here: ClientHellos are replayed when the check is https.
	Data dataplane.Config
	// ReplayPlain: see dataplane.Config. It turns replay on for tcp and none too.
	ReplayPlain bool
	// Rebalance is the share of all connections that may be moved in a second
	// after a backend returned; default 0.01 for CheckHTTPS and else none, since not
	// every service's clients come back by themselves; negative: none.
	Rebalance float64
	// SlowStart is how long a returned backend gets less than its share; default
	// 10s, negative: none. A cold API server fills its watch caches first.
	SlowStart time.Duration
	// DrainTimeout is how long connections may go on when the balancer stops;
	// default 10s. Quiet ones end at once, or, if a successor has taken over, one after
	// the other in the second half of that time.
	DrainTimeout time.Duration
	StateFile    string // keeps the last good list and who is drained; empty: not kept
	// Fixed says that Source's list is meant as it is at each start: StateFile keeps only
	// who is drained, and exists only while somebody is.
	Fixed bool
	// Drained are the backends that a predecessor hands over as drained; nil: those that
	// StateFile keeps.
	Drained     []string
	SourceName  string                // says where Source's list comes from; another source's kept list is not used
	AdminSocket string                // path of the admin API; empty: none
	Successor   bool                  // a predecessor hands over to this one: its admin socket is replaced
	Registerer  prometheus.Registerer // nil: no metrics
	Logger      *slog.Logger          // nil: nothing is logged
	// Notify tells the service manager, as sd_notify does; nil: nobody.
	Notify func(state string)
	// Watchdog is how often Notify must get WATCHDOG=1; 0: never.
	Watchdog time.Duration
	Name     string        // of this balancer, in status; default the host's name
	Resolver *net.Resolver // looks up the names of backends; default net.DefaultResolver
	// ResolveEvery is how often names are looked up again; default 30s. Less finds a
	// moved server sooner and asks the name servers more.
	ResolveEvery time.Duration
}

func (c Config) withDefaults() (Config, error) {
	if c.Check.Kind == "" {
		c.Check.Kind = CheckHTTPS
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Check.Every, 500*time.Millisecond)
	def(&c.Check.Timeout, time.Second)
	def(&c.SlowStart, 10*time.Second)
	def(&c.DrainTimeout, 10*time.Second)
	def(&c.ResolveEvery, 30*time.Second)
	if c.Check.Rise == 0 {
		c.Check.Rise = 1
	}
	if c.Check.Fall == 0 {
		c.Check.Fall = 2
	}
	if c.Rebalance == 0 && c.Check.Kind == CheckHTTPS {
		c.Rebalance = 0.01
	}
	if c.Logger == nil {
		c.Logger = logging.Discard()
	}
	if c.Notify == nil {
		c.Notify = func(string) {}
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	if c.Name == "" {
		c.Name, _ = os.Hostname()
	}
	var err error
	if c.Algorithm, err = pool.ParseAlgorithm(string(c.Algorithm)); err != nil {
		return c, err
	}
	c.Data.Hello = c.Check.Kind == CheckHTTPS || c.ReplayPlain
	c.Data.ReplayPlain = c.ReplayPlain
	return c, c.validate()
}

func (c Config) validate() error {
	var errs []error
	bad := func(cond bool, format string, args ...any) {
		if cond {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	k := c.Check
	bad(len(c.Listeners) == 0, "no address to listen on")
	bad(c.Source == nil, "no source of backends")
	bad(k.Kind != CheckHTTPS && k.Kind != CheckTCP && k.Kind != CheckNone, "check %q: want https, tcp or none", k.Kind)
	bad(k.Kind == CheckHTTPS && k.Roots == nil, "check https: no CA to verify the backends with")
	bad(k.Path != "" && k.Path[0] != '/', "check path %q: want a path that begins with /", k.Path)
	bad(k.Every < 10*time.Millisecond, "check interval %v: want at least 10ms", k.Every)
	bad(k.Timeout < 10*time.Millisecond, "check timeout %v: want at least 10ms", k.Timeout)
	bad(k.Timeout > 20*k.Every, "check timeout %v: want at most 20 intervals of %v", k.Timeout, k.Every)
	bad(k.Rise < 1 || k.Rise > 100, "check rise %d: want 1 to 100", k.Rise)
	bad(k.Fall < 1 || k.Fall > 100, "check fall %d: want 1 to 100", k.Fall)
	bad(c.Rebalance > 1, "rebalance %v: want at most 1 (all connections in a second)", c.Rebalance)
	bad(c.Algorithm == pool.LocalFirst && c.Zone == "", "algorithm local-first: the own zone is missing")
	bad(c.DrainTimeout < 0, "drain timeout %v: want 0 or more", c.DrainTimeout)
	bad(c.ResolveEvery < time.Millisecond, "resolve every %v: want at least 1ms", c.ResolveEvery)
	return errors.Join(errs...)
}
