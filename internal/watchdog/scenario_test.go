package watchdog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hactl/hactl/internal/health"
)

// A scenario is a text: what happens, and every decision that must follow, in
// order and at its second. Nothing else may be decided.
//
//	policy fall=3 rise=2 grace=30s budget=5 window=10m backoff=10s
//	target kube-apiserver needs=etcd grace=20s
//	t=0s   process kube-apiserver pid=10     none: no process; off: stopped on purpose; stopped: state T; frozen; runs: no
//	                                         longer; ended [N]: its supervisor starts it (N times since)
//	t=40s  probe kube-apiserver timeout      or ok, error, stuck (ignores its deadline)
//	t=50s  dependency etcd sick              or well
//	t=60s  restart kube-apiserver fails      how restarts go from now on: works (new pid, answers), still (new pid, still
//	                                         fails), fails, takes 30s
//	t=60s  permit refuse                     or grant, stuck
//	t=60s  supervisor silent                 or answers
//	t=60s  uses kube-apiserver too-much      or little
//	t=60s  notice disk low                   or fine; needs a line "notice disk"
//	t=70s  asleep 30s                        the watchdog does not run for so long
//	t=80s  pause                             or pause UNIT, pause UNIT for 20s (- for all units); resume [UNIT], reborn (a new watchdog on the same state file)
//	t=99s  end
//	=> t=42s restart kube-apiserver (no answer, 3 of 3)
//
// Decisions of kind none are written down too, except healthy and not running.
type scenario struct {
	policy  Policy
	targets []Target
	deps    []string
	notices []string
	events  []event
	want    []string
}

type event struct {
	at   time.Duration
	verb string
	args []string
}

func parseScenario(name string) (scenario, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return scenario{}, err
	}
	s := scenario{policy: Policy{Every: time.Second, Timeout: 500 * time.Millisecond}}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		if rest, ok := strings.CutPrefix(line, "=> "); ok {
			s.want = append(s.want, strings.TrimSpace(rest))
			continue
		}
		if err := s.line(strings.Fields(line)); err != nil {
			return s, fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	return s, nil
}

func (s *scenario) line(f []string) error {
	if len(f) == 0 {
		return nil
	}
	if at, ok := strings.CutPrefix(f[0], "t="); ok {
		d, err := time.ParseDuration(at)
		if err != nil || len(f) < 2 {
			return fmt.Errorf("bad event %q", f)
		}
		s.events = append(s.events, event{d, f[1], f[2:]})
		return nil
	}
	var t Target
	args := f[1:]
	if f[0] == "notice" {
		s.notices = append(s.notices, f[1])
		return nil
	}
	if f[0] == "target" {
		t.Unit, args = f[1], f[2:]
	}
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		d, derr := time.ParseDuration(v)
		n, nerr := strconv.Atoi(v)
		var err error
		switch f[0] + " " + k {
		case "policy fall":
			s.policy.Fall, err = n, nerr
		case "policy rise":
			s.policy.Rise, err = n, nerr
		case "policy timeout":
			s.policy.Timeout, err = d, derr
		case "policy leak-hold":
			s.policy.LeakHold, err = d, derr
		case "policy budget":
			s.policy.Budget, err = n, nerr
		case "policy grace":
			s.policy.Grace, err = d, derr
		case "policy window":
			s.policy.Window, err = d, derr
		case "policy backoff":
			s.policy.Backoff.Base, err = d, derr
		case "policy backoff-max":
			s.policy.Backoff.Max, err = d, derr
		case "target grace":
			t.Grace, err = d, derr
		case "target fatal":
			t.Fatal = append(t.Fatal, v)
		case "target needs":
			t.Needs = append(t.Needs, v)
			if !slices.Contains(s.deps, v) {
				s.deps = append(s.deps, v)
			}
		default:
			err = fmt.Errorf("unknown word %q", a)
		}
		if err != nil {
			return err
		}
	}
	switch f[0] {
	case "target":
		s.targets = append(s.targets, t)
	case "policy":
	default:
		return fmt.Errorf("unknown word %q", f[0])
	}
	return nil
}

// world is what the watchdog sees: the supervisor, the probes, the permit.
type world struct {
	mu      sync.Mutex
	procs   map[string]Process
	stopped map[int]Reason
	much    map[int]bool
	says    map[string]string // unit or dependency → ok, error, timeout, stuck
	restart map[string][]string
	permits string
	silent  bool
	asleep  time.Duration
	nextPID int
	end     chan struct{} // lets stuck calls go at the end
}

func (w *world) Processes(ctx context.Context) (map[string]Process, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.silent {
		return nil, errors.New("silent")
	}
	out := map[string]Process{}
	for k, v := range w.procs {
		out[k] = v
	}
	return out, nil
}

func (w *world) Restart(ctx context.Context, unit string, force bool) error {
	w.mu.Lock()
	how := w.restart[unit]
	w.mu.Unlock()
	if leaks := w.isMuch(unit); force == leaks {
		return fmt.Errorf("forced: %v: a hung process would not end, one that leaks works", force)
	}
	switch {
	case len(how) > 0 && how[0] == "fails":
		return errors.New("job failed")
	case len(how) > 1 && how[0] == "takes":
		d, err := time.ParseDuration(how[1])
		if err != nil {
			return err
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.stopped, w.procs[unit].PID) // it is gone
	w.nextPID++
	w.procs[unit] = Process{PID: w.nextPID, Since: time.Now()}
	if len(how) == 0 || how[0] != "still" {
		w.says[unit] = "ok"
	}
	return nil
}

func (w *world) check(name string) health.Check {
	return func(ctx context.Context) error {
		w.mu.Lock()
		says := w.says[name]
		w.mu.Unlock()
		switch says {
		case "timeout":
			<-ctx.Done()
			return ctx.Err()
		case "stuck":
			<-w.end
			return errors.New("much later")
		case "error", "sick":
			return errors.New("broken")
		default:
			return nil
		}
	}
}

func (w *world) isMuch(unit string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.much[w.procs[unit].PID]
}

func (w *world) uses(pid int) Usage {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.much[pid] {
		return Usage{Memory: 5 << 30}
	}
	return Usage{Memory: 1 << 30}
}

func (w *world) permit(ctx context.Context, _ Ask) (func(), error) {
	w.mu.Lock()
	says := w.permits
	w.mu.Unlock()
	switch says {
	case "refuse":
		return nil, errors.New("m2 restarts its own")
	case "stuck":
		<-w.end
	}
	return func() {}, nil
}

func (w *world) isStopped(pid int) Reason {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stopped[pid]
}

func (w *world) apply(dog *Watchdog, e event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	arg := func(i int) string {
		if i < len(e.args) {
			return e.args[i]
		}
		return ""
	}
	switch e.verb + " " + arg(1) {
	case "process none":
		delete(w.procs, arg(0))
	case "process off":
		w.procs[arg(0)] = Process{Off: true}
	case "process ended":
		n := 1
		if arg(2) != "" {
			var err error
			if n, err = strconv.Atoi(arg(2)); err != nil {
				return err
			}
		}
		w.procs[arg(0)] = Process{Again: w.procs[arg(0)].Again + n}
	case "process stopped":
		w.stopped[w.procs[arg(0)].PID] = Stopped
	case "process frozen":
		w.stopped[w.procs[arg(0)].PID] = Frozen
	case "process runs":
		delete(w.stopped, w.procs[arg(0)].PID)
	case "uses too-much", "uses little":
		w.much[w.procs[arg(0)].PID] = arg(1) == "too-much"
	case "notice low", "notice fine":
		w.says[arg(0)] = map[string]string{"low": "error", "fine": "ok"}[arg(1)]
	case "probe ok", "probe error", "probe timeout", "probe stuck", "dependency sick", "dependency well":
		w.says[arg(0)] = arg(1)
	case "restart works", "restart fails", "restart still", "restart takes":
		w.restart[arg(0)] = e.args[1:]
	case "permit ":
		w.permits = arg(0)
	case "supervisor ":
		w.silent = arg(0) == "silent"
	case "asleep ":
		d, err := time.ParseDuration(arg(0))
		w.asleep = d
		return err
	case "pause ", "pause for":
		d := time.Duration(0)
		if arg(2) != "" {
			var err error
			if d, err = time.ParseDuration(arg(2)); err != nil {
				return err
			}
		}
		return dog.Pause(strings.TrimPrefix(arg(0), "-"), d, "me")
	case "resume ":
		return dog.Resume(arg(0), "me")
	default:
		pid, ok := strings.CutPrefix(arg(1), "pid=")
		n, err := strconv.Atoi(pid)
		if e.verb != "process" || !ok || err != nil {
			return fmt.Errorf("unknown event %v", e)
		}
		w.procs[arg(0)] = Process{PID: n, Since: time.Now(), Again: w.procs[arg(0)].Again}
	}
	return nil
}

// mutate changes a watchdog before it runs; nil: not at all.
type mutate func(*Watchdog)

// play runs the scenario in a bubble and returns the decisions.
func (s scenario) play(t *testing.T, change mutate) (got []string) {
	state := filepath.Join(t.TempDir(), "state.json")
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w := &world{
			procs: map[string]Process{}, stopped: map[int]Reason{}, much: map[int]bool{}, says: map[string]string{},
			restart: map[string][]string{}, nextPID: 1000, end: make(chan struct{}),
		}
		record := func(d Decision) {
			if d.Action.Reason != Healthy && d.Action.Reason != NotRunning {
				got = append(got, fmt.Sprintf("t=%ds %s %s", int(d.At.Sub(began).Seconds()), rename(d), detail(d.Action)))
			}
		}
		dog, stop := s.dog(t, w, state, change)
		for _, e := range s.events {
			time.Sleep(e.at - time.Since(began) - time.Millisecond) // just before the round of that second
			synctest.Wait()
			switch e.verb {
			case "end":
			case "reborn":
				for _, d := range stop() {
					record(d)
				}
				dog, stop = s.dog(t, w, state, change)
			default:
				if err := w.apply(dog, e); err != nil {
					t.Fatal(err)
				}
			}
		}
		close(w.end)
		for _, d := range stop() {
			record(d)
		}
	})
	return got
}

func rename(d Decision) string { return string(d.Action.Kind) + " " + d.Unit }

func detail(a Action) string {
	_, rest, _ := strings.Cut(a.String(), " ")
	return rest
}

// dog starts a watchdog; stop ends it and returns its decisions.
func (s scenario) dog(t *testing.T, w *world, state string, change mutate) (dog *Watchdog, stop func() []Decision) {
	t.Helper()
	cfg := Config{Policy: s.policy, Supervisor: w, Permit: w.permit, StateFile: state, Dependencies: map[string]health.Check{}}
	for _, d := range s.deps {
		cfg.Dependencies[d] = w.check(d)
	}
	for _, target := range s.targets {
		target.Probe, target.Limits = w.check(target.Unit), Limits{Memory: 4 << 30}
		cfg.Targets = append(cfg.Targets, target)
	}
	for _, n := range s.notices {
		cfg.Notices = append(cfg.Notices, Notice{Name: n, Reason: DiskLow, Check: w.check(n)})
	}
	dog, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	dog.stopped, dog.usage = w.isStopped, w.uses
	began := time.Now()
	dog.tick = func(ctx context.Context, _ time.Duration) { // every whole second, without jitter
		w.mu.Lock()
		asleep := w.asleep
		w.asleep = 0
		w.mu.Unlock()
		next := time.Since(began).Truncate(time.Second) + time.Second + asleep
		pause(ctx, next-time.Since(began))
	}
	if change != nil {
		change(dog)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = dog.Run(ctx) }()
	return dog, func() []Decision {
		cancel()
		<-done
		status, _ := dog.Status()
		return status.Decisions
	}
}

func scenarios(t *testing.T) map[string]scenario {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("scenarios: %v, %v", files, err)
	}
	all := map[string]scenario{}
	for _, f := range files {
		s, err := parseScenario(f)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(f), ".txt")] = s
	}
	return all
}

func TestScenarios(t *testing.T) {
	for name, s := range scenarios(t) {
		t.Run(name, func(t *testing.T) {
			if got := s.play(t, nil); !slices.Equal(got, s.want) {
				t.Errorf("decided:\n  => %s\nwant:\n  => %s", strings.Join(got, "\n  => "), strings.Join(s.want, "\n  => "))
			}
		})
	}
}
