package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
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

// Never two masters restart an API server or a member at the same time.
func TestPermitIsOneInTheCluster(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{})
	shared := map[string]bool{"kube-apiserver": true}
	m1 := &permits{client: etcd.Client(), shared: shared, turns: watchdog.Turns{Masters: 2}}
	m2 := &permits{client: etcd.Client(), shared: shared, turns: watchdog.Turns{Masters: 2, Index: 1}}
	release, err := m1.Permit(t.Context(), "kube-apiserver")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m2.Permit(t.Context(), "kube-apiserver"); err == nil {
		t.Error("a second master was permitted, too")
	}
	if free, err := m2.Permit(t.Context(), "hactl-lb"); err != nil {
		t.Errorf("what is not shared needs no permit: %v", err)
	} else {
		free()
	}
	release()
	again, err := m2.Permit(t.Context(), "kube-apiserver")
	if err != nil {
		t.Fatalf("after the first is done: %v", err)
	}
	again()
}

// Without etcd the clock decides: of two masters at most one is permitted.
func TestPermitWithoutEtcd(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{})
	client := etcd.Client()
	etcd.Members[0].Stop()
	shared := map[string]bool{"kube-apiserver": true}
	permitted := 0
	for i := range 2 {
		p := &permits{client: client, shared: shared, turns: watchdog.Turns{Masters: 2, Index: i, Slot: time.Hour}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if release, err := p.Permit(ctx, "kube-apiserver"); err == nil {
			permitted++
			release()
		}
		cancel()
	}
	if permitted > 1 {
		t.Error("both masters were permitted")
	}
}
