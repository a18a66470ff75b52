package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/watchdog"
)

func TestHeldIsOnlyWhatTheWatchdogWantsAndMayNot(t *testing.T) {
	for reason, want := range map[watchdog.Reason]bool{
		watchdog.BudgetUsed: true, watchdog.Refused: true, watchdog.Paused: true,
		watchdog.Dependency: false, watchdog.BackingOff: false, watchdog.Busy: false, watchdog.Blind: false,
	} {
		if got := held(watchdog.Action{Kind: watchdog.Hold, Reason: reason}); got != want {
			t.Errorf("held(%s) = %v, want %v", reason, got, want)
		}
	}
	if held(watchdog.Action{Kind: watchdog.Restart, Reason: watchdog.NoAnswer}) {
		t.Error("a restart is not held")
	}
}

func TestWatchdogTurns(t *testing.T) {
	a := &Agent{cfg: Config{Cluster: config.Default()}}
	if err := a.watchdogTurns(t.Context()); err != nil {
		t.Errorf("before the first round: %v", err)
	}
	long := time.Now().Add(-time.Minute)
	a.asked.Store(&long)
	if err := a.watchdogTurns(t.Context()); !errors.Is(err, errNotTurning) {
		t.Errorf("no round for a minute: %v, want errNotTurning", err)
	}
	now := time.Now()
	a.asked.Store(&now)
	if err := a.watchdogTurns(t.Context()); err != nil {
		t.Errorf("a round just now: %v", err)
	}
}
