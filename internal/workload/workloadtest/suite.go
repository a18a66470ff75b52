package workloadtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/internal/workload"
)

// Limit is how long one thing may take in the suite before it counts as never.
const Limit = 20 * time.Second

// Factory makes a manager that has these units and has begun to start them all,
// in the order of After, and that ends with the test.
type Factory func(t *testing.T, units []workload.Unit) workload.Manager

// Run checks that the managers made by factory keep the contract.
func Run(t *testing.T, factory Factory) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, f Factory)
	}{
		{"ActiveOnlyWhenReady", activeOnlyWhenReady},
		{"WithoutNotifyActiveAtOnce", withoutNotify},
		{"OrderedStart", orderedStart},
		{"StartThatFails", startThatFails},
		{"StoppedStaysStopped", stoppedStaysStopped},
		{"RestartAfterKill", restartAfterKill},
		{"RestartOnCommand", restartOnCommand},
		{"ForcedRestartOfTheDeaf", forcedRestart},
		{"StopTimeoutKills", stopTimeout},
		{"MissedWatchdogKillsTheTree", missedWatchdog},
		{"FrozenProcessMissesItsWatchdog", frozen},
		{"OnlyTheMainProcessSpeaks", onlyMainSpeaks},
		{"StopEndsTheWholeTree", stopEndsTree},
		{"UnknownUnit", unknownUnit},
		{"ContextEnds", contextEnds},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, factory)
		})
	}
}

func notify(u workload.Unit) workload.Unit { u.Notify = true; return u }

// state returns the state of one unit.
func state(m workload.Manager, unit string) (workload.State, error) {
	states, err := m.Units(context.Background())
	if err != nil {
		return workload.State{}, err
	}
	for _, s := range states {
		if s.Name == unit {
			return s, nil
		}
	}
	return workload.State{}, fmt.Errorf("no unit %s in %+v", unit, states)
}

// await waits until the state of unit is as ok says and returns it.
func await(t *testing.T, m workload.Manager, unit, what string, ok func(workload.State) bool) workload.State {
	t.Helper()
	var s workload.State
	testwait.For(t, unit+" "+what, Limit, func() error {
		var err error
		if s, err = state(m, unit); err != nil {
			return err
		}
		if !ok(s) {
			return fmt.Errorf("state is %+v", s)
		}
		return nil
	})
	return s
}

func active(s workload.State) bool { return s.Active == workload.Active && s.MainPID > 0 }

// activeAgain is active with another main process than before.
func activeAgain(before workload.State) func(workload.State) bool {
	return func(s workload.State) bool { return active(s) && s.MainPID != before.MainPID }
}

func awaitGone(t *testing.T, pids ...int) {
	t.Helper()
	testwait.For(t, "the end of all processes", Limit, func() error {
		for _, pid := range pids {
			if err := syscall.Kill(pid, 0); err == nil {
				return fmt.Errorf("pid %d lives", pid)
			}
		}
		return nil
	})
}

func do(t *testing.T, what string, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Limit)
	defer cancel()
	if err := f(ctx); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func activeOnlyWhenReady(t *testing.T, f Factory) {
	slow := notify(Unit(t, "slow", "-ready", "300ms", "-status", "serving"))
	never := notify(Unit(t, "never"))
	m := f(t, []workload.Unit{slow, never})
	do(t, "start slow", func(ctx context.Context) error { return m.Start(ctx, "slow") })
	s, err := state(m, "slow")
	if err != nil || !active(s) || s.Status != "serving" || s.Restarts != 0 || time.Since(s.Since) > time.Minute {
		t.Errorf("after Start: %+v, %v; want active with its status", s, err)
	}
	if s := await(t, m, "never", "runs", func(s workload.State) bool { return s.MainPID > 0 }); s.Active != workload.Activating {
		t.Errorf("a unit that never said READY=1 is %s, want activating", s.Active)
	}
}

func withoutNotify(t *testing.T, f Factory) {
	u := Unit(t, "plain")
	m := f(t, []workload.Unit{u})
	await(t, m, "plain", "active", active)
}

func orderedStart(t *testing.T, f Factory) {
	first := notify(Unit(t, "first", "-ready", "400ms"))
	second := Unit(t, "second")
	second.After = []string{"first"}
	m := f(t, []workload.Unit{second, first})
	s2 := await(t, m, "second", "active", active)
	s1, err := state(m, "first")
	if err != nil || !active(s1) || s1.Since.After(s2.Since) {
		t.Errorf("second is active since %v, first: %+v, %v; want first before it", s2.Since, s1, err)
	}
}

func startThatFails(t *testing.T, f Factory) {
	u := notify(Unit(t, "bad", "-exit", "7", "-after", "50ms"))
	m := f(t, []workload.Unit{u})
	ctx, cancel := context.WithTimeout(t.Context(), Limit)
	defer cancel()
	err := m.Start(ctx, "bad")
	if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("Start = %v, want an error with the exit status", err)
	}
	await(t, m, "bad", "is tried again", func(s workload.State) bool {
		return s.Restarts >= 3 && s.LastExit == "exit status 7"
	})
}

func stoppedStaysStopped(t *testing.T, f Factory) {
	u := notify(Unit(t, "u", "-ready", "0s"))
	m := f(t, []workload.Unit{u, Unit(t, "other")})
	before := await(t, m, "u", "active", active)
	do(t, "stop", func(ctx context.Context) error { return m.Stop(ctx, "u") })
	s, err := state(m, "u")
	if err != nil || s.Active != workload.Inactive || s.MainPID != 0 || s.LastExit != "exit status 0" {
		t.Errorf("after Stop: %+v, %v; want inactive without a process", s, err)
	}
	awaitGone(t, before.MainPID)
	if err := m.Signal(t.Context(), "u", syscall.SIGHUP); !errors.Is(err, workload.ErrNotRunning) {
		t.Errorf("Signal to a stopped unit = %v, want ErrNotRunning", err)
	}
	do(t, "stop again", func(ctx context.Context) error { return m.Stop(ctx, "u") })
	// The other one is restarted in the meantime, this one must not be.
	other := await(t, m, "other", "active", active)
	do(t, "kill other", func(ctx context.Context) error { return m.Signal(ctx, "other", syscall.SIGKILL) })
	await(t, m, "other", "active again", activeAgain(other))
	if s, err := state(m, "u"); err != nil || s.Active != workload.Inactive {
		t.Errorf("later: %+v, %v; want still inactive", s, err)
	}
	do(t, "start", func(ctx context.Context) error { return m.Start(ctx, "u") })
	if s, err := state(m, "u"); err != nil || !activeAgain(before)(s) {
		t.Errorf("after Start: %+v, %v; want active", s, err)
	}
}

func restartAfterKill(t *testing.T, f Factory) {
	u := notify(Unit(t, "u", "-ready", "0s"))
	m := f(t, []workload.Unit{u})
	before := await(t, m, "u", "active", active)
	do(t, "signal", func(ctx context.Context) error { return m.Signal(ctx, "u", syscall.SIGKILL) })
	s := await(t, m, "u", "active again", activeAgain(before))
	if s.Restarts != 1 || s.LastExit != "signal: killed" {
		t.Errorf("after SIGKILL: %+v, want 1 restart, signal: killed", s)
	}
	awaitGone(t, before.MainPID)
}

func restartOnCommand(t *testing.T, f Factory) {
	u := notify(Unit(t, "u", "-ready", "100ms"))
	m := f(t, []workload.Unit{u})
	before := await(t, m, "u", "active", active)
	do(t, "restart", func(ctx context.Context) error { return m.Restart(ctx, "u", false) })
	s, err := state(m, "u")
	if err != nil || !activeAgain(before)(s) || s.LastExit != "exit status 0" {
		t.Errorf("after Restart: %+v, %v; want active again, and a clean exit before", s, err)
	}
	do(t, "stop", func(ctx context.Context) error { return m.Stop(ctx, "u") })
	do(t, "restart of a stopped unit", func(ctx context.Context) error { return m.Restart(ctx, "u", false) })
	await(t, m, "u", "active", active)
}

func forcedRestart(t *testing.T, f Factory) {
	u := notify(Unit(t, "u", "-ready", "0s", "-ignore-term"))
	u.StopTimeout = time.Second // would show in LastExit
	m := f(t, []workload.Unit{u})
	before := await(t, m, "u", "active", active)
	do(t, "freeze", func(ctx context.Context) error { return m.Signal(ctx, "u", syscall.SIGSTOP) })
	do(t, "restart", func(ctx context.Context) error { return m.Restart(ctx, "u", true) })
	s, err := state(m, "u")
	if err != nil || !activeAgain(before)(s) || s.LastExit != "signal: killed" {
		t.Errorf("after a forced Restart: %+v, %v", s, err)
	}
}

func stopTimeout(t *testing.T, f Factory) {
	u := notify(Unit(t, "u", "-ready", "0s", "-ignore-term"))
	u.StopTimeout = 300 * time.Millisecond
	m := f(t, []workload.Unit{u})
	before := await(t, m, "u", "active", active)
	do(t, "stop", func(ctx context.Context) error { return m.Stop(ctx, "u") })
	s, err := state(m, "u")
	if err != nil || s.MainPID != 0 || !strings.Contains(s.LastExit, "killed") {
		t.Errorf("after Stop: %+v, %v; want killed", s, err)
	}
	awaitGone(t, before.MainPID)
}
