package etcdcluster

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/logging"
)

// Defaults of Config.
const (
	DefaultHeartbeat    = 100 * time.Millisecond // etcd's own
	DefaultElection     = time.Second            // etcd's own
	DefaultQuota        = 8 << 30                // the most that etcd's documentation advises
	DefaultCloseTimeout = 10 * time.Second
	DefaultMoveTimeout  = 5 * time.Second
)

// peerCertName is a name in the certificate of every member. The etcd CA also
// signs the certificates of mere clients (the API servers', this tool's), which
// name no host: so these cannot speak Raft at the peer port.
const peerCertName = "localhost"

// Config says what member runs, and how. Name, Cluster, DataDir, StateDir,
// ClientURL and PeerURL are required.
type Config struct {
	Name     string // of the member: the master's name
	Cluster  string // the cluster's name
	DataDir  string // etcd's own folder; made when missing
	StateDir string // where the intent and the lock lie, not inside DataDir; must exist

	// ClientURL and PeerURL are where the member listens and is reached:
	// https://IP:PORT, or http:// on loopback addresses only.
	ClientURL, PeerURL string
	// MetricsURL is http://IP:PORT for /metrics, /livez and /readyz, on a
	// loopback address. Empty: none.
	MetricsURL string
	ServerTLS  TLSFiles // what clients see; required with https
	PeerTLS    TLSFiles // what the other members see; required with https

	Heartbeat time.Duration // default 100ms; about one round trip between masters. Less finds a dead leader sooner and takes a busy one for dead
	Election  time.Duration // default 1s; 5 to 50 times Heartbeat
	Quota     int64         // bytes; default 8 GiB. When full the cluster takes only reads and deletes
	NoFsync   bool          // loses data with the power; for tests only

	// CloseTimeout is how long closing may take before Run returns without it.
	// Default 10s.
	CloseTimeout time.Duration
	// MoveTimeout is how long a stopping leader may take to hand over.
	// Default 5s.
	MoveTimeout time.Duration

	// Notify is told the service's state in sd_notify's words (READY=1,
	// STATUS=…); nil: nobody is.
	Notify func(state string)
	// WatchdogEvery is the pause between two WATCHDOG=1, each of which stands
	// for a read that the member answered. Zero: none are sent.
	WatchdogEvery time.Duration

	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: no metrics of ours; etcd's own are in the default registry
}

// TLSFiles names a certificate, its key and the CA that the other side's
// certificate must come from. All are PEM.
type TLSFiles struct{ Cert, Key, CA string }

// FromConfig returns the Config of the master with the given name. Logger,
// Notify, WatchdogEvery and Registerer are left to the caller.
func FromConfig(c *config.Cluster, l layout.Layout, name string) (Config, error) {
	m, ok := c.MasterByName(name)
	if !ok {
		return Config{}, fmt.Errorf("the configuration has no master %q", name)
	}
	pki := func(name string) TLSFiles {
		return TLSFiles{
			Cert: filepath.Join(l.PKI(), "etcd", name+".crt"),
			Key:  filepath.Join(l.PKI(), "etcd", name+".key"),
			CA:   filepath.Join(l.PKI(), "etcd", "ca.crt"),
		}
	}
	return Config{
		Name: m.Name, Cluster: c.Name, DataDir: l.EtcdData(), StateDir: l.State(),
		ClientURL: m.EtcdClientURL(), PeerURL: m.EtcdPeerURL(),
		MetricsURL: fmt.Sprintf("http://%s", net.JoinHostPort(m.MetricsAddress(), fmt.Sprint(config.EtcdMetricsPort))),
		ServerTLS:  pki("server"), PeerTLS: pki("peer"),
		Heartbeat: c.Etcd.Heartbeat, Election: c.Etcd.Election, Quota: int64(c.Etcd.Quota),
	}, nil
}

// ClientFiles are the files of hactl's own etcd client on a master.
func ClientFiles(l layout.Layout) TLSFiles {
	dir := filepath.Join(l.PKI(), "etcd")
	return TLSFiles{
		Cert: filepath.Join(dir, "healthcheck-client.crt"),
		Key:  filepath.Join(dir, "healthcheck-client.key"),
		CA:   filepath.Join(dir, "ca.crt"),
	}
}

// Peers are the members that the configuration's masters make.
func Peers(c *config.Cluster) []Peer {
	var ps []Peer
	for _, m := range c.Masters {
		ps = append(ps, Peer{Name: m.Name, URL: m.EtcdPeerURL()})
	}
	return ps
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Heartbeat, DefaultHeartbeat)
	def(&c.Election, DefaultElection)
	def(&c.CloseTimeout, DefaultCloseTimeout)
	def(&c.MoveTimeout, DefaultMoveTimeout)
	if c.Quota == 0 {
		c.Quota = DefaultQuota
	}
	if c.Notify == nil {
		c.Notify = func(string) {}
	}
	if c.Logger == nil {
		c.Logger = logging.Discard()
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("etcdcluster: "+format, args...)) }
	for field, v := range map[string]string{"Name": c.Name, "Cluster": c.Cluster, "DataDir": c.DataDir, "StateDir": c.StateDir} {
		if v == "" {
			bad("%s is missing", field)
		}
	}
	if c.DataDir != "" && c.DataDir == c.StateDir {
		bad("DataDir and StateDir are the same folder %s: the intent must outlive the data", c.DataDir)
	}
	for field, u := range map[string]struct {
		url   string
		files TLSFiles
	}{"ClientURL": {c.ClientURL, c.ServerTLS}, "PeerURL": {c.PeerURL, c.PeerTLS}} {
		parsed, err := parseURL(u.url)
		switch {
		case err != nil:
			bad("%s: %w", field, err)
		case parsed.Scheme == "https" && (u.files.Cert == "" || u.files.Key == "" || u.files.CA == ""):
			bad("%s %s needs a certificate, a key and a CA", field, u.url)
		}
	}
	if c.MetricsURL != "" {
		if u, err := parseURL(c.MetricsURL); err != nil {
			bad("MetricsURL: %w", err)
		} else if u.Scheme != "http" {
			bad("MetricsURL %s: only plain http on a loopback address is offered", c.MetricsURL)
		}
	}
	if c.Heartbeat < time.Millisecond {
		bad("Heartbeat %v: must be at least 1ms", c.Heartbeat)
	}
	if c.Election < 5*c.Heartbeat || c.Election > 50*time.Second {
		bad("Election %v: must be at least 5 times Heartbeat (%v) and at most 50s", c.Election, c.Heartbeat)
	}
	if c.Quota < 0 {
		bad("Quota %d: must not be negative", c.Quota)
	}
	return errors.Join(errs...)
}

// parseURL accepts https://IP:PORT, and http://IP:PORT for loopback addresses.
func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	ap, err := netip.ParseAddrPort(u.Host)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q: want https://IP:PORT", text)
	case u.Path != "" || u.RawQuery != "" || u.User != nil:
		return nil, fmt.Errorf("%q: want https://IP:PORT and nothing more", text)
	case u.Scheme == "https", u.Scheme == "http" && ap.Addr().IsLoopback():
		return u, nil
	default:
		return nil, fmt.Errorf("%q: must be https, for %s is not a loopback address", text, ap.Addr())
	}
}
