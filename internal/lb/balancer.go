package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hactl/hactl/internal/lb/dataplane"
	"github.com/hactl/hactl/internal/lb/pool"
)

// Balancer is a load balancer. Make it with New, then Run it once.
type Balancer struct {
	cfg     Config
	log     *slog.Logger
	engine  *dataplane.Engine
	pool    *pool.Pool[*dataplane.Target]
	own     ownAddresses
	started time.Time

	mu       sync.Mutex
	members  map[string]*member // by key
	byTarget atomic.Pointer[map[*dataplane.Target]*member]
	list     []Backend        // in force, names unresolved
	listErr  string           // why the source's list is not in force
	kept     bool             // the list in force is the one from the disk
	drains   map[string]bool  // by name; see drains.go
	handing  bool             // the drains are a successor's now
	names    map[string]*name // by host name
	returned time.Time        // when a backend last returned; rebalancing follows
	serving  bool             // a backend is usable
	override Source           // from the admin API

	probers    errgroup.Group
	runProbers context.Context // set by Run; nil before
	reload     chan struct{}
	lookUp     chan struct{} // the resolver's
	refused    refusal       // the control loop's
	troubled   chan struct{}
	handedOver atomic.Bool
	stopping   atomic.Bool   // it accepts nothing more
	allAsked   chan struct{} // closed when each backend's first probe is over
	ticked     atomic.Int64  // unix nanoseconds of the last tick
	moved      atomic.Int64  // connections ended by rebalancing
}

// New makes a balancer: it reads the list of backends (the one kept on disk if
// the source has none) and prepares the data path. It serves nothing yet.
func New(cfg Config) (*Balancer, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("load balancer: %w", err)
	}
	b := &Balancer{
		cfg: cfg, log: cfg.Logger, started: time.Now(),
		pool:    pool.New[*dataplane.Target](cfg.Algorithm),
		members: map[string]*member{}, drains: map[string]bool{}, names: map[string]*name{},
		reload: make(chan struct{}, 1), lookUp: make(chan struct{}, 1), troubled: make(chan struct{}, 1), allAsked: make(chan struct{}),
	}
	b.ticked.Store(b.started.UnixNano()) // it lives before the control loop's first turn
	b.byTarget.Store(&map[*dataplane.Target]*member{})
	if b.own, err = addressesOf(cfg.Listeners); err != nil {
		return nil, fmt.Errorf("load balancer: %w", err)
	}
	if err := b.alone(); err != nil { // before the list on disk becomes ours
		return nil, fmt.Errorf("load balancer: %w", err)
	}
	if err := b.firstList(); err != nil {
		return nil, fmt.Errorf("load balancer: %w", err)
	}
	data := cfg.Data
	data.Router, data.Logger = (*router)(b), cfg.Logger
	if b.engine, err = dataplane.New(data); err != nil {
		return nil, fmt.Errorf("load balancer: %w", err)
	}
	for _, f := range cfg.Listeners {
		fd, err := detach(f)
		if err == nil {
			err = b.engine.Listen(fd)
		}
		if err != nil {
			b.engine.Close()
			return nil, fmt.Errorf("load balancer: %w", err)
		}
	}
	if err := b.register(cfg.Registerer); err != nil {
		b.engine.Close()
		return nil, fmt.Errorf("load balancer: %w", err)
	}
	return b, nil
}

// Run serves until ctx ends, then lets connections finish for DrainTimeout and
// returns nil. Connections are accepted at once; READY=1 is notified after the first
// round of probes, or after Check.Timeout when that takes longer.
func (b *Balancer) Run(ctx context.Context) error {
	admin, err := b.listenAdmin()
	if err != nil {
		b.engine.Close()
		return fmt.Errorf("load balancer: %w", err)
	}
	// The data path, the probes and the admin API outlive ctx: they are needed
	// while connections finish.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, life := errgroup.WithContext(life)
	b.startProbers(life)
	g.Go(func() error { return b.engine.Run(life) })
	g.Go(func() error { return b.control(life) })
	if admin != nil {
		g.Go(func() error { return b.serveAdmin(life, admin) })
	}
	if b.cfg.Watchdog > 0 {
		g.Go(func() error { return b.pingWatchdog(life) })
	}
	b.log.Info("load balancer serves", "listen", b.own.String())
	g.Go(func() error {
		b.announce(ctx, life, min(b.cfg.Check.Timeout, announceMost))
		select {
		case <-ctx.Done():
			b.finish(life)
			end()
		case <-life.Done():
		}
		return nil
	})
	err = g.Wait()
	return errors.Join(err, b.probers.Wait())
}

// announceMost bounds how long READY=1 may wait for probes: a predecessor, and the
// service manager, wait for it.
const announceMost = 10 * time.Second

// announce notifies READY=1 when it is known which backends are ready, so that who
// waited for a restart does not find a balancer without any; at most after so long, and
// not at all when it is told to stop before.
func (b *Balancer) announce(ctx, life context.Context, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	b.mu.Lock()
	b.noteAsked() // there may be nobody to ask
	b.mu.Unlock()
	select {
	case <-b.allAsked:
	case <-timer.C:
	case <-ctx.Done():
		return
	case <-life.Done():
		return
	}
	b.cfg.Notify("READY=1")
}

// finish stops accepting and waits until the connections have ended.
func (b *Balancer) finish(ctx context.Context) {
	if !b.handedOver.Load() { // else the service goes on, and its manager listens to the successor
		b.cfg.Notify("STOPPING=1")
	}
	b.engine.StopAccepting()
	b.stopping.Store(true)
	b.log.Info("load balancer stops", "connections", b.engine.Open())
	began := time.Now()
	deadline := time.NewTimer(b.cfg.DrainTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(finishEvery)
	defer tick.Stop()
	for b.engine.Open() > 0 {
		n := b.engine.MaxConns() // there is nobody to keep them for
		if b.handedOver.Load() {
			n = endNow(b.engine.Open(), time.Since(began), b.cfg.DrainTimeout)
		}
		if n > 0 { // those between two answers lose nothing
			b.engine.CloseQuiet(nil, n, quietBeforeMove)
		}
		select {
		case <-deadline.C:
			b.log.Warn("drain timeout, connections are reset", "connections", b.engine.Open())
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// finishEvery is how often a balancer that stops looks at its connections.
const finishEvery = 50 * time.Millisecond

// endNow is how many of the open connections should end now when a successor has
// taken over: none in the first half of the time, and then as many as it takes for
// all to have ended one after the other when it is over. Those that are left then are
// reset, with what was under way on them, and their clients come back all at once.
func endNow(open int64, passed, whole time.Duration) int {
	left := whole - passed
	if left > whole/2 {
		return 0
	}
	return int(math.Ceil(float64(open) / max(1, float64(left/finishEvery))))
}

// KeepConnections tells that a successor accepts from the same sockets now: when
// Run is told to stop, quiet connections stay until they end or half of DrainTimeout
// is over.
func (b *Balancer) KeepConnections() { b.handedOver.Store(true) }

// Reload has the source read its list anew, and names looked up, now. It does not wait.
func (b *Balancer) Reload() {
	select {
	case b.reload <- struct{}{}:
	default:
	}
}

// Ready returns nil when at least one backend is ready, and else why not.
func (b *Balancer) Ready() error {
	if b.stopping.Load() {
		return errors.New("stopping")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for _, m := range b.members {
		if m.usable(now) {
			return nil
		}
	}
	if n := len(b.unresolved()); n > 0 {
		return fmt.Errorf("none of %d backends is ready, %d in the list cannot be looked up", len(b.members), n)
	}
	return fmt.Errorf("none of %d backends is ready", len(b.members))
}

// Alive returns nil while the loops and the control loop do their work.
func (b *Balancer) Alive() error {
	if late := time.Since(time.Unix(0, b.ticked.Load())); late > 10*time.Second {
		return fmt.Errorf("the control loop has not run for %v", late.Round(time.Second))
	}
	return nil
}

// pingWatchdog tells the service manager that all loops turn: each must have
// woken since the last look, and the control loop must have ticked.
func (b *Balancer) pingWatchdog(ctx context.Context) error {
	last := make([]uint64, len(b.engine.Beats()))
	tick := time.NewTicker(max(b.cfg.Watchdog/3, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if b.handedOver.Load() {
			return nil
		}
		ok := b.Alive() == nil
		beats := b.engine.Beats()
		for i := range beats {
			ok = ok && beats[i] != last[i]
		}
		if ok {
			copy(last, beats)
			b.cfg.Notify("WATCHDOG=1")
		}
	}
}

// router is the Balancer as the data path sees it; its methods run on the loops.
type router Balancer

func (r *router) Pick(_ netip.Addr, tried []*dataplane.Target) *dataplane.Target {
	t, _ := r.pool.Pick(tried, rand.Uint64())
	return t
}

func (r *router) Competitor(_ netip.Addr, tried []*dataplane.Target) *dataplane.Target {
	t, _ := r.pool.Competitor(tried, rand.Uint64())
	return t
}

// Trouble has the backend probed at once; three failures in a row, with nothing
// good between them, outweigh its probes for a while.
func (r *router) Trouble(t *dataplane.Target, _ dataplane.Trouble) {
	m := (*r.byTarget.Load())[t]
	if m == nil {
		return
	}
	m.prober.Kick()
	if broken, silent := t.Streak(); max(broken, silent) >= distrustStreak {
		select {
		case r.troubled <- struct{}{}:
		default:
		}
	}
}
