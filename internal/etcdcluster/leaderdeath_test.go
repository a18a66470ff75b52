package etcdcluster

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/testwait"
)

// Writes that are sent through a follower after the leader was killed wait for
// the next leader. Without the gate they are forwarded to the dead one and lost:
// the test then fails with "etcdserver: request timed out".
func TestNoWriteIsLostWithADeadLeader(t *testing.T) {
	t.Parallel()
	ms := newMasters(t, 3)
	for _, m := range ms { // slow elections: the machine may have other work
		m.cfg.Heartbeat, m.cfg.Election = 300*time.Millisecond, 3*time.Second
	}
	procs := map[*master]*ownProcess{}
	for _, m := range ms {
		procs[m] = startOwnMember(t, m, ms)
	}
	for _, m := range ms {
		m.waitServing()
	}
	for round := range 2 {
		leader := leaderOfProcesses(t, ms)
		clients, seen := map[*master]*clientv3.Client{}, map[*master]int{}
		for _, m := range ms {
			if m != leader {
				clients[m] = m.client()
				seen[m] = strings.Count(procs[m].log(), leaderDeadLine)
				if _, err := clients[m].Put(t.Context(), "warm", "up"); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := procs[leader].cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-procs[leader].done
		for m := range clients {
			testwait.For(t, m.cfg.Name+" to see the leader dead", patience, func() error {
				if n := strings.Count(procs[m].log(), leaderDeadLine); n <= seen[m] {
					return fmt.Errorf("%d times so far", n)
				}
				return nil
			})
		}

		var wg sync.WaitGroup
		for m, cl := range clients {
			// Spread over the time in which Raft does not know yet: the election
			// timeout is three to six seconds.
			for i := range 30 {
				wg.Go(func() {
					<-time.After(time.Duration(i) * 30 * time.Millisecond)
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					if _, err := cl.Put(ctx, fmt.Sprintf("r%d-%s-%d", round, m.cfg.Name, i), "x"); err != nil {
						t.Errorf("round %d: write %d through %s: %v", round, i, m.cfg.Name, err)
					}
				})
			}
		}
		wg.Wait()
		if t.Failed() {
			for m := range clients {
				t.Logf("log of %s:\n%s", m.cfg.Name, procs[m].log())
			}
			return
		}
		procs[leader] = runOwnMember(t, leader)
		leader.waitServing()
	}
}

// leaderOfProcesses is leaderOf for members in processes of their own.
func leaderOfProcesses(t *testing.T, ms []*master) *master {
	t.Helper()
	for _, m := range ms {
		m.ended = make(chan error) // leaderOf leaves out members that never ran
	}
	defer func() {
		for _, m := range ms {
			m.ended = nil
		}
	}()
	return leaderOf(t, ms)
}
