package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/backoff"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/workloadtest"
)

func notifying(u workload.Unit) workload.Unit { u.Notify = true; return u }

func stateOf(t *testing.T, s *Supervisor, name string) workload.State {
	t.Helper()
	state, _, _ := s.unit(name).get()
	return state
}

func awaitActive(t *testing.T, s *Supervisor, names ...string) {
	t.Helper()
	for _, name := range names {
		testwait.For(t, name+" active", workloadtest.Limit, func() error {
			if st := stateOf(t, s, name); st.Active != workload.Active {
				return fmt.Errorf("state %+v", st)
			}
			return nil
		})
	}
}

func alive(pid int) error {
	if syscall.Kill(pid, 0) == nil {
		return fmt.Errorf("pid %d lives", pid)
	}
	return nil
}

func TestStopsInReverseOrder(t *testing.T) {
	store := notifying(workloadtest.Unit(t, "store", "-ready", "0s"))
	api := notifying(workloadtest.Unit(t, "api", "-ready", "0s", "-stop-time", "200ms"))
	api.After = []string{"store"}
	lb := notifying(workloadtest.Unit(t, "lb", "-ready", "0s", "-stop-time", "200ms"))
	lb.After = []string{"api"}
	s, result := running(t, configFor(t, store, api, lb))
	awaitActive(t, s, "store", "api", "lb")
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	var since []time.Time
	for _, name := range []string{"lb", "api", "store"} {
		st := stateOf(t, s, name)
		if st.Active != workload.Inactive || st.LastExit != "exit status 0" {
			t.Errorf("%s: %+v, want inactive after a clean exit", name, st)
		}
		since = append(since, st.Since)
	}
	if !since[0].Before(since[1]) || !since[1].Before(since[2]) {
		t.Errorf("lb, api, store stopped at %v; want one after the other", since)
	}
	if err := s.Start(t.Context(), "lb"); !errors.Is(err, ErrStopping) {
		t.Errorf("Start after the end = %v, want ErrStopping", err)
	}
}

func TestWaitsForOrderOnlySoLong(t *testing.T) {
	never := notifying(workloadtest.Unit(t, "never"))
	second := workloadtest.Unit(t, "second")
	second.After, second.AfterTimeout = []string{"never"}, 200*time.Millisecond
	s, _ := running(t, configFor(t, never, second))
	awaitActive(t, s, "second")
	if st := stateOf(t, s, "never"); st.Active != workload.Activating {
		t.Errorf("never is %s", st.Active)
	}
}

func TestDoesNotWaitForAStoppedUnit(t *testing.T) {
	first := workloadtest.Unit(t, "first")
	second := workloadtest.Unit(t, "second")
	second.After, second.AfterTimeout = []string{"first"}, time.Hour
	s, _ := running(t, configFor(t, first, second))
	awaitActive(t, s, "first", "second")
	for _, name := range []string{"second", "first"} {
		if err := s.Stop(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Start(t.Context(), "second"); err != nil {
		t.Error(err)
	}
}

func TestBackOffGrowsAndProgramMayAppearLater(t *testing.T) {
	u := workload.Unit{Name: "u", Exec: []string{"/nonexistent/program"}}
	cfg := configFor(t, u)
	cfg.Restart = backoff.Backoff{Base: time.Millisecond, Max: 20 * time.Millisecond, Jitter: -1}
	s, _ := running(t, cfg)
	err := s.Start(t.Context(), "u")
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/program") {
		t.Errorf("Start = %v, want the program's name", err)
	}
	testwait.For(t, "many tries", workloadtest.Limit, func() error {
		if st := stateOf(t, s, "u"); st.Restarts < 8 || !strings.Contains(st.LastExit, "no such file") {
			return fmt.Errorf("state %+v", st)
		}
		return nil
	})
	testwait.For(t, "the longest pause told", workloadtest.Limit, func() error {
		if st := stateOf(t, s, "u"); !strings.Contains(st.Status, "starts again in 20ms") {
			return fmt.Errorf("status %q", st.Status)
		}
		return nil
	})
}

func TestStartTimeout(t *testing.T) {
	u := notifying(workloadtest.Unit(t, "u"))
	u.StartTimeout = 100 * time.Millisecond
	s, _ := running(t, configFor(t, u))
	err := s.Start(t.Context(), "u")
	if err == nil || !strings.Contains(err.Error(), "start timeout") || !strings.Contains(err.Error(), u.LogFile) {
		t.Errorf("Start = %v, want a start timeout and where the log is", err)
	}
}

func TestStopDuringStartEndsIt(t *testing.T) {
	s, _ := running(t, configFor(t, notifying(workloadtest.Unit(t, "u"))))
	if err := s.Stop(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- s.Start(context.Background(), "u") }()
	testwait.For(t, "its process", workloadtest.Limit, func() error {
		if stateOf(t, s, "u").MainPID == 0 {
			return errors.New("none")
		}
		return nil
	})
	if err := s.Stop(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err == nil {
		t.Error("Start of a unit that was stopped meanwhile returned nil")
	}
	if st := stateOf(t, s, "u"); st.Active != workload.Inactive {
		t.Errorf("state %+v", st)
	}
}

func TestStopThatNobodyWaitsForGoesOn(t *testing.T) {
	u := notifying(workloadtest.Unit(t, "u", "-ready", "0s", "-stop-time", "300ms"))
	s, _ := running(t, configFor(t, u))
	awaitActive(t, s, "u")
	pid := stateOf(t, s, "u").MainPID
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx, "u"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Stop = %v, want a deadline", err)
	}
	if err := s.Start(t.Context(), "u"); err != nil { // waits for the old one's end first
		t.Fatal(err)
	}
	if st := stateOf(t, s, "u"); st.MainPID == pid || alive(pid) != nil {
		t.Errorf("state %+v, old pid %d: %v", st, pid, alive(pid))
	}
}

func TestRestartGoesOnWithoutItsCaller(t *testing.T) {
	u := notifying(workloadtest.Unit(t, "u", "-ready", "0s", "-stop-time", "300ms"))
	s, _ := running(t, configFor(t, u))
	awaitActive(t, s, "u")
	pid := stateOf(t, s, "u").MainPID
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Restart(ctx, "u", false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Restart = %v, want a deadline", err)
	}
	testwait.For(t, "u active again", workloadtest.Limit, func() error {
		if st := stateOf(t, s, "u"); st.Active != workload.Active || st.MainPID == pid || st.Restarts != 1 {
			return fmt.Errorf("state %+v", st)
		}
		return nil
	})
}

func TestLogsAndRotates(t *testing.T) {
	u := workloadtest.Unit(t, "u", "-say", "hello from the unit")
	cfg := configFor(t, u)
	cfg.MaxLog = 1
	s, _ := running(t, cfg)
	want := func(path string) {
		t.Helper()
		testwait.For(t, "text in "+path, workloadtest.Limit, func() error {
			b, err := os.ReadFile(path)
			if err == nil && !strings.Contains(string(b), "hello from the unit\n") {
				err = fmt.Errorf("it holds %q", b)
			}
			return err
		})
	}
	want(u.LogFile)
	if err := s.Restart(t.Context(), "u", false); err != nil {
		t.Fatal(err)
	}
	want(u.LogFile + ".1")
	want(u.LogFile)
}

func TestSecondSupervisorIsRefused(t *testing.T) {
	cfg := configFor(t)
	running(t, cfg)
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); !errors.Is(err, ErrInUse) {
		t.Errorf("Run = %v, want ErrInUse", err)
	}
	awaitOpen(t, cfg.Socket) // the first one is unharmed
}

func TestStaleSocketsAreReplaced(t *testing.T) {
	cfg := configFor(t, workloadtest.Unit(t, "u"))
	for _, path := range []string{cfg.Socket, cfg.NotifySocket} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, _ := running(t, cfg)
	awaitActive(t, s, "u")
	if info, err := os.Stat(cfg.Socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("control socket: %v, %v; want mode 0600", info.Mode(), err)
	}
}

// supervisorProcess runs a supervisor of the units given as JSON in this process:
// one that tests can kill and stop.
func supervisorProcess(args []string) (code int, ok bool) {
	if len(args) != 4 || args[1] != "supervisor-process" {
		return 0, false
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg := Config{Socket: args[2], NotifySocket: args[2] + ".n"}
	err := json.Unmarshal([]byte(args[3]), &cfg.Units)
	var s *Supervisor
	if err == nil {
		s, err = New(cfg)
	}
	if err == nil {
		err = s.Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}

// runElsewhere starts a supervisor of the units in a process of its own.
func runElsewhere(t *testing.T, units ...workload.Unit) (cmd *exec.Cmd, socket string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(units)
	if err != nil {
		t.Fatal(err)
	}
	socket = shortDir(t) + "/s"
	cmd = exec.Command(exe, "supervisor-process", socket, string(b))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	awaitOpen(t, socket)
	return cmd, socket
}

// A supervisor that was itself stopped must not take the pings that wait in its
// socket for missed ones.
func TestStoppedSupervisorDoesNotBlameItsUnits(t *testing.T) {
	u := notifying(workloadtest.Unit(t, "u", "-ready", "0s", "-ping"))
	u.WatchdogSec = time.Second
	cmd, socket := runElsewhere(t, u)
	c := NewClient(socket)
	if err := c.Start(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	before, err := c.Units(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * u.WatchdogSec)
		if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		<-time.After(u.WatchdogSec / 2)
	}
	after, err := c.Units(t.Context())
	if err != nil || after[0].MainPID != before[0].MainPID || after[0].Restarts != 0 {
		t.Errorf("before %+v, after %+v, %v; want the same process", before, after, err)
	}
}

func TestKilledSupervisorTakesAllDown(t *testing.T) {
	cmd, socket := runElsewhere(t, workloadtest.Unit(t, "u", "-ignore-term"))
	var pid int
	testwait.For(t, "the unit's process", workloadtest.Limit, func() error {
		ps, err := NewClient(socket).Processes(t.Context())
		if err != nil || len(ps) != 1 {
			return fmt.Errorf("%+v, %w", ps, err)
		}
		pid = ps[0].PID
		return nil
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, "the end of its unit", workloadtest.Limit, func() error { return alive(pid) })
	if _, err := NewClient(socket).Units(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("Units = %v, want ErrUnreachable", err)
	}
	// Its successor starts over what it left.
	s, err := New(Config{Socket: socket, NotifySocket: socket + ".n"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- s.Run(ctx) }()
	awaitOpen(t, socket)
	cancel()
	if err := <-result; err != nil {
		t.Errorf("Run = %v", err)
	}
}
