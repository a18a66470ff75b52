package collect

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/status"
)

// The deadlines of asking.
const (
	CallTimeout = time.Second     // of one call
	Timeout     = 3 * time.Second // of a whole report
)

// Config is what a Collector needs.
type Config struct {
	// Cluster says which masters there are and where. Required.
	Cluster *config.Cluster
	// Layout has the CAs and the client certificates to ask with.
	Layout layout.Layout
	// Locals are the masters whose files lie on this machine, by name: what their
	// agents do not tell is read there. See Locals.
	Locals map[string]layout.Layout
	// FrontDoor is host:port of the address that all clients use. Empty: what the
	// configuration names, and if it names no host, each master's own balancer.
	FrontDoor string
	// Dev and DevDir are copied into the report; see status.Report.
	Dev    bool
	DevDir string

	// Node asks a master's agent over the network; see api.Client. Required.
	Node func(ctx context.Context, m config.Master) (*status.Node, error)
	// Socket asks the agent of a master on this machine at its unix socket; nil:
	// it is not asked.
	Socket func(ctx context.Context, l layout.Layout) (*status.Node, error)
	// Local replaces Local.Sources, for machines with another supervisor.
	Local func(l layout.Layout) Sources
	// EtcdTLS is what etcd is asked with; nil: the client's files in Layout.
	EtcdTLS *tls.Config
	// Etcd replaces the asking of etcd, in tests.
	Etcd func(ctx context.Context) (status.Etcd, []status.Singleton)
}

// Collector makes reports. Make it with New.
type Collector struct {
	cfg           Config
	call, timeout time.Duration // CallTimeout and Timeout, but in tests on slow machines
}

// New checks the configuration and opens nothing.
func New(cfg Config) (*Collector, error) {
	var faults []error
	if cfg.Cluster == nil {
		faults = append(faults, errors.New("collect: Cluster is required"))
	} else if len(cfg.Cluster.Masters) == 0 {
		faults = append(faults, errors.New("collect: the configuration names no masters"))
	}
	if cfg.Node == nil {
		faults = append(faults, errors.New("collect: Node is required"))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if f := cfg.Cluster.FrontDoor; cfg.FrontDoor == "" && f.Host != "" {
		cfg.FrontDoor = net.JoinHostPort(f.Host, strconv.Itoa(f.Port))
	}
	c := &Collector{cfg: cfg, call: CallTimeout, timeout: Timeout}
	if cfg.Etcd == nil {
		c.cfg.Etcd = c.etcd
	}
	return c, nil
}

// Report asks everything, all at once, and returns what is known after at most
// Timeout, judged.
func (c *Collector) Report(ctx context.Context) *status.Report {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	cl := c.cfg.Cluster
	n := len(cl.Masters)
	r := &status.Report{
		APIVersion: status.APIVersion, Kind: status.Kind, Cluster: cl.Name, Time: time.Now().Round(0).UTC(),
		Dev: c.cfg.Dev, DevDir: c.cfg.DevDir, Unknown: []status.Unknown{},
		Masters: make([]status.Master, n), APIServers: make([]status.APIServer, n), Balancers: make([]status.Balancer, n),
	}
	nodes := make([]inside, n)
	probes := newProber(filepath.Join(c.cfg.Layout.PKI(), "ca.crt"), c.call)

	var wg sync.WaitGroup
	wg.Go(func() { r.Etcd, r.Singletons = c.cfg.Etcd(ctx) })
	if c.cfg.FrontDoor != "" {
		wg.Go(func() {
			a := probes.through(ctx, c.cfg.FrontDoor)
			r.FrontDoor = &status.FrontDoor{Address: c.cfg.FrontDoor, Serving: a.ok, Why: a.why, Latency: status.In(a.took)}
		})
	}
	for i, m := range cl.Masters {
		wg.Go(func() { nodes[i] = c.node(ctx, m) })
		wg.Go(func() { r.APIServers[i] = probes.apiServer(ctx, m.Name, cl.APIServerAddress(m)) })
		wg.Go(func() {
			a := probes.through(ctx, cl.BalancerAddress(m))
			r.Balancers[i] = status.Balancer{
				Name: m.Name, Address: cl.BalancerAddress(m), Serving: a.ok, Why: a.why, Latency: status.In(a.took),
			}
		})
	}
	wg.Wait()

	for i, m := range cl.Masters {
		fill(r, i, m, nodes[i])
	}
	status.Judge(r)
	return r
}

// fill puts what is known of a master's inside into the report.
func fill(r *status.Report, i int, m config.Master, t inside) {
	master := &r.Masters[i]
	*master = status.Master{Name: m.Name, Address: m.Address, Agent: t.agent, ProcessesFrom: t.from}
	if n := t.node; n != nil {
		master.Processes, master.Certificates = n.Processes, n.Certificates
		master.Peers, master.Watchdog, master.Rendezvous = n.Peers, n.Watchdog, n.Rendezvous
		if n.Balancer != nil {
			r.Balancers[i].Backends, r.Balancers[i].Connections = n.Balancer.Backends, n.Balancer.Connections
		}
		if n.Processes == nil {
			master.ProcessesFrom = ""
		}
	}
	r.Unknown = append(r.Unknown, unknowns(m.Name, t.unknown)...)
}

// etcdTLS is what etcd is asked with.
func (c *Collector) etcdTLS() (*tls.Config, error) {
	if c.cfg.EtcdTLS != nil {
		return c.cfg.EtcdTLS, nil
	}
	dir := filepath.Join(c.cfg.Layout.PKI(), "etcd")
	return pki.ClientTLS(pki.Files{
		Cert: filepath.Join(dir, "healthcheck-client.crt"),
		Key:  filepath.Join(dir, "healthcheck-client.key"),
		CA:   filepath.Join(dir, "ca.crt"),
	})
}

// endpoints are the etcd members' client addresses, by master.
func endpoints(c *config.Cluster) []string {
	urls := make([]string, len(c.Masters))
	for i, m := range c.Masters {
		urls[i] = m.EtcdClientURL()
	}
	return urls
}
