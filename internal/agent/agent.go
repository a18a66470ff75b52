package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/hactl/hactl/internal/api"
	"github.com/hactl/hactl/internal/collect"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/event"
	"github.com/hactl/hactl/internal/gossip"
	"github.com/hactl/hactl/internal/health"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/lb"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/supervise"
	"github.com/hactl/hactl/internal/version"
	"github.com/hactl/hactl/internal/watchdog"
	"github.com/hactl/hactl/internal/workload"
)

// Config says on which master an Agent is.
type Config struct {
	Cluster *config.Cluster
	Name    string // of the master
	Layout  layout.Layout
	// Manager supervises this master's units.
	Manager workload.Manager
	// Notify is told the service's state in sd_notify's words; nil: nobody is.
	Notify func(state string)
	// WatchdogEvery is the pause between two WATCHDOG=1, each of which stands
	// for a round of the watchdog that was finished in time. Zero: none are sent.
	WatchdogEvery time.Duration
	// RebootAfter is how long this host must be marked before it may reboot (config's
	// watchdog.reboot). Default 5 minutes.
	RebootAfter time.Duration
	Logger      *slog.Logger // nil: nothing is logged
}

// Agent is one master's agent.
type Agent struct {
	cfg      Config
	self     config.Master
	registry *prometheus.Registry
	gossip   *gossip.Node
	meeting  *meeting
	watchdog *watchdog.Watchdog
	etcd     *etcdAccess
	learners *learners
	probes   *probes
	events   *event.Recorder
	clocks   clocks
	permits  *permits
	marker   *marker
	asked    atomic.Pointer[time.Time] // when the watchdog last began a round
}

// New puts the parts together and starts none. It errs when the master's files
// (keys, certificates) are missing or not to be used.
func New(cfg Config) (*Agent, error) {
	if cfg.Logger == nil {
		cfg.Logger = logging.Discard()
	}
	if cfg.Notify == nil {
		cfg.Notify = func(string) {}
	}
	self, ok := cfg.Cluster.MasterByName(cfg.Name)
	if !ok {
		return nil, fmt.Errorf("agent: no master %q in the configuration", cfg.Name)
	}
	a := &Agent{cfg: cfg, self: self, registry: prometheus.NewRegistry()}
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	a.events = event.NewRecorder(cfg.Layout.EventsFile(), self.Name, cfg.Logger)
	var err error
	if a.etcd, err = newEtcdAccess(cfg.Cluster, cfg.Layout); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	own := slices.IndexFunc(cfg.Cluster.Masters, func(m config.Master) bool { return m.Name == self.Name })
	if a.learners, err = newLearners(cfg.Cluster, cfg.Layout, a.etcd.members[own], cfg.Logger); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	if a.probes, err = newProbes(cfg.Cluster, self, cfg.Layout); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	if a.gossip, err = a.newGossip(); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	if a.meeting, err = a.newMeeting(); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	if a.watchdog, err = a.newWatchdog(); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	a.marker = a.newMarker()
	return a, nil
}

func (a *Agent) newGossip() (*gossip.Node, error) {
	key, err := gossipKey(a.cfg.Layout)
	if err != nil {
		return nil, err
	}
	c := a.cfg.Cluster
	g := gossip.Config{
		Name: a.self.Name, Cluster: c.Name, Bind: c.GossipAddress(a.self), Key: key,
		Meta:   a.meta(false),
		Logger: a.cfg.Logger, Registerer: a.registry,
	}
	for _, m := range c.Masters {
		g.Peers = append(g.Peers, gossip.Seed{Name: m.Name, Address: c.GossipAddress(m)})
	}
	return gossip.New(g)
}

func gossipKey(l layout.Layout) ([]byte, error) {
	store, err := pki.New(pki.Config{Dir: l.PKI()})
	if err != nil {
		return nil, err
	}
	return store.ReadGossipKey()
}

// meta is what this master says of itself.
func (a *Agent) meta(ready bool) gossip.Meta {
	c := a.cfg.Cluster
	return gossip.Meta{
		Version: version.Release, APIServer: c.APIServerAddress(a.self), Balancer: c.BalancerAddress(a.self),
		Agent: c.AgentAddress(a.self), Ready: ready,
	}
}

// Run works until ctx ends, then stops its parts in reverse order.
func (a *Agent) Run(ctx context.Context) error {
	defer a.etcd.close()
	c := a.cfg.Cluster
	tcp, err := net.Listen("tcp", c.AgentAddress(a.self))
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer tcp.Close()
	local, err := api.ListenUnix(a.cfg.Layout.AgentSocket())
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer local.Close()
	metrics, err := net.Listen("tcp", net.JoinHostPort(a.self.MetricsAddress(), strconv.Itoa(config.AgentMetricsPort)))
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer metrics.Close()
	tlsConfig, err := api.ServerTLS(a.cfg.Layout)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	endpoints := health.Endpoints{
		Live:     map[string]health.Check{"watchdog": a.watchdogTurns},
		Ready:    map[string]health.Check{"watchdog": a.watchdogTurns, "names": func(context.Context) error { return a.gossip.Conflicts() }},
		Gatherer: a.registry,
	}
	server, err := api.New(api.Config{
		Listener: tcp, TLS: tlsConfig, Local: local, Node: a.node, Health: endpoints,
		Master: a.self.Name, Watchdog: a.watchdog,
		Events: func(_ context.Context, q event.Query) ([]event.Event, error) { return a.events.Read(q) },
		Logger: a.cfg.Logger, Registerer: a.registry,
	})
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	group := supervise.Group{Logger: a.cfg.Logger, Services: []supervise.Service{
		{Name: "supervisor", Run: a.followSupervisor},
		{Name: "events", Run: a.events.Run},
		{Name: "units", Run: a.followUnits},
		{Name: "clocks", Run: a.compareClocks},
		{Name: "gossip", Run: a.gossip.Run},
		{Name: "hints", Run: a.hint},
		{Name: "meeting", Run: a.meeting.Run},
		{Name: "learners", Run: a.learners.Run},
		{Name: "configuration", Run: a.followConfig},
		{Name: "watchdog", Run: a.watchdog.Run},
		{Name: "mark", Run: a.marker.run},
		{Name: "metrics", Run: func(ctx context.Context) error { return health.Serve(ctx, metrics, endpoints) }},
		{Name: "api", Run: server.Run},
		{Name: "notify", Run: a.notify},
	}}
	return group.Run(ctx)
}

// followSupervisor runs the manager, where that is something that runs: systemd's
// follows the bus's signals.
func (a *Agent) followSupervisor(ctx context.Context) error {
	if r, ok := a.cfg.Manager.(interface {
		Run(ctx context.Context) error
	}); ok {
		return r.Run(ctx)
	}
	<-ctx.Done()
	return nil
}

// notify tells the supervisor that the agent serves, and then that it is alive
// for as long as the watchdog turns.
func (a *Agent) notify(ctx context.Context) error {
	a.cfg.Notify("READY=1")
	if a.cfg.WatchdogEvery <= 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(a.cfg.WatchdogEvery)
	defer tick.Stop()
	for {
		if a.watchdogTurns(ctx) == nil {
			a.cfg.Notify("WATCHDOG=1")
		}
		select {
		case <-ctx.Done():
			a.cfg.Notify("STOPPING=1")
			return nil
		case <-tick.C:
		}
	}
}

// node is what GET /v1/node tells.
func (a *Agent) node(ctx context.Context) (*status.Node, error) {
	sources := collect.Local{Layout: a.cfg.Layout, Manager: a.cfg.Manager}.Sources()
	sources.Name, sources.Address, sources.Version = a.self.Name, a.self.Address, version.Release
	sources.Peers = a.peers
	sources.Watchdog = a.watchdogStatus
	n := collect.Gather(ctx, sources)
	n.Rendezvous = a.meeting.status()
	return n, nil
}

func (a *Agent) peers(context.Context) ([]status.Peer, error) {
	seen, _ := a.gossip.Peers()
	var peers []status.Peer
	for _, p := range seen {
		if !p.Self {
			peers = append(peers, status.Peer{Name: p.Name, Address: p.Address, State: string(p.State)})
		}
	}
	return peers, nil
}

func (a *Agent) watchdogStatus(context.Context) (*status.Watchdog, error) {
	s, _ := a.watchdog.Status()
	out := &status.Watchdog{Paused: s.Paused, Targets: []status.WatchTarget{}}
	for _, u := range s.Units {
		state := "ok"
		if u.Fails > 0 {
			state = "failing"
		}
		if u.Action.Kind != watchdog.None {
			state = string(u.Action.Kind)
		}
		out.Targets = append(out.Targets, status.WatchTarget{
			Name: u.Unit, State: state, Held: held(u.Action), Reason: u.Action.String(), Paused: u.Paused && !s.Paused,
		})
	}
	if m := a.marker.marked.Load(); m != nil && m.On {
		out.Marked = m.Reason
	}
	for _, n := range s.Notices {
		out.Notices = append(out.Notices, status.WatchNotice{Name: n.Name, Code: noticeCode(n.Reason), Text: n.Detail, Since: n.Since})
	}
	return out, nil
}

// noticeCode is the status's word for a notice.
func noticeCode(r watchdog.Reason) string {
	if r == watchdog.ClockSkew {
		return status.CodeClockSkew
	}
	return status.CodeDiskLow
}

// held says whether the watchdog would restart a unit and may not. Waiting for a
// sick dependency, or for the supervisor to speak, is nothing that it wants to
// do otherwise.
func held(a watchdog.Action) bool {
	if a.Kind != watchdog.Hold {
		return false
	}
	switch a.Reason {
	case watchdog.BudgetUsed, watchdog.Refused, watchdog.Paused:
		return true
	default:
		return false
	}
}

// hint tells this master's balancer to look at once at a backend whose master
// looks ill to gossip, and says by gossip whether our API server is ready. The
// balancer's own probe decides.
func (a *Agent) hint(ctx context.Context) error {
	balancer := lb.NewClient(a.cfg.Layout.LBAdminSocket())
	ill := map[string]bool{}
	ready := false
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		peers, changed := a.gossip.Peers()
		for _, p := range peers {
			now := p.State == gossip.Suspect || p.State == gossip.Dead || p.State == gossip.Left
			if now && !ill[p.Name] {
				if err := a.suspect(ctx, balancer, p.Name); err != nil {
					a.cfg.Logger.Debug("the balancer was not told of a suspect", "backend", p.Name, "err", err)
				}
			}
			ill[p.Name] = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
			if now := a.probes.apiServerReady(ctx) == nil; now != ready {
				ready = now
				if err := a.gossip.SetMeta(a.meta(ready)); err != nil {
					a.cfg.Logger.Warn("gossip does not say that the API server's state changed", "err", err)
				}
			}
		}
	}
}

func (a *Agent) suspect(ctx context.Context, balancer *lb.Client, name string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return balancer.Suspect(ctx, name)
}

// stateFile is where the watchdog remembers its restarts.
func (a *Agent) stateFile() string {
	return filepath.Join(a.cfg.Layout.State(), "watchdog.json")
}

var errNotTurning = errors.New("the watchdog's loop does not turn")
