package workloadtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/internal/workload"
)

// children waits for a child of pid and returns all children's pids.
func children(t *testing.T, pid int) []int {
	t.Helper()
	var pids []int
	testwait.For(t, fmt.Sprintf("a child of %d", pid), Limit, func() error {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		if err != nil {
			return err
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			for _, f := range strings.Fields(string(b)) {
				if n, err := strconv.Atoi(f); err == nil {
					pids = append(pids, n)
				}
			}
		}
		if len(pids) == 0 {
			return errors.New("none")
		}
		return nil
	})
	return pids
}

// watchdog is long enough for a loaded machine's test process to ping in time.
const watchdog = 1500 * time.Millisecond

func missedWatchdog(t *testing.T, f Factory) {
	u := notify(Unit(t, "u", "-ready", "0s", "-ping", "-child", "-ignore-term"))
	u.WatchdogSec, u.StopTimeout = watchdog, time.Second
	m := f(t, []workload.Unit{u})
	before := await(t, m, "u", "active", active)
	pids := append(children(t, before.MainPID), before.MainPID)
	// It stops pinging; its child does not.
	if err := syscall.Kill(before.MainPID, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	s := await(t, m, "u", "active again", activeAgain(before))
	if s.LastExit != "watchdog" || s.Restarts != 1 {
		t.Errorf("after a missed watchdog: %+v; want that as the reason, and 1 restart", s)
	}
	awaitGone(t, pids...)
}

func frozen(t *testing.T, f Factory) {
	u := notify(Unit(t, "u", "-ready", "0s", "-ping"))
	u.WatchdogSec = watchdog
	m := f(t, []workload.Unit{u})
	before := await(t, m, "u", "active", active)
	do(t, "freeze", func(ctx context.Context) error { return m.Signal(ctx, "u", syscall.SIGSTOP) })
	s := await(t, m, "u", "active again", activeAgain(before))
	if s.LastExit != "watchdog" {
		t.Errorf("after SIGSTOP: %+v; want watchdog as the reason", s)
	}
	if time.Since(before.Since) < watchdog {
		t.Errorf("killed %v after it became active, before the watchdog's %v", time.Since(before.Since), watchdog)
	}
	// One that pings outlives its watchdog: twice its time, and still the same.
	settled := time.Now()
	await(t, m, "u", "lives on", func(s workload.State) bool { return time.Since(settled) > 2*watchdog })
	if later, err := state(m, "u"); err != nil || later.MainPID != s.MainPID {
		t.Errorf("while it pinged: %+v, %v; want pid %d still", later, err, s.MainPID)
	}
}

func onlyMainSpeaks(t *testing.T, f Factory) {
	u := notify(Unit(t, "u", "-child"))
	m := f(t, []workload.Unit{u})
	s := await(t, m, "u", "runs", func(s workload.State) bool { return s.MainPID > 0 })
	children(t, s.MainPID)
	// A second unit that becomes active after the child had time to speak.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := m.Start(ctx, "u"); !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		t.Errorf("Start = %v, want a deadline: only the child said READY=1", err)
	}
	if s, err := state(m, "u"); err != nil || s.Active != workload.Activating {
		t.Errorf("its child said READY=1, and the unit is %+v, %v; want activating", s, err)
	}
}

func stopEndsTree(t *testing.T, f Factory) {
	u := notify(Unit(t, "u", "-ready", "0s", "-child"))
	m := f(t, []workload.Unit{u})
	s := await(t, m, "u", "active", active)
	pids := append(children(t, s.MainPID), s.MainPID)
	do(t, "stop", func(ctx context.Context) error { return m.Stop(ctx, "u") })
	awaitGone(t, pids...)
}

func unknownUnit(t *testing.T, f Factory) {
	m := f(t, []workload.Unit{Unit(t, "u")})
	ctx := t.Context()
	for what, err := range map[string]error{
		"Start":   m.Start(ctx, "nobody"),
		"Stop":    m.Stop(ctx, "nobody"),
		"Restart": m.Restart(ctx, "nobody", true),
		"Signal":  m.Signal(ctx, "nobody", syscall.SIGHUP),
	} {
		if !errors.Is(err, workload.ErrNoUnit) || !strings.Contains(err.Error(), "nobody") {
			t.Errorf("%s = %v, want ErrNoUnit with the name", what, err)
		}
	}
}

func contextEnds(t *testing.T, f Factory) {
	u := notify(Unit(t, "u"))
	m := f(t, []workload.Unit{u})
	await(t, m, "u", "runs", func(s workload.State) bool { return s.MainPID > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := m.Start(ctx, "u"); err == nil {
		t.Error("Start of a unit that never gets ready returned nil, want an error when the context ended")
	}
	if s, err := state(m, "u"); err != nil || s.Active != workload.Activating {
		t.Errorf("then: %+v, %v; want still activating", s, err)
	}
}
