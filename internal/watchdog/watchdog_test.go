package watchdog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/health"
	"github.com/hactl/hactl/internal/testwait"
)

func TestNewRefuses(t *testing.T) {
	ok := func() Config { return Config{Supervisor: &world{}, Targets: []Target{{Unit: "a"}}} }
	if _, err := New(ok()); err != nil {
		t.Fatalf("before any change: %v", err)
	}
	for want, change := range map[string]func(*Config){
		"no supervisor given":                        func(c *Config) { c.Supervisor = nil },
		`target "": empty or given twice`:            func(c *Config) { c.Targets = []Target{{}} },
		`target "a": empty or given twice`:           func(c *Config) { c.Targets = append(c.Targets, Target{Unit: "a"}) },
		`target a needs "etcd", which is no depende`: func(c *Config) { c.Targets[0].Needs = []string{"etcd"} },
		"watchdog.every: 1ms is too small":           func(c *Config) { c.Policy.Every = time.Millisecond },
		"watchdog.timeout: -1s is too small":         func(c *Config) { c.Policy.Timeout = -time.Second },
		"watchdog.fall: -1 is too small":             func(c *Config) { c.Policy.Fall = -1 },
		"watchdog.rise: -1 is too small":             func(c *Config) { c.Policy.Rise = -1 },
		"watchdog.grace: -1ns is too small":          func(c *Config) { c.Policy.Grace = -1 },
		"watchdog.budget: -2 is too small":           func(c *Config) { c.Policy.Budget = -2 },
		"watchdog.window: -1m0s is too small":        func(c *Config) { c.Policy.Window = -time.Minute },
		"shorter than the first pause":               func(c *Config) { c.Policy.Window = time.Second },
	} {
		cfg := ok()
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, want %q in it", err, want)
		}
	}
	_, err := New(Config{Policy: Policy{Fall: -1}, Targets: []Target{{Unit: "a", Needs: []string{"x"}}}})
	for _, want := range []string{"fall", "no supervisor", `needs "x"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, want all faults at once, %q too", err, want)
		}
	}
}

func TestPolicyOfTheConfiguration(t *testing.T) {
	got := PolicyOf(config.Watchdog{Every: 1, Timeout: 2, Fall: 3, Window: 4, Budget: 5})
	if got.Every != 1 || got.Timeout != 2 || got.Fall != 3 || got.Window != 4 || got.Budget != 5 {
		t.Errorf("PolicyOf = %+v", got)
	}
	d := Policy{}.withDefaults()
	if err := d.validate(); err != nil || d.Every != time.Second || d.Timeout != 2*time.Second || d.Fall != 3 || d.Window != 10*time.Minute || d.Budget != 5 {
		t.Errorf("defaults %+v, %v; want those of config.Watchdog", d, err)
	}
}

// A hung API server is found and restarted within the 10 s that design asks for,
// by the defaults and with jitter.
func TestDefaultsFindAHungProcessInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{procs: map[string]Process{"a": {PID: 1}}, says: map[string]string{}, restart: map[string][]string{}, end: make(chan struct{})}
		dog, err := New(Config{Supervisor: w, Targets: []Target{{Unit: "a", Probe: w.check("a")}}})
		if err != nil {
			t.Fatal(err)
		}
		dog.stopped = func(int) Reason { return "" }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = dog.Run(ctx) }()
		<-time.After(time.Minute)
		w.mu.Lock()
		w.says["a"] = "timeout"
		w.mu.Unlock()
		began := time.Now()
		for restarted := false; !restarted; {
			s, changed := dog.Status()
			restarted = len(s.Units[0].Restarts) > 0
			if !restarted {
				<-changed
			}
		}
		if took := time.Since(began); took > 8*time.Second {
			t.Errorf("took %v", took)
		}
		cancel()
		<-done
	})
}

func TestStatusTellsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		w := &world{
			procs: map[string]Process{"a": {PID: 1}}, says: map[string]string{"etcd": "sick", "a": "error"},
			restart: map[string][]string{}, end: make(chan struct{}),
		}
		dog, err := New(Config{
			Supervisor: w, Registerer: reg, Policy: Policy{Grace: time.Nanosecond},
			Targets:      []Target{{Unit: "a", Probe: w.check("a"), Needs: []string{"etcd"}}, {Unit: "b"}},
			Dependencies: map[string]health.Check{"etcd": w.check("etcd")},
		})
		if err != nil {
			t.Fatal(err)
		}
		_, changed := dog.Status()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = dog.Run(ctx) }()
		<-changed
		synctest.Wait()
		s, changed := dog.Status()
		if s.Sick["etcd"] != "broken" || s.Units[0].Action != (Action{Hold, Dependency, "etcd"}) || s.Units[0].LastError != "broken" ||
			s.Units[1].Action != (Action{None, NotRunning, ""}) || len(s.Decisions) != 1 || s.Decisions[0].Unit != "a" || s.Decisions[0].Error != "broken" {
			t.Errorf("status %+v", s)
		}
		if err := dog.Pause("", 0, "me"); err != nil {
			t.Error(err)
		}
		<-changed
		if s, _ := dog.Status(); !s.Paused {
			t.Error("not paused")
		}
		cancel()
		<-done
		want := map[string]float64{
			"hactl_watchdog_probes_total": 2, "hactl_watchdog_decisions_total": 1, "hactl_watchdog_dependency_sick": 1,
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			sum := 0.0
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
			if v, ok := want[f.GetName()]; ok && sum != v {
				t.Errorf("%s = %v, want %v", f.GetName(), sum, v)
			}
			delete(want, f.GetName())
		}
		if len(want) > 0 {
			t.Errorf("missing metrics: %v", want)
		}
	})
}

func TestDecisionsAreBounded(t *testing.T) {
	dog, err := New(Config{Supervisor: &world{}, Targets: []Target{{Unit: "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxDecisions {
		dog.announce(dog.targets[0], Action{Restart, NoAnswer, fmt.Sprint(i)}, noon)
	}
	s, _ := dog.Status()
	if len(s.Decisions) != maxDecisions || s.Decisions[maxDecisions-1].Action.Detail != fmt.Sprint(3*maxDecisions-1) {
		t.Errorf("%d decisions, last %+v", len(s.Decisions), s.Decisions[len(s.Decisions)-1])
	}
}

func TestLatePermitIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		released := false
		dog, err := New(Config{Supervisor: &world{}, Permit: func(context.Context, Ask) (func(), error) {
			<-time.After(time.Minute)
			return func() { released = true }, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := dog.permit(t.Context(), Ask{Unit: "a"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("permit = %v, want a deadline", err)
		}
		<-time.After(time.Minute)
		synctest.Wait()
		if !released {
			t.Error("the permit was not given back")
		}
	})
}

func TestPermitIsHeldUntilTheResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{procs: map[string]Process{}, says: map[string]string{}, restart: map[string][]string{"a": {"takes", "7s"}}}
		held := time.Duration(0)
		dog, err := New(Config{Supervisor: w, Targets: []Target{{Unit: "a"}}, Permit: func(context.Context, Ask) (func(), error) {
			began := time.Now()
			return func() { held = time.Since(began) }, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		dog.restart(t.Context(), dog.targets[0])
		if held != 7*time.Second {
			t.Errorf("held for %v, want as long as the restart took, 7s", held)
		}
	})
}

func TestStateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "watchdog.json")
	newDog := func() *Watchdog {
		t.Helper()
		dog, err := New(Config{Supervisor: &world{}, Targets: []Target{{Unit: "a"}}, StateFile: path})
		if err != nil {
			t.Fatal(err)
		}
		dog.load()
		return dog
	}
	dog := newDog()
	now := time.Now()
	dog.targets[0].history.Restarts = []time.Time{now.Add(-time.Minute), now}
	if err := dog.Pause("", 0, "me"); err != nil { // saves
		t.Fatal(err)
	}
	if err := dog.Pause("b", 0, "me"); !errors.Is(err, ErrNoTarget) {
		t.Errorf("pause of what is not watched = %v", err)
	}
	s, _ := newDog().Status()
	if !s.Paused || len(s.Units[0].Restarts) != 2 || !s.Units[0].Restarts[1].Equal(now) {
		t.Errorf("after save and load: %+v", s)
	}
	for _, bad := range []string{"", "{", `{"restarts":{"a":["yesterday"]}}`, "\x00"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, _ := newDog().Status(); s.Paused || len(s.Units[0].Restarts) != 0 {
			t.Errorf("from %q: %+v, want a fresh start", bad, s)
		}
	}
}

func FuzzReadKept(f *testing.F) {
	f.Add([]byte(`{"paused":true,"restarts":{"a":["2026-11-22T12:00:00Z"]}}`))
	path := filepath.Join(f.TempDir(), "s.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := readKept(path)
		if err == nil {
			h := History{Restarts: k.Restarts["a"]}
			if n := len(h.recent(time.Hour, noon)); n > len(h.Restarts) {
				t.Errorf("%d recent of %d", n, len(h.Restarts))
			}
		}
	})
}

func TestHTTPProbe(t *testing.T) {
	answers := map[string]func(http.ResponseWriter){
		"/ok": func(w http.ResponseWriter) { fmt.Fprint(w, "ok") },
		"/failed": func(w http.ResponseWriter) {
			w.WriteHeader(500)
			fmt.Fprint(w, "[+]ping ok\n[-]informer-sync failed: reason withheld\nlivez check failed")
		},
		"/refused": func(w http.ResponseWriter) { w.WriteHeader(401); fmt.Fprint(w, "Unauthorized\nmore") },
	}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answers[r.URL.Path](w) }))
	defer srv.Close()
	for path, want := range map[string]string{
		"/ok": "", "/failed": "500 Internal Server Error: [-]informer-sync failed: reason withheld", "/refused": "401 Unauthorized: Unauthorized",
	} {
		err := HTTP(srv.Client(), srv.URL+path)(t.Context())
		if (err == nil) != (want == "") || (err != nil && !strings.HasSuffix(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if err := HTTP(&http.Client{}, srv.URL+"/ok")(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v, want refused", err)
	}
	if err := HTTP(srv.Client(), "://")(t.Context()); err == nil {
		t.Error("a bad URL was probed")
	}
}

func TestConnectProbe(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := Connect(ln.Addr().String())(t.Context()); err != nil {
		t.Errorf("listening: %v", err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Connect(ln.Addr().String())(t.Context()); err == nil {
		t.Error("closed, and the probe is content")
	}
}

func TestStoppedProcess(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if stoppedProcess(cmd.Process.Pid) != "" {
		t.Error("a sleeping process counts as stopped")
	}
	for _, c := range []struct {
		sig  syscall.Signal
		want Reason
	}{{syscall.SIGSTOP, Stopped}, {syscall.SIGCONT, ""}} {
		if err := cmd.Process.Signal(c.sig); err != nil {
			t.Fatal(err)
		}
		testwait.For(t, "the state after "+c.sig.String(), 10*time.Second, func() error {
			if got := stoppedProcess(cmd.Process.Pid); got != c.want {
				return fmt.Errorf("stopped is %q", got)
			}
			return nil
		})
	}
	if stoppedProcess(1<<22) != "" {
		t.Error("no process counts as stopped")
	}
}

func TestProber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p prober
		var calls atomic.Int32
		release := make(chan struct{})
		stuck := func(context.Context) error { calls.Add(1); <-release; return nil }
		for range 3 {
			if err := p.probe(t.Context(), time.Second, stuck); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("probe = %v, want a deadline", err)
			}
			<-time.After(time.Second)
		}
		if n := calls.Load(); n != 1 {
			t.Errorf("%d calls outstanding, want 1", n)
		}
		close(release)
		synctest.Wait()
		if err := p.probe(t.Context(), time.Second, func(context.Context) error { return errBad }); !errors.Is(err, errBad) {
			t.Errorf("afterwards: %v, want the check's own error", err)
		}
		if err := p.probe(t.Context(), time.Second, nil); err != nil {
			t.Errorf("no check: %v", err)
		}
	})
}
