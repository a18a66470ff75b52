package singleton

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/leasetest"
	"github.com/hactl/hactl/internal/process"
	"github.com/hactl/hactl/internal/testwait"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == GuardArg {
		err := GuardMain(func(_ context.Context, raw json.RawMessage) {
			var file string
			if json.Unmarshal(raw, &file) == nil {
				_ = os.WriteFile(file, []byte("orphaned"), 0o600)
			}
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 2 && os.Args[1] == GateArg {
		if err := GateMain(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := process.BecomeSubreaper(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	etcdtest.VerifyTestMain(m)
}

// stage is one elector with a child, on a lock in memory.
type stage struct {
	t      *testing.T
	mem    leasetest.Memory
	e      *lease.Elector
	child  *Child
	out    string
	cancel context.CancelFunc
	res    chan error
	mu     sync.Mutex
	ends   []string
}

func newStage(t *testing.T, script string, edit func(*ChildConfig)) *stage {
	t.Helper()
	s := &stage{t: t, out: filepath.Join(t.TempDir(), "out"), res: make(chan error, 1)}
	var err error
	s.e, err = lease.New(lease.Config{Lock: &s.mem, Holder: "m1", Once: true})
	if err != nil {
		t.Fatal(err)
	}
	cfg := ChildConfig{
		Command: []string{"sh", "-c", script}, Env: []string{"OUT=" + s.out}, Key: "k", Holder: "m1",
		Guard: []string{os.Args[0], GuardArg}, StopGrace: 10 * time.Second,
		Events: Events{Ended: func(how string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ends = append(s.ends, how)
		}},
	}
	if edit != nil {
		edit(&cfg)
	}
	if s.child, err = NewChild(cfg); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stage) run() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.res <- s.e.Run(ctx, s.child.Lead)
	}()
	s.t.Cleanup(func() { cancel(); <-done })
}

// lines waits for n lines of the script's output.
func (s *stage) lines(n int) []string {
	s.t.Helper()
	var got []string
	testwait.For(s.t, fmt.Sprintf("%d lines of output", n), 20*time.Second, func() error {
		data, _ := os.ReadFile(s.out)
		got = strings.Fields(string(data))
		if len(got) < n {
			return fmt.Errorf("have %q, ends %q", got, s.ended())
		}
		return nil
	})
	return got
}

// pid waits until podmaster knows of the start, and returns the first line of
// output, a pid: the command may be quicker than its guard's report.
func (s *stage) pid() int {
	s.t.Helper()
	pid := atoi(s.t, s.lines(1)[0])
	testwait.For(s.t, "the start to be known", 20*time.Second, func() error {
		if s.child.PID() == 0 {
			return errors.New("no pid")
		}
		return nil
	})
	return pid
}

func (s *stage) ended() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.ends...)
}

func dead(t *testing.T, pid int) {
	t.Helper()
	testwait.For(t, fmt.Sprintf("pid %d to be dead", pid), 10*time.Second, func() error {
		data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err == nil && !strings.Contains(string(data), ") Z ") {
			return errors.New(string(data))
		}
		return nil
	})
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const forever = `while :; do sleep 0.02; done`

func TestChildsEnvironment(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/nowhere")
	s := newStage(t, `echo "$PODMASTER_TOKEN/$PODMASTER_KEY/$PODMASTER_HOLDER/$NOTIFY_SOCKET/" >>$OUT; `+forever, nil)
	s.run()
	if got := s.lines(1)[0]; got != "1/k/m1//" {
		t.Errorf("environment %q", got)
	}
}

func TestPoliteStopConfirmsAndReleases(t *testing.T) {
	s := newStage(t, `trap 'echo bye >>$OUT; exit 0' TERM; echo $$ >>$OUT; `+forever, nil)
	s.run()
	pid := s.pid()
	s.cancel()
	if err := <-s.res; err != nil {
		t.Errorf("run: %v", err)
	}
	if got := s.lines(2)[1]; got != "bye" {
		t.Errorf("the command was not asked: %q", got)
	}
	dead(t, pid)
	if rec, _ := s.mem.Read(t.Context()); !rec.Ended {
		t.Error("not released")
	}
}

func TestStubbornChildIsKilledAfterTheGrace(t *testing.T) {
	s := newStage(t, `trap '' TERM; echo $$ >>$OUT; `+forever, func(c *ChildConfig) { c.StopGrace = 50 * time.Millisecond })
	s.run()
	pid := s.pid()
	s.cancel()
	if err := <-s.res; err != nil {
		t.Errorf("run: %v", err)
	}
	dead(t, pid)
	if ends := s.ended(); len(ends) != 1 || ends[0] != "stopped, killed" {
		t.Errorf("ends %q", ends)
	}
}

func TestRestartInPlaceKeepsTheTerm(t *testing.T) {
	s := newStage(t, `echo $PODMASTER_TOKEN >>$OUT; [ $(wc -l <$OUT) -ge 3 ] && `+forever+`; exit 3`, nil)
	s.run()
	got := s.lines(3)
	if got[0] != "1" || got[1] != "1" || got[2] != "1" {
		t.Errorf("tokens %q", got)
	}
	if ends := s.ended(); len(ends) != 2 || ends[0] != "exit status 3" {
		t.Errorf("ends %q", ends)
	}
}

func TestCrashBudgetHandsOver(t *testing.T) {
	s := newStage(t, `echo $PODMASTER_TOKEN >>$OUT; exit 1`, func(c *ChildConfig) { c.CrashBudget = 2 })
	s.run()
	s.lines(3)
	testwait.For(t, "the hand-over", 10*time.Second, func() error {
		rec, _ := s.mem.Read(context.Background())
		if !rec.Ended || !strings.Contains(rec.Reason, "3 ends within") {
			return fmt.Errorf("%+v", rec)
		}
		return nil
	})
}

func TestOneShot(t *testing.T) {
	for code, want := range map[string]bool{"0": true, "7": false} {
		s := newStage(t, `echo x >>$OUT; exit `+code, func(c *ChildConfig) { c.OneShot = true })
		s.run()
		err := <-s.res
		var exit *ExitError
		if want != (err == nil) || (!want && (!errors.As(err, &exit) || exit.Exit.ShellCode() != 7)) {
			t.Errorf("exit %s: %v", code, err)
		}
		if rec, _ := s.mem.Read(t.Context()); !rec.Ended {
			t.Errorf("exit %s: not released", code)
		}
	}
}

func TestLostRecordKillsTheChild(t *testing.T) {
	s := newStage(t, `trap '' TERM; echo $$ >>$OUT; `+forever, nil)
	s.run()
	pid := s.pid()
	s.mem.Delete()
	if err := <-s.res; !errors.Is(err, lease.ErrLost) {
		t.Errorf("run: %v", err)
	}
	dead(t, pid)
}

func TestDaemonDiesWithTheTerm(t *testing.T) {
	s := newStage(t, `setsid sh -c 'echo $$ >>$OUT; exec sleep 1000' </dev/null >/dev/null 2>&1 & `+forever, nil)
	s.run()
	pid := s.pid()
	s.cancel()
	<-s.res
	dead(t, pid)
}

func TestKilledGuardTakesTheChildAlong(t *testing.T) {
	s := newStage(t, `setsid sh -c 'echo $$ >>$OUT; exec sleep 1000' </dev/null >/dev/null 2>&1 & echo $PPID >>$OUT; `+forever, nil)
	s.run()
	first := s.lines(2)
	var guard, daemon int
	for _, line := range first {
		pid := atoi(t, line)
		if cmd, _ := os.ReadFile("/proc/" + line + "/cmdline"); strings.Contains(string(cmd), GuardArg) {
			guard = pid
		} else {
			daemon = pid
		}
	}
	if err := syscall.Kill(guard, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	dead(t, daemon)
	s.lines(4) // and it is restarted in place
}

func TestStoppedGuardIsNoObstacle(t *testing.T) {
	s := newStage(t, `echo $PPID >>$OUT; echo $$ >>$OUT; `+forever, func(c *ChildConfig) { c.StopGrace = 100 * time.Millisecond })
	s.run()
	got := s.lines(2)
	s.pid()
	if err := syscall.Kill(atoi(t, got[0]), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.cancel()
	<-s.res
	dead(t, atoi(t, got[1]))
	if rec, _ := s.mem.Read(t.Context()); !rec.Ended {
		t.Error("not released")
	}
}

func TestUnhealthyIsRestarted(t *testing.T) {
	var sick atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if sick.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer srv.Close()
	h, err := NewHealth(HealthConfig{URL: srv.URL, Every: 10 * time.Millisecond, Fails: 2})
	if err != nil {
		t.Fatal(err)
	}
	var probed atomic.Int32
	s := newStage(t, `echo $$ >>$OUT; `+forever, func(c *ChildConfig) {
		c.Health = h
		c.Events.Health = func(err error) {
			if err == nil {
				probed.Add(1)
			}
		}
	})
	s.run()
	s.lines(1)
	testwait.For(t, "a good probe", 10*time.Second, func() error {
		if probed.Load() == 0 {
			return errors.New("none")
		}
		return nil
	})
	sick.Store(true)
	testwait.For(t, "the end of the sick one", 10*time.Second, func() error {
		data, _ := os.ReadFile(s.out)
		if n := len(strings.Fields(string(data))); n < 2 {
			return fmt.Errorf("%d starts", n)
		}
		return nil
	})
	sick.Store(false)
}

func TestOrphanedGuardKillsAndTells(t *testing.T) {
	// A guard whose podmaster closed the pipe: it died.
	file := filepath.Join(t.TempDir(), "will")
	will, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	start := &guardStart{Path: "sleep", Args: []string{"1000"}, Env: os.Environ()}
	g, err := startGuarded(t.Context(), []string{os.Args[0], GuardArg}, guardOrder{Start: start, Orphan: will}, lease.Boottime{}.Now()+time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	g.close()
	g.guard.Wait()
	dead(t, g.pid)
	if got, err := os.ReadFile(file); err != nil || string(got) != "orphaned" {
		t.Errorf("the will: %q, %v", got, err)
	}
}

func TestGuardKeepsTheDeadline(t *testing.T) {
	first := guardOrder{Start: &guardStart{Path: "sleep", Args: []string{"1000"}, Env: os.Environ()}}
	clock := lease.Boottime{}
	var (
		g        *guarded
		deadline time.Duration
		err      = errors.New("ended before")
	)
	// On a busy machine the guard itself may take longer to start.
	for d := 300 * time.Millisecond; err != nil && strings.Contains(err.Error(), "ended before") && d < time.Minute; d *= 2 {
		deadline = clock.Now() + d
		g, err = startGuarded(t.Context(), []string{os.Args[0], GuardArg}, first, deadline, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	r, ok := <-g.ended
	if !ok || !r.Expired || r.Signal != syscall.SIGKILL {
		t.Errorf("report %+v, %v", r, ok)
	}
	if clock.Now() < deadline {
		t.Error("killed before the deadline")
	}
	if err := g.finish(time.Second); err != nil {
		t.Error(err)
	}
	// And it starts nothing after it.
	if _, err := startGuarded(t.Context(), []string{os.Args[0], GuardArg}, first, 1, nil); err == nil || !strings.Contains(err.Error(), "ended before") {
		t.Errorf("a start after the deadline: %v", err)
	}
}

// A guard that is stopped, whose podmaster does nothing either, dies by the
// kernel's hand soon after its deadline, and the command with it.
func TestStoppedGuardDiesAtTheDeadline(t *testing.T) {
	const slack = 100 * time.Millisecond
	file := filepath.Join(t.TempDir(), "pid")
	script := "sleep 1000 & echo $! >" + file + "; wait" // the work is no child of the guard's
	first := guardOrder{Start: &guardStart{Path: "sh", Args: []string{"-c", script}, Env: os.Environ(), Slack: slack}}
	deadline := lease.Boottime{}.Now() + 5*time.Second
	g, err := startGuarded(t.Context(), []string{os.Args[0], GuardArg}, first, deadline, nil)
	if err != nil {
		t.Fatal(err)
	}
	var work int
	testwait.For(t, "the script's own child", 4*time.Second, func() error {
		data, err := os.ReadFile(file)
		if err != nil || !strings.HasSuffix(string(data), "\n") {
			return errors.New("not yet")
		}
		work = atoi(t, strings.TrimSpace(string(data)))
		return nil
	})
	if err := g.guard.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	select {
	case <-g.guard.Done():
	case <-time.After(30 * time.Second):
		t.Error("the stopped guard lives on")
		_ = g.guard.Kill()
	}
	end := g.guard.Wait()
	if now := (lease.Boottime{}).Now(); end.Signal != syscall.SIGKILL || now < deadline+slack {
		t.Errorf("ended by %v, %v after the deadline", end, now-deadline)
	}
	dead(t, g.pid)
	dead(t, work)
	if _, ok := <-g.ended; ok {
		t.Error("a report of a stopped guard")
	}
	if err := g.kill(); err != nil {
		t.Error(err)
	}
}

func TestNewChildRefuses(t *testing.T) {
	for name, cmd := range map[string][]string{"nothing": nil, "empty": {""}, "not found": {"no-such-program-here"}} {
		if _, err := NewChild(ChildConfig{Command: cmd}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestBudget(t *testing.T) {
	b := budget{limit: 2, window: time.Minute}
	for i, want := range []bool{false, false, true} {
		if got := b.spend(time.Duration(i) * time.Second); got != want {
			t.Errorf("failure %d: %v", i, got)
		}
	}
	if b.spend(2*time.Minute) || b.used() != 1 {
		t.Error("old failures still count")
	}
}

func TestHealthRefuses(t *testing.T) {
	for name, cfg := range map[string]HealthConfig{
		"no scheme":         {URL: "127.0.0.1:10259/healthz"},
		"ftp":               {URL: "ftp://127.0.0.1/"},
		"insecure, far off": {URL: "https://10.0.0.1/healthz", Insecure: true},
		"no CA":             {URL: "https://localhost/", CAFile: "/nowhere"},
		"negative":          {URL: "http://localhost/", Every: -1},
	} {
		if _, err := NewHealth(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, cfg := range []HealthConfig{{URL: "https://127.0.1.1:10259/healthz", Insecure: true}, {URL: "https://localhost/", Insecure: true}, {URL: "http://10.0.0.1/x"}} {
		if _, err := NewHealth(cfg); err != nil {
			t.Errorf("%s: %v", cfg.URL, err)
		}
	}
}

func TestProbe(t *testing.T) {
	hang := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/bad":
			http.Error(w, "broken", http.StatusServiceUnavailable)
		case "/away":
			http.Redirect(w, r, "/good", http.StatusFound)
		case "/hang":
			<-hang
		}
	}))
	defer srv.Close()
	defer close(hang)
	for path, want := range map[string]string{"/good": "", "/bad": "broken", "/away": "302", "/hang": "deadline"} {
		h, err := NewHealth(HealthConfig{URL: srv.URL + path, Timeout: 200 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		err = h.Probe(t.Context())
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
