package agent

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/health"
	"github.com/hactl/hactl/internal/kube"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/watchdog"
	"github.com/hactl/hactl/internal/workload"
)

// probes are how the parts of this master are asked whether they work.
type probes struct {
	cluster   *config.Cluster
	self      config.Master
	apiServer *http.Client
	admin     *http.Client // with the right to read an API server's metrics
	plain     *http.Client
	tls       *tls.Config // that an API server is verified with
}

func newProbes(c *config.Cluster, self config.Master, l layout.Layout) (*probes, error) {
	tlsConfig, err := pki.ClientTLS(pki.Files{CA: filepath.Join(l.PKI(), "ca.crt"), ServerName: pki.APIServerName})
	if err != nil {
		return nil, err
	}
	// Each probe opens a connection of its own: accepting one is part of what
	// must work.
	client := func(t *tls.Config) *http.Client {
		return &http.Client{Transport: &http.Transport{TLSClientConfig: t, DisableKeepAlives: true}}
	}
	// Few may read an API server's metrics; its own way to the kubelets may.
	adminConfig, err := pki.ClientTLS(pki.Files{
		CA: filepath.Join(l.PKI(), "ca.crt"), ServerName: pki.APIServerName,
		Cert: filepath.Join(l.PKI(), "apiserver-kubelet-client.crt"), Key: filepath.Join(l.PKI(), "apiserver-kubelet-client.key"),
	})
	if err != nil {
		return nil, err
	}
	return &probes{
		cluster: c, self: self, apiServer: client(tlsConfig), admin: client(adminConfig), plain: client(nil), tls: tlsConfig,
	}, nil
}

func (p *probes) apiServerReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return watchdog.HTTP(p.apiServer, kube.APIServerHealth(p.cluster, p.self).Ready)(ctx)
}

// apiServerGrace is how long a new API server may fail its probe: it waits for
// etcd, and builds its caches.
const apiServerGrace = 90 * time.Second

// What a process that does not answer may be waiting for.
const (
	needsEtcd = "etcd"
	needsCPU  = "cpu"
	// needsAPI is any API server: without one the balancer has nothing to offer.
	needsAPI = "apiserver"
)

func (a *Agent) newWatchdog() (*watchdog.Watchdog, error) {
	c := a.cfg.Cluster
	limits := c.Watchdog.Limits
	targets := []watchdog.Target{
		// Not a read at the clients' port, which is closed until there is a quorum: a
		// member that waits for one is not ill.
		{
			Unit: master.Etcd, Needs: []string{needsCPU}, Probe: watchdog.HTTP(a.probes.plain, a.metricsURL(config.EtcdMetricsPort, "/livez")),
			Limits: limitsOf(limits, limits.Etcd), Goroutines: watchdog.Goroutines(a.probes.plain, a.metricsURL(config.EtcdMetricsPort, "/metrics")),
		},
		{
			Unit: master.APIServer, Needs: []string{needsEtcd, needsCPU}, Fatal: []string{needsEtcd}, Grace: apiServerGrace,
			Probe:  watchdog.HTTP(a.probes.apiServer, kube.APIServerHealth(c, a.self).Alone),
			Limits: limitsOf(limits, limits.APIServer), Goroutines: a.probes.apiServerGoroutines(limits.APIServer),
		},
		{
			// Through the door, as a client: a balancer that accepts and passes nothing on
			// is hung too.
			Unit: master.Balancer, Needs: []string{needsAPI, needsCPU}, Probe: a.probes.handshake(c.BalancerAddress(a.self)),
			Limits: limitsOf(limits, limits.LoadBalancer), Goroutines: watchdog.Goroutines(a.probes.plain, a.metricsURL(config.BalancerMetricsPort, "/metrics")),
		},
	}
	for i, s := range c.Singletons {
		targets = append(targets, watchdog.Target{
			Unit: master.Podmaster + s.Name, Needs: []string{needsEtcd, needsCPU}, Fatal: []string{needsEtcd},
			Probe:  watchdog.HTTP(a.probes.plain, "http://"+c.PodmasterMetricsAddress(a.self, i)+"/livez"),
			Limits: limitsOf(limits, limits.Podmaster), Goroutines: watchdog.Goroutines(a.probes.plain, "http://"+c.PodmasterMetricsAddress(a.self, i)+"/metrics"),
		})
	}
	p := &permits{
		client: a.etcd.cluster, self: a.self.Name,
		turns:  watchdog.Turns{Index: a.index(), Masters: len(c.Masters)},
		shared: sharedUnits(),
		window: c.Watchdog.Window, budget: c.Watchdog.ClusterBudget,
		alone:  aloneBudget{file: filepath.Join(a.cfg.Layout.State(), "restarts-alone.json")},
		spared: a.spared,
	}
	a.permits = p
	notices := append(disks(a.cfg.Layout, limits.DiskFree), watchdog.Notice{Name: "clock", Reason: watchdog.ClockSkew, Check: a.clocks.check})
	return watchdog.New(watchdog.Config{
		Notices:      notices,
		Decided:      func(d watchdog.Decision) { a.events.Record(decided(d)) },
		Targets:      targets,
		Dependencies: map[string]health.Check{needsEtcd: a.etcd.quorum, needsCPU: cpuPressure, needsAPI: a.probes.anyAPIServer},
		Supervisor:   a.supervisor(),
		Policy:       watchdog.PolicyOf(c.Watchdog),
		Permit:       p.Permit,
		StateFile:    a.stateFile(),
		Logger:       a.cfg.Logger, Registerer: a.registry,
	})
}

// index is this master's place among all.
func (a *Agent) index() int {
	return slices.IndexFunc(a.cfg.Cluster.Masters, func(m config.Master) bool { return m.Name == a.self.Name })
}

func (a *Agent) metricsURL(port int, path string) string {
	return "http://" + net.JoinHostPort(a.self.MetricsAddress(), strconv.Itoa(port)) + path
}

func limitsOf(all config.Limits, l config.Limit) watchdog.Limits {
	return watchdog.Limits{Memory: uint64(l.Memory), Files: all.Files, Goroutines: l.Goroutines}
}

func (a *Agent) supervisor() *supervisor { return &supervisor{Manager: a.cfg.Manager, asked: &a.asked} }

// supervisor shows the watchdog the units' main processes, and remembers when it
// asked last: the watchdog asks once a round.
type supervisor struct {
	workload.Manager
	asked *atomic.Pointer[time.Time]
}

// Processes implements watchdog.Supervisor.
func (s *supervisor) Processes(ctx context.Context) (map[string]watchdog.Process, error) {
	now := time.Now()
	s.asked.Store(&now)
	states, err := s.Units(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]watchdog.Process, len(states))
	for _, st := range states {
		out[st.Name] = watchdog.Process{
			PID: st.MainPID, Since: st.Since, Off: st.Active == workload.Inactive, Again: st.Restarts,
		}
	}
	return out, nil
}

// watchdogTurns errs when the watchdog has not begun a round for several
// periods.
func (a *Agent) watchdogTurns(context.Context) error {
	w := a.cfg.Cluster.Watchdog
	limit := 5*w.Every + 2*w.Timeout
	if last := a.asked.Load(); last != nil && time.Since(*last) > limit {
		return errNotTurning
	}
	return nil
}
