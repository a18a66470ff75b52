package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hactl/hactl/internal/testwait"
)

func three(t *testing.T) (*testCA, [3]*apiServer) {
	ca := newCA(t)
	return ca, [3]*apiServer{newAPIServer(t, ca, "a"), newAPIServer(t, ca, "b"), newAPIServer(t, ca, "c")}
}

func TestSpreadsOverReadyBackends(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Source: sourceOf(s[:]...), Algorithm: "round-robin"})
	for _, n := range []string{"a", "b", "c"} {
		r.until(n, "ready")
	}
	got := r.names(30)
	for _, n := range []string{"a", "b", "c"} {
		if got[n] == 0 {
			t.Errorf("answers by backend: %v", got)
		}
	}
}

func TestKilledBackendCostsNoNewConnection(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Source: sourceOf(s[:]...)})
	r.until("a", "ready")
	s[0].kill()
	if got := r.names(20); got["a"] != 0 {
		t.Errorf("a answered from the grave: %v", got)
	}
	r.until("a", "ejected")
	s[0].start()
	r.until("a", "ready")
}

func TestRedBackendKeepsItsConnections(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Source: sourceOf(s[0], s[1])})
	r.until("a", "ready")
	r.until("b", "ready")
	clients := map[string]*client{}
	for len(clients) < 2 {
		c := r.client()
		name, err := c.name()
		if err != nil {
			t.Fatal(err)
		}
		clients[name] = c
	}
	s[0].red.Store(true)
	r.until("a", "draining")
	if b := r.backend("a"); !strings.Contains(b.Why, "says 500: shutdown") {
		t.Errorf("why: %q", b.Why)
	}
	if got := r.names(10); got["a"] != 0 {
		t.Errorf("new connections went to the draining one: %v", got)
	}
	if name, err := clients["a"].name(); name != "a" || err != nil {
		t.Errorf("old connection: %q %v", name, err)
	}
	// Its listener goes while it finishes: still nothing is cut.
	s[0].mu.Lock()
	_ = s[0].ln.Close()
	s[0].mu.Unlock()
	eventually(t, "probes to be refused or red on", func() bool { return r.backend("a").Probe.Failures > 6 })
	if name, err := clients["a"].name(); name != "a" || err != nil {
		t.Errorf("old connection after the listener closed: %q %v", name, err)
	}
	if n := r.Status().Counts.Cut; n != 0 {
		t.Errorf("%d connections cut", n)
	}
}

func TestFrozenBackendIsEjectedAndCut(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Source: sourceOf(s[0], s[1])})
	r.until("a", "ready")
	r.until("b", "ready")
	var at []*client
	for len(at) < 2 {
		c := r.client()
		if name, err := c.name(); err != nil {
			t.Fatal(err)
		} else if name == "a" {
			at = append(at, c)
		}
	}
	s[0].ln.freeze()
	// The request on the old connection ends soon instead of hanging; http.Client
	// repeats it over a new connection, which reaches the other backend.
	name, err := at[0].name()
	if err != nil || name != "b" {
		t.Errorf("request on the old connection: %q %v", name, err)
	}
	r.until("a", "ejected")
	if b := r.backend("a"); b.Probe.Answer != "silent" {
		t.Errorf("probe: %+v", b.Probe)
	}
	eventually(t, "the connections to be cut", func() bool { return r.backend("a").Connections == 0 })
	s[0].ln.unfreeze()
	r.until("a", "ready")
}

// A backend that is too busy for its probes but still serves its connections is
// drained, not cut.
func TestBusyBackendIsNotCut(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Source: sourceOf(s[0], s[1])})
	r.until("a", "ready")
	r.until("b", "ready")
	var old *client
	for {
		old = r.client()
		if name, err := old.name(); err != nil {
			t.Fatal(err)
		} else if name == "a" {
			break
		}
	}
	s[0].hung.Store(true)
	eventually(t, "a to be drained", func() bool {
		if name, err := old.name(); name != "a" || err != nil {
			t.Fatalf("old connection: %q %v", name, err)
		}
		return r.backend("a").State.String() == "draining"
	})
	if why := r.backend("a").Why; !strings.Contains(why, "still answers its clients") {
		t.Errorf("why: %s", why)
	}
	if n := r.Status().Counts.Cut; n != 0 {
		t.Errorf("%d connections cut", n)
	}
}

// With only one backend, cutting would help nobody.
func TestNothingIsCutWithoutAnAlternative(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Source: sourceOf(s[0])})
	r.until("a", "ready")
	c := r.client()
	if _, err := c.name(); err != nil {
		t.Fatal(err)
	}
	s[0].ln.freeze()
	r.until("a", "ejected")
	if err := r.Ready(); err == nil {
		t.Error("the balancer calls itself ready")
	}
	s[0].ln.unfreeze()
	r.until("a", "ready")
	if _, err := c.name(); err != nil {
		t.Error(err)
	}
	if st := r.Status(); st.Counts.Cut != 0 || st.Counts.Accepted != 1 {
		t.Errorf("the connection did not survive: %+v", st.Counts)
	}
}

func TestAllDownThenOneBack(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Source: sourceOf(s[:]...)})
	r.until("a", "ready")
	for _, s := range s {
		s.kill()
	}
	r.until("c", "ejected")
	if _, err := r.client().name(); err == nil {
		t.Fatal("an answer although all are down")
	}
	s[2].start()
	// Before any probe notices: everything is tried.
	if got := r.names(3); got["c"] != 3 {
		t.Errorf("answers: %v", got)
	}
}

func TestDrainAndUndrain(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Source: sourceOf(s[0], s[1]), SlowStart: -1, AdminSocket: filepath.Join(t.TempDir(), "run", "lb.sock")})
	r.until("a", "ready")
	r.until("b", "ready")
	admin := NewClient(r.cfg.AdminSocket)
	ctx := context.Background()
	if fi, err := os.Stat(r.cfg.AdminSocket); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("admin socket: %v %v", fi, err)
	}
	if err := admin.Drain(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if got := r.names(10); got["b"] != 10 {
		t.Errorf("answers with a drained: %v", got)
	}
	st, err := admin.Status(ctx)
	if err != nil || !st.Backends[0].Drained || st.Backends[0].Usable || !st.Ready {
		t.Errorf("status: %+v %v", st, err)
	}
	if err := admin.Undrain(ctx, s[0].addr); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a to be used", func() bool { return r.names(5)["a"] > 0 })
	if err := admin.Drain(ctx, "nobody"); !errors.Is(err, ErrNoBackend) {
		t.Errorf("drain of an unknown backend: %v", err)
	}
	if err := admin.Suspect(ctx, "a"); err != nil {
		t.Error(err)
	}
}

func TestListFollowsFile(t *testing.T) {
	ca, s := three(t)
	file, state := filepath.Join(t.TempDir(), "list"), filepath.Join(t.TempDir(), "lb", "backends.json")
	writeFile(t, file, s[0].addr+",name=a\n")
	r := newRig(t, ca, Config{Source: File(file), StateFile: state, DrainTimeout: time.Hour})
	r.until("a", "ready")
	old := r.client()
	if _, err := old.name(); err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, "# a goes\n"+s[1].addr+",name=b,weight=3\n")
	r.Reload()
	r.until("b", "ready")
	if got := r.names(5); got["b"] != 5 {
		t.Errorf("answers: %v", got)
	}
	if name, err := old.name(); name != "a" || err != nil {
		t.Errorf("old connection to the removed backend: %q %v", name, err)
	}
	writeFile(t, file, "# nothing is listed\n"+"10.0.0.1\n")
	r.Reload()
	testwait.For(t, "the bad list to be refused", patience, func() error {
		if e := r.Status().ListErr; !strings.Contains(e, "line 2") {
			return errors.New(e)
		}
		return nil
	})
	if got := r.names(5); got["b"] != 5 {
		t.Errorf("answers with a bad list: %v", got)
	}
	old.tr.CloseIdleConnections()
	eventually(t, "the removed backend to be forgotten", func() bool { return len(r.Status().Backends) == 1 })
	r.stop()

	// The kept list serves when the source gives none.
	again := newRig(t, ca, Config{Source: File(file), StateFile: state})
	again.until("b", "ready")
	if st := again.Status(); st.ListFrom != "disk" || st.ListErr == "" {
		t.Errorf("status: %+v", st)
	}
	writeFile(t, file, s[2].addr+",name=c\n")
	again.Reload()
	again.until("c", "ready")
	if st := again.Status(); st.ListFrom != "source" || st.ListErr != "" {
		t.Errorf("status: %+v", st)
	}
}

func TestNamesAreResolved(t *testing.T) {
	ca, s := three(t)
	_, port, _ := net.SplitHostPort(s[0].addr)
	r := newRig(t, ca, Config{Source: Static([]Backend{{Name: "a", Address: "localhost:" + port}})})
	testwait.For(t, "a ready address", patience, func() error { return r.Ready() })
	if got := r.names(3); got["a"] != 3 {
		t.Errorf("answers: %v", got)
	}
	if b := r.Status().Backends[0]; b.Host != "localhost:"+port {
		t.Errorf("backend: %+v", b)
	}
}

// A backend that passes its probes and fails connections is left alone after a
// few of them.
func TestLiarIsDistrusted(t *testing.T) {
	ca, s := three(t)
	log := &lines{}
	r := newRig(t, ca, Config{
		Source: sourceOf(s[0], s[1]), Algorithm: "round-robin", Check: Check{Kind: CheckNone}, ReplayPlain: true,
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	r.until("a", "ready")
	r.until("b", "ready")
	began := time.Now()
	s[0].kill()
	r.names(20)
	eventually(t, "a to be distrusted", func() bool { return r.backend("a").Distrusted })
	if b := r.backend("a"); b.Usable || !strings.Contains(b.Why, "fails connections") || b.Since.Before(began) {
		t.Errorf("a is %+v", b)
	}
	s[0].start()
	eventually(t, "a to be trusted again", func() bool { return r.backend("a").Usable })
	eventually(t, "the log to say so", func() bool { return len(log.with("trusted again", "backend=a")) == 1 })
	if b := r.backend("a"); b.Distrusted || b.Since.After(began) || b.Why != "not checked" {
		t.Errorf("a is %+v", b)
	}
}

// When the last usable backend goes the log says so once, and once when one is back.
func TestLogSaysWhenNothingIsReady(t *testing.T) {
	ca, s := three(t)
	log := &lines{}
	r := newRig(t, ca, Config{Source: sourceOf(s[0], s[1]), Logger: slog.New(slog.NewTextHandler(log, nil))})
	r.until("a", "ready")
	r.until("b", "ready")
	s[0].red.Store(true)
	r.until("a", "draining")
	if got := log.with("no backend is ready"); len(got) != 0 {
		t.Errorf("while b is ready: %q", got)
	}
	if err := r.Drain("b"); err != nil {
		t.Fatal(err)
	}
	asks := s[0].asks.Load()
	eventually(t, "five more probes", func() bool { return s[0].asks.Load() > asks+5 })
	if got := log.with("level=WARN", "no backend is ready"); len(got) != 1 {
		t.Errorf("with none: %q", got)
	}
	s[0].red.Store(false)
	r.until("a", "ready")
	if got := log.with("level=INFO", "a backend is ready"); len(got) != 2 { // the first at the start
		t.Errorf("with one: %q", got)
	}
	if b := r.backend("b"); b.Why != "drained by an operator" || !b.Since.After(r.backend("a").Since.Add(-time.Minute)) || b.Since.Before(r.Status().Started) {
		t.Errorf("b is %+v", b)
	}
}

// Connections are moved by themselves only where clients come back by themselves: at
// API servers.
func TestRebalancingIsForAPIServers(t *testing.T) {
	roots := newCA(t).pool
	for kind, want := range map[CheckKind]float64{"": 0.01, CheckHTTPS: 0.01, CheckTCP: 0, CheckNone: 0} {
		cfg, err := Config{Listeners: files(nil), Source: Static(nil), Check: Check{Kind: kind, Roots: roots}}.withDefaults()
		if err != nil || cfg.Rebalance != want {
			t.Errorf("check %q: rebalance %v, %v; want %v", kind, cfg.Rebalance, err, want)
		}
	}
	if cfg, err := (Config{Listeners: files(nil), Source: Static(nil), Check: Check{Kind: CheckTCP}, Rebalance: 0.02}).withDefaults(); err != nil || cfg.Rebalance != 0.02 {
		t.Errorf("asked for: %v %v", cfg.Rebalance, err)
	}
}

// With local-first connections go back to the own zone when its backend returns, and
// stay there when another zone's does.
func TestRebalancingKeepsToTheZone(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Algorithm: "local-first", Zone: "z1", SlowStart: -1, Rebalance: 1, Source: Static([]Backend{
		{Name: "a", Address: s[0].addr, Zone: "z1"}, {Name: "b", Address: s[1].addr, Zone: "z2"},
	})})
	r.until("a", "ready")
	r.until("b", "ready")
	s[0].kill()
	r.until("a", "ejected")
	var clients []*client
	for range 6 {
		c := r.client()
		if name, err := c.name(); name != "b" || err != nil {
			t.Fatal(name, err)
		}
		clients = append(clients, c)
	}
	ask := func() error {
		for _, c := range clients {
			if _, err := c.name(); err != nil {
				return err
			}
		}
		return nil
	}
	s[0].start()
	r.until("a", "ready")
	testwait.For(t, "connections to be in the own zone", patience, func() error {
		if err := ask(); err != nil {
			return err
		}
		if a, b := r.backend("a").Connections, r.backend("b").Connections; a != 6 || b != 0 {
			tick := time.NewTimer(1600 * time.Millisecond) // longer than quietBeforeMove, and some
			<-tick.C
			return fmt.Errorf("%d there, %d elsewhere", a, b)
		}
		return nil
	})
	moved := r.Status().Moved
	s[1].kill()
	r.until("b", "ejected")
	s[1].start()
	r.until("b", "ready")
	ticks := r.ticked.Load()
	eventually(t, "connections to be quiet, and looked at", func() bool { return r.ticked.Load() > ticks+int64(4*time.Second) })
	if now := r.Status().Moved; now != moved {
		t.Errorf("%d connections were moved out of the own zone", now-moved)
	}
}

func TestRebalancesAfterReturn(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Rebalance: 1, SlowStart: -1, Zone: "z1", Source: Static([]Backend{ // the zone counts with local-first only
		{Name: "a", Address: s[0].addr, Zone: "z1"}, {Name: "b", Address: s[1].addr},
	})})
	r.until("a", "ready")
	s[1].kill()
	r.until("b", "ejected")
	var clients []*client
	for range 8 {
		c := r.client()
		if name, err := c.name(); name != "a" || err != nil {
			t.Fatal(name, err)
		}
		clients = append(clients, c)
	}
	s[1].start()
	r.until("b", "ready")
	testwait.For(t, "connections to be even", patience, func() error {
		for _, c := range clients {
			if _, err := c.name(); err != nil {
				return err
			}
		}
		a, b := r.backend("a").Connections, r.backend("b").Connections
		if a != 4 || b != 4 {
			tick := time.NewTimer(1600 * time.Millisecond) // longer than quietBeforeMove, and some
			<-tick.C
			return errors.New("not even yet")
		}
		return nil
	})
	if r.Status().Moved == 0 {
		t.Error("nothing counted as moved")
	}
}

// told collects what a balancer tells its service manager.
type told struct {
	mu     sync.Mutex
	states []string
}

func (s *told) notify(state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states = append(s.states, state)
}

func (s *told) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.states, " ")
}

// The service manager hears that it is ready when it is known which backends are.
func TestReadyIsToldAfterTheFirstProbes(t *testing.T) {
	ca, s := three(t)
	s[1].kill()           // refused is an answer too
	s[2].hung.Store(true) // silent until further notice
	check := quick(ca)
	check.Timeout = 2 * announceMost
	check.Every = check.Timeout / 20
	var told told
	r := newRig(t, ca, Config{Source: sourceOf(s[:]...), Check: check, Notify: told.notify})
	r.until("a", "ready")
	eventually(t, "b's and c's first probes", func() bool { return r.backend("b").Probe.Failures > 0 && s[2].asks.Load() > 0 })
	if got := told.all(); got != "" {
		t.Errorf("it says %s while c is being asked", got)
	}
	if got := r.names(3); got["a"] != 3 { // newcomers are served all the same
		t.Errorf("answers: %v", got)
	}
	s[2].hung.Store(false)
	eventually(t, "it to be ready", func() bool { return told.all() == "READY=1" })
	if r.backend("c").Probe.At.IsZero() {
		t.Error("c's probe was not waited for")
	}
	asks := s[0].asks.Load()
	eventually(t, "more probes", func() bool { return s[0].asks.Load() > asks+1 })
	if got := told.all(); got != "READY=1" {
		t.Errorf("it says %s", got)
	}
}

// Backends that are silent, or a name without an address, do not hold a start up; and one that is
// stopped before it was ready never says that it is.
func TestReadyIsToldWithoutAnyBackend(t *testing.T) {
	ca, s := three(t)
	s[0].ln.freeze()
	defer s[0].ln.unfreeze()
	var silent told
	r := newRig(t, ca, Config{Source: sourceOf(s[0]), Check: seldom(ca), Notify: silent.notify})
	eventually(t, "it to be ready", func() bool { return silent.all() == "READY=1" })
	if r.Ready() == nil {
		t.Error("the silent one is ready")
	}

	_, resolver := newDNS(t) // which fails
	var unknown told
	never := seldom(ca)
	never.Timeout = time.Hour
	newRig(t, ca, Config{Source: Static([]Backend{{Address: "api.example.test:1"}}), Resolver: resolver, Check: never, Notify: unknown.notify})
	eventually(t, "it to be ready", func() bool { return unknown.all() == "READY=1" })

	var stopped told
	r = newRig(t, ca, Config{Source: sourceOf(s[0]), Check: never, Notify: stopped.notify})
	asks := r.ticked.Load()
	eventually(t, "it to run", func() bool { return r.ticked.Load() > asks })
	r.stop()
	if got := stopped.all(); got != "STOPPING=1" {
		t.Errorf("it said %s", got)
	}

	// However long a probe may take.
	var late told
	b, err := New(Config{Listeners: files(listener(t, "127.0.0.1:0")), Source: sourceOf(s[0]), Check: never, Notify: late.notify})
	if err != nil {
		t.Fatal(err)
	}
	defer b.engine.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b.announce(ctx, ctx, time.Millisecond)
	if got := late.all(); got != "READY=1" {
		t.Errorf("it said %q", got)
	}
}

func TestStopFinishesRequests(t *testing.T) {
	ca, s := three(t)
	var mu sync.Mutex
	var states []string
	r := newRig(t, ca, Config{Source: sourceOf(s[0]), Notify: func(s string) {
		mu.Lock()
		defer mu.Unlock()
		states = append(states, s)
	}, Watchdog: 300 * time.Millisecond})
	r.until("a", "ready")
	c := r.client()
	if _, err := c.name(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a watchdog ping", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Contains(states, "WATCHDOG=1") && slices.Contains(states, "READY=1")
	})
	r.stop() // the quiet connection does not hold it up
	var once []string
	for _, s := range states {
		if s != "WATCHDOG=1" {
			once = append(once, s)
		}
	}
	if got := strings.Join(once, " "); got != "READY=1 STOPPING=1" || !slices.Contains(states, "WATCHDOG=1") {
		t.Errorf("notified %v", states)
	}
	if _, err := net.Dial("tcp", r.addr); err == nil {
		t.Error("still accepts")
	}
}

func TestMetrics(t *testing.T) {
	ca, s := three(t)
	reg := prometheus.NewRegistry()
	r := newRig(t, ca, Config{Source: sourceOf(s[0]), Registerer: reg})
	r.until("a", "ready")
	r.names(2)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		got[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	if got["hactl_lb_accepted_total"] != 2 || got["hactl_lb_backend_usable"] != 1 || got["hactl_lb_backend_drained"] != 0 || len(got) < 15 {
		t.Errorf("metrics: %v", got)
	}
	// Every one is in the manual.
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "lb.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range got {
		if !strings.Contains(string(page), "`"+strings.TrimPrefix(name, "hactl_lb_")) {
			t.Errorf("docs/lb.md does not name %s", name)
		}
	}
	if err := r.Drain("a"); err != nil {
		t.Fatal(err)
	}
	if families, err = reg.Gather(); err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "hactl_lb_backend_drained" && f.GetMetric()[0].GetGauge().GetValue() != 1 {
			t.Error("a drained backend is not told")
		}
	}
}

func TestNewRefuses(t *testing.T) {
	ca := newCA(t)
	ok := Static([]Backend{{Address: "127.0.0.1:1"}})
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no listener":     {func(c *Config) { c.Listeners = nil }, "no address to listen on"},
		"no source":       {func(c *Config) { c.Source = nil }, "no source"},
		"no CA":           {func(c *Config) { c.Check.Roots = nil }, "no CA"},
		"check kind":      {func(c *Config) { c.Check.Kind = "icmp" }, `check "icmp": want https, tcp or none`},
		"check path":      {func(c *Config) { c.Check.Path = "readyz" }, "begins with /"},
		"interval":        {func(c *Config) { c.Check.Every = time.Microsecond }, "at least 10ms"},
		"timeout":         {func(c *Config) { c.Check.Timeout = time.Hour }, "at most 20 intervals"},
		"fall":            {func(c *Config) { c.Check.Fall = -1 }, "fall -1"},
		"rise":            {func(c *Config) { c.Check.Rise = 1000 }, "rise 1000"},
		"algorithm":       {func(c *Config) { c.Algorithm = "best" }, `algorithm "best"`},
		"no zone":         {func(c *Config) { c.Algorithm = "local-first" }, "own zone is missing"},
		"rebalance":       {func(c *Config) { c.Rebalance = 2 }, "rebalance 2"},
		"empty list":      {func(c *Config) { c.Source = Static(nil) }, "no backend in the list"},
		"data path":       {func(c *Config) { c.Data.MaxConns = -1 }, "max conns -1"},
		"drain timeout":   {func(c *Config) { c.DrainTimeout = -1 }, "drain timeout"},
		"source and disk": {func(c *Config) { c.Source = File("/nonexistent") }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			f := listener(t, "127.0.0.1:0")
			defer f.Close()
			cfg := Config{Listeners: []*os.File{f}, Source: ok, Check: Check{Roots: ca.pool}}
			tc.change(&cfg)
			if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestItselfAsBackendIsRefused(t *testing.T) {
	ca := newCA(t)
	for _, listen := range []string{"127.0.0.1:0", ":0"} {
		f := listener(t, listen)
		addr := addressOf(t, f)
		_, port, _ := net.SplitHostPort(addr)
		_, err := New(Config{Listeners: []*os.File{f}, Check: quick(ca), Source: Static([]Backend{{Address: "127.0.0.1:" + port}})})
		if err == nil || !strings.Contains(err.Error(), "circle") {
			t.Errorf("listen on %s: %v", listen, err)
		}
		_ = f.Close()
	}
}
