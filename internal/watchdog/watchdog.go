package watchdog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hactl/hactl/internal/health"
	"github.com/hactl/hactl/internal/logging"
)

// Process is the main process of a unit.
type Process struct {
	PID   int       // 0: none runs, on purpose or while its supervisor starts it
	Since time.Time // when it started or became active; zero: not known
	Off   bool      // it is stopped, and its supervisor will not start it
	// Again is how often its supervisor has started it again because it had ended by
	// itself. It may begin anew at any time.
	Again int
}

// Supervisor is what the watchdog needs of the one that runs the units.
type Supervisor interface {
	// Processes returns the main processes by unit. A unit that is missing is
	// one without a process.
	Processes(ctx context.Context) (map[string]Process, error)
	// Restart kills the unit with SIGKILL (force) and returns when it is active
	// again.
	Restart(ctx context.Context, unit string, force bool) error
}

// Target is a unit that is watched.
type Target struct {
	Unit  string
	Probe health.Check // nil: only a stopped process is found
	// Needs names the dependencies (Config.Dependencies) whose sickness excuses
	// a failed probe. It does not excuse a stopped process.
	Needs []string
	// Fatal names those of Needs without which the process may end by itself, too:
	// while one is sick its ends count for nothing.
	Fatal []string
	Grace time.Duration // as Policy.Grace; 0: that one
	// Limits of what the main process may use; the zero value: none.
	Limits Limits
	// Goroutines asks how many it has; nil: that is not measured.
	Goroutines func(ctx context.Context) (int, error)
}

// Notice is something about the host that a restart does not heal, and that people
// must know of.
type Notice struct {
	Name   string       // such as "disk:/var/lib/hactl/etcd"
	Reason Reason       // DiskLow, ClockSkew, …
	Check  health.Check // errs, with the words for people, while it is so
}

// Config says what is watched and how.
type Config struct {
	Targets []Target
	// Dependencies are checked once a round, each for all targets that need it.
	Dependencies map[string]health.Check
	Supervisor   Supervisor
	Policy       Policy
	Permit       Permit // nil: always
	// Notices are checked once a round. Policy's Fall and Rise hold for them too.
	Notices []Notice
	// Decided is told each decision, and each restart's result. It is called with
	// the watchdog's lock held: it must return at once. Nil: nobody is told.
	Decided func(Decision)
	// RestartTimeout is how long a restart's result is awaited; default 2m.
	RestartTimeout time.Duration
	// StateFile keeps the times of restarts, so that the budget outlives the
	// watchdog. Empty: it does not.
	StateFile  string
	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: metrics are kept to itself
}

// Watchdog watches the processes of one master.
type Watchdog struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	targets []*target
	deps    map[string]*prober
	procs   prober                                     // the call of Supervisor.Processes
	tick    func(ctx context.Context, d time.Duration) // waits
	stopped func(pid int) Reason                       // Stopped, Frozen or neither
	usage   func(pid int) Usage                        // what the process uses
	notices []*target
	sampled time.Time // when usage was last measured; the loop's own

	// The pure core, as fields so that mutants of it can be shown to fail.
	decide       func(Policy, History, time.Time) Action
	decideNotice func(Reason, NoticeHistory) Action
	observe      func(History, Policy, time.Duration, Observation) History

	saving sync.Mutex // of the state file; taken before mu

	mu        sync.Mutex
	pauses    map[string]Pause // by unit; "": all
	busy      string           // the unit that is being restarted; empty: none
	sick      map[string]string
	decisions []Decision
	changed   chan struct{} // closed and replaced when Status changes
}

// target is a Target with what is known of it. The fields from history on are
// guarded by the Watchdog's mutex.
type target struct {
	Target
	prober  *prober // of this process: one that a call hangs in is not the next one's
	sampler *prober // of Goroutines
	notice  Reason  // of a Notice
	noticed NoticeHistory

	history   History
	action    Action
	since     time.Time // of action
	lastErr   string    // of the last probe that failed
	restarted time.Time // end of the last restart; what was seen before is void
	askAgain  time.Time // not before that, after a refused permit
}

// New checks cfg, all faults at once, and starts nothing.
func New(cfg Config) (*Watchdog, error) {
	cfg.Policy = cfg.Policy.withDefaults()
	if cfg.RestartTimeout <= 0 {
		cfg.RestartTimeout = 2 * time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = logging.Discard()
	}
	errs := []error{cfg.Policy.validate()}
	if cfg.Supervisor == nil {
		errs = append(errs, errors.New("watchdog: no supervisor given"))
	}
	w := &Watchdog{
		cfg: cfg, log: cfg.Logger, tick: pause, stopped: stoppedProcess, usage: usageOf, pauses: map[string]Pause{},
		decide: Decide, decideNotice: DecideNotice, observe: History.Observe,
		deps: map[string]*prober{}, sick: map[string]string{}, changed: make(chan struct{}),
	}
	for name := range cfg.Dependencies {
		w.deps[name] = &prober{}
	}
	seen := map[string]bool{}
	for _, t := range cfg.Targets {
		if t.Unit == "" || seen[t.Unit] {
			errs = append(errs, fmt.Errorf("watchdog: target %q: empty or given twice", t.Unit))
		}
		seen[t.Unit] = true
		for _, n := range slices.Concat(t.Needs, t.Fatal) {
			if w.deps[n] == nil {
				errs = append(errs, fmt.Errorf("watchdog: target %s needs %q, which is no dependency", t.Unit, n))
			}
		}
		t.Grace = cmp.Or(t.Grace, cfg.Policy.Grace)
		w.targets = append(w.targets, &target{Target: t, prober: &prober{}, sampler: &prober{}, action: Action{Kind: None, Reason: NotRunning}})
	}
	for _, n := range cfg.Notices {
		if n.Name == "" || n.Check == nil || seen[n.Name] {
			errs = append(errs, fmt.Errorf("watchdog: notice %q: empty or given twice", n.Name))
		}
		seen[n.Name] = true
		w.notices = append(w.notices, &target{Target: Target{Unit: n.Name, Probe: n.Check}, prober: &prober{}, notice: n.Reason, action: Action{Kind: None, Reason: Healthy}})
	}
	var err error
	if w.metrics, err = newMetrics(cfg.Registerer); err != nil {
		errs = append(errs, fmt.Errorf("watchdog: metrics: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return w, nil
}

// Run watches until ctx ends, then returns nil. A restart that is under way then
// is left to the supervisor.
func (w *Watchdog) Run(ctx context.Context) error {
	w.load()
	var restarts sync.WaitGroup
	defer restarts.Wait()
	p := w.cfg.Policy
	slack := 2*p.Every + p.Timeout // a round takes Every or Timeout, whichever is longer
	var before time.Time
	for ctx.Err() == nil {
		began := time.Now()
		late := !before.IsZero() && began.Sub(before) > slack
		for _, t := range w.round(ctx, late) {
			restarts.Go(func() { w.restart(ctx, t) })
		}
		before = began
		period := float64(p.Every) * (0.95 + 0.1*rand.Float64()) // many masters must not probe in step
		w.tick(ctx, time.Duration(period)-time.Since(began))
	}
	return nil
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// round looks at everything once, at the same time, then decides unit by unit
// and returns the one to restart, if any.
func (w *Watchdog) round(ctx context.Context, late bool) []*target {
	timeout := w.cfg.Policy.Timeout
	began := time.Now()
	var (
		wg       sync.WaitGroup
		procs    map[string]Process
		procsErr error
		errs     = make([]error, len(w.targets))
		noticed  = make([]error, len(w.notices))
		routines = make([]int, len(w.targets))
		sample   = began.Sub(w.sampled) >= w.cfg.Policy.Sample
		sick     = make(map[string]string, len(w.deps)) // a failed dependency → its error
		mu       sync.Mutex                             // guards sick
	)
	wg.Go(func() { procs, procsErr = w.processes(ctx) })
	for name, p := range w.deps {
		wg.Go(func() {
			err := p.probe(ctx, timeout, w.cfg.Dependencies[name])
			w.metrics.dependency(name, err != nil)
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				sick[name] = err.Error()
			}
		})
	}
	for i, t := range w.targets {
		wg.Go(func() {
			began := time.Now()
			errs[i] = w.probe(ctx, t, timeout)
			w.metrics.probed(t.Unit, time.Since(began), errs[i])
		})
		if sample {
			wg.Go(func() { routines[i] = t.goroutines(ctx, timeout) })
		}
	}
	for i, n := range w.notices {
		wg.Go(func() { noticed[i] = n.prober.probe(ctx, timeout, n.Probe) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil // what failed did so because we stop
	}
	w.setSick(sick)
	w.endPauses(began)
	if sample {
		w.sampled = began
	}
	for i, n := range w.notices {
		w.watch(n, noticed[i], time.Now())
	}
	var restart []*target
	for i, t := range w.targets {
		o := Observation{At: time.Now(), Late: late, Blind: procsErr != nil, Err: errs[i]}
		p := procs[t.Unit]
		o.Off, o.Again = p.Off, p.Again
		if p.PID != 0 {
			o.PID, o.Since, o.Stopped = p.PID, p.Since, w.stopped(p.PID)
			if sample {
				u := w.usage(p.PID)
				u.Goroutines = routines[i]
				o.Sampled, o.Over = true, t.Limits.Over(u)
				w.metrics.used(t.Unit, u)
			}
		}
		for _, n := range t.Needs {
			if sick[n] != "" {
				o.Sick = n
			}
		}
		o.Excused = slices.ContainsFunc(t.Fatal, func(n string) bool { return sick[n] != "" })
		if w.judge(t, began, o) {
			restart = append(restart, t)
		}
	}
	return restart
}

// probe probes t, unless its process stands still: that needs no second witness,
// and waiting for one would make each round as long as the timeout.
func (w *Watchdog) probe(ctx context.Context, t *target, timeout time.Duration) error {
	w.mu.Lock()
	pid, stops := t.history.PID, t.history.Stops
	w.mu.Unlock()
	if stops > 0 && pid != 0 {
		if r := w.stopped(pid); r != "" {
			return fmt.Errorf("not probed: %s", r)
		}
	}
	return t.prober.probe(ctx, timeout, t.Probe)
}

// processes asks the supervisor, so that one that hangs has failed.
func (w *Watchdog) processes(ctx context.Context) (map[string]Process, error) {
	answer := make(chan map[string]Process, 1)
	err := w.procs.probe(ctx, w.cfg.Policy.Timeout, func(ctx context.Context) error {
		m, err := w.cfg.Supervisor.Processes(ctx)
		answer <- m
		return err
	})
	if err != nil {
		return nil, err
	}
	return <-answer, nil
}

// judge takes what a round that began at began saw of t, and reports whether t
// is to be restarted now.
func (w *Watchdog) judge(t *target, began time.Time, o Observation) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy == t.Unit || began.Before(t.restarted) {
		return false // seen during its restart: says nothing
	}
	if o.Err != nil {
		t.lastErr = o.Err.Error()
	}
	if !o.Blind && o.PID != t.history.PID {
		t.prober, t.sampler = &prober{}, &prober{}
	}
	t.history.Paused = w.pausedNow(t.Unit, o.At)
	t.history = w.observe(t.history, w.cfg.Policy, t.Grace, o)
	w.metrics.failures.WithLabelValues(t.Unit).Set(float64(max(t.history.Fails, t.history.Stops)))
	a := w.decide(w.cfg.Policy, t.history, o.At)
	switch {
	case a.Kind == Restart && o.At.Before(t.askAgain):
		return false // refused a moment ago
	case a.Kind == Restart && w.busy != "":
		w.announce(t, Action{Hold, Busy, w.busy}, o.At)
		return false
	case a.Kind == Restart:
		w.busy = t.Unit // announced once it is permitted
		return true
	default:
		w.announce(t, a, o.At)
		return false
	}
}
