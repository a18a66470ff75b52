package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/internal/watchdog"
)

var hungAPIServer = watchdog.Ask{Unit: "kube-apiserver", Reason: watchdog.NoAnswer}

// permitsOf are the permits of one of masters.
func permitsOf(client *clientv3.Client, masters, index, budget int, file string) *permits {
	return &permits{
		client: client, self: fmt.Sprintf("m%d", index+1), shared: sharedUnits(),
		turns:  watchdog.Turns{Masters: masters, Index: index},
		window: 10 * time.Minute, budget: budget, alone: aloneBudget{file: file},
	}
}

// Never two masters restart an API server or a member at the same time.
func TestPermitIsOneInTheCluster(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{})
	m1, m2 := permitsOf(etcd.Client(), 2, 0, 10, ""), permitsOf(etcd.Client(), 2, 1, 10, "")
	release, err := m1.Permit(t.Context(), hungAPIServer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m2.Permit(t.Context(), watchdog.Ask{Unit: "hactl-etcd"}); err == nil {
		t.Error("a second master was permitted, too")
	}
	if _, err := m2.Permit(t.Context(), watchdog.Ask{Unit: "hactl-lb", Reason: watchdog.Leak, Gentle: true}); err == nil {
		t.Error("a restart for a leak was permitted meanwhile")
	}
	if free, err := m2.Permit(t.Context(), watchdog.Ask{Unit: "hactl-lb"}); err != nil {
		t.Errorf("what is not shared needs no permit: %v", err)
	} else {
		free()
	}
	release()
	again, err := m2.Permit(t.Context(), hungAPIServer)
	if err != nil {
		t.Fatalf("after the first is done: %v", err)
	}
	again()
}

// All masters together restart no more than the budget, whoever asks, also when
// an agent that was restarted has forgotten everything; and it comes back.
func TestBudgetIsTheClusters(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{})
	client := etcd.Client()
	const budget = 3
	permitted := 0
	for i := range 8 {
		p := permitsOf(client, 3, i%3, budget, "") // a new one each time
		release, err := p.Permit(t.Context(), hungAPIServer)
		switch {
		case err == nil:
			permitted++
			release()
		case !errors.Is(err, errBudget) || !strings.Contains(err.Error(), "3 restarts by all masters within 10m"):
			t.Errorf("refused with %v", err)
		}
	}
	if permitted != budget {
		t.Errorf("%d restarts were permitted, want %d", permitted, budget)
	}
	log, err := client.Get(t.Context(), restartLog, clientv3.WithPrefix())
	if err != nil || len(log.Kvs) != budget {
		t.Fatalf("%d restarts are written down, %v", len(log.Kvs), err)
	}
	for _, kv := range log.Kvs {
		ttl, err := client.TimeToLive(t.Context(), clientv3.LeaseID(kv.Lease))
		if err != nil || ttl.GrantedTTL != 600 {
			t.Errorf("%s: kept for %d s, %v; want as long as the window, 600 s", kv.Key, ttl.GrantedTTL, err)
		}
	}
	if _, err := client.Revoke(t.Context(), clientv3.LeaseID(log.Kvs[0].Lease)); err != nil { // its time is over
		t.Fatal(err)
	}
	release, err := permitsOf(client, 3, 0, budget, "").Permit(t.Context(), hungAPIServer)
	if err != nil {
		t.Fatalf("when the oldest is over: %v", err)
	}
	release()
}

// Without etcd the clock decides: of two masters at most one is permitted, and
// nothing that can wait.
func TestTurnsWithoutEtcd(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{})
	client := etcd.Client()
	etcd.Members[0].Stop()
	permitted := 0
	for i := range 2 {
		p := permitsOf(client, 2, i, 10, "")
		p.turns.Slot = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if release, err := p.Permit(ctx, hungAPIServer); err == nil {
			permitted++
			release()
		}
		if _, err := p.Permit(ctx, watchdog.Ask{Unit: "hactl-lb", Reason: watchdog.Leak, Gentle: true}); err == nil {
			t.Error("a leak was permitted without etcd: it can wait")
		}
		cancel()
	}
	if permitted > 1 {
		t.Error("both masters were permitted")
	}
}

// While etcd is away each master has its share of the budget, which its own
// restart does not give back, and which etcd learns of later.
func TestBudgetWithoutEtcd(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{})
	client := etcd.Client()
	file := filepath.Join(t.TempDir(), "alone.json")
	etcd.Members[0].Stop()
	permitted := 0
	for range 5 {
		p := permitsOf(client, 1, 0, 2, file)
		p.turns.Masters = 1 // it is always its turn
		release, err := p.Permit(t.Context(), hungAPIServer)
		switch {
		case err == nil:
			permitted++
			release()
		case !errors.Is(err, errBudget):
			t.Errorf("refused with %v", err)
		}
	}
	if permitted != 2 {
		t.Errorf("%d restarts, want 2", permitted)
	}
	etcd.Members[0].Restart()
	testwait.For(t, "etcd", time.Minute, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := client.Get(ctx, "x")
		return err
	})
	// Another master is told no, since the first one's are written down by then.
	if _, err := permitsOf(client, 1, 0, 2, file).Permit(t.Context(), hungAPIServer); !errors.Is(err, errBudget) {
		t.Errorf("after etcd came back: %v, want the budget spent", err)
	}
	if _, err := permitsOf(client, 1, 0, 2, "").Permit(t.Context(), hungAPIServer); !errors.Is(err, errBudget) {
		t.Errorf("another master: %v, want the budget spent", err)
	}
	log, err := client.Get(t.Context(), restartLog, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || log.Count != 2 {
		t.Errorf("%d restarts are written down, %v; want each once", log.Count, err)
	}
}

func TestShareWithoutEtcd(t *testing.T) {
	var b aloneBudget
	now := time.Unix(1_800_000_000, 0)
	for i := range 3 {
		if err := b.spend(now.Add(time.Duration(i)*time.Second), time.Minute, 3); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.spend(now.Add(59*time.Second), time.Minute, 3); !errors.Is(err, errBudget) {
		t.Errorf("the fourth: %v", err)
	}
	if err := b.spend(now.Add(60*time.Second), time.Minute, 3); err != nil {
		t.Errorf("when the first is over: %v", err)
	}
	if err := b.spend(now.Add(-time.Hour), time.Minute, 3); err != nil {
		t.Errorf("after the clock was set back: %v", err)
	}
}

// A member that the others need is not restarted while there is a quorum; and
// where there is none with it either, there is nothing to lose.
func TestQuorumIsNotSpent(t *testing.T) {
	etcd := etcdtest.Start(t, 3, etcdtest.Options{})
	a := &Agent{etcd: &etcdAccess{cluster: etcd.Client()}}
	for _, m := range etcd.Members {
		a.etcd.members = append(a.etcd.members, etcd.Client(m))
	}
	a.cfg.Cluster = testCluster()
	a.self = a.cfg.Cluster.Masters[0]
	ask := watchdog.Ask{Unit: "hactl-etcd", Reason: watchdog.NoAnswer}
	if err := a.spared(t.Context(), ask); err != nil {
		t.Errorf("with two others at work: %v", err)
	}
	etcd.Members[2].Stop()
	testwait.For(t, "a refusal while m3 is away", time.Minute, func() error {
		err := a.spared(t.Context(), ask)
		if !errors.Is(err, errNeeded) {
			return fmt.Errorf("spared = %w", err)
		}
		return nil
	})
	etcd.Members[1].Stop()
	testwait.For(t, "nothing left to lose", time.Minute, func() error { return a.spared(t.Context(), ask) })
	gentle := watchdog.Ask{Unit: "hactl-etcd", Reason: watchdog.Leak, Gentle: true}
	if err := a.spared(t.Context(), gentle); !errors.Is(err, errNeeded) {
		t.Errorf("a leak without quorum: %v, want that it is needed", err)
	}
}
