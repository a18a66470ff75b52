package singleton

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/testwait"
)

func dialEtcd(t *testing.T, cluster *etcdtest.Cluster) *etcdlock.Client {
	t.Helper()
	c, err := etcdlock.Dial(etcdlock.Config{Endpoints: cluster.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// idle is Work that is nothing.
type idle struct{}

func (idle) Lead(ctx context.Context, _ *lease.Term) error { <-ctx.Done(); return nil }

// contest is two singletons, both held by one master, and the others that wait for both.
type contest struct {
	t        *testing.T
	locks    [2]*etcdlock.Lock
	held     [2]lease.Held
	electors map[string][2]*lease.Elector // by candidate
}

// newContest lets the electors run when all candidates are listed. The holder's
// terms last for ttl and nobody renews them: when it is short, it is dead.
func newContest(t *testing.T, client *etcdlock.Client, id, holder string, others []string, ttl time.Duration) *contest {
	t.Helper()
	c := &contest{t: t, electors: map[string][2]*lease.Elector{}}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { stop(); wg.Wait() })
	for k := range c.locks {
		lock, err := client.Lock(fmt.Sprintf("%s-%d", id, k))
		if err != nil {
			t.Fatal(err)
		}
		c.locks[k] = lock
		for _, name := range append(others, holder) {
			p, err := lock.Enlist(t.Context(), etcdlock.Candidate{Name: name, ID: name}, nil)
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				_ = p.Run(ctx)
				_ = p.Withdraw(context.Background())
			})
		}
		for _, name := range others {
			spread := NewSpread(client, lock, name)
			spread.step = time.Minute // who is not chosen takes nothing, however slow the machine is
			e, err := lease.New(lease.Config{Lock: lock, Holder: name, Delay: spread.Delay})
			if err != nil {
				t.Fatal(err)
			}
			es := c.electors[name]
			es[k] = e
			c.electors[name] = es
		}
	}
	for k, lock := range c.locks {
		seen, err := lock.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if c.held[k], err = lock.Take(t.Context(), seen, lease.Claim{ID: id, Holder: holder, TTL: ttl}); err != nil {
			t.Fatal(err)
		}
	}
	for _, es := range c.electors {
		for _, e := range es {
			wg.Go(func() { _ = e.Run(ctx, idle{}.Lead) })
		}
	}
	return c
}

// waited waits until every candidate has seen both terms.
func (c *contest) waited() {
	c.t.Helper()
	testwait.For(c.t, "all to have seen the holder", time.Minute, func() error {
		for name, es := range c.electors {
			for k, e := range es {
				if s, _ := e.Status(); s.Record.Token != c.held[k].Token() {
					return fmt.Errorf("%s has not", name)
				}
			}
		}
		return nil
	})
}

func (c *contest) release(k int) {
	if err := c.held[k].Release(c.t.Context(), lease.Release{Reason: "stopped"}); err != nil {
		c.t.Error(err)
	}
}

// winner waits until singleton k is held by one of the candidates.
func (c *contest) winner(k int) (who string) {
	c.t.Helper()
	testwait.For(c.t, "a new holder", 5*time.Minute, func() error {
		for name, es := range c.electors {
			if s, _ := es[k].Status(); s.Role == lease.Holding {
				who = name
				return nil
			}
		}
		return errors.New("nobody holds it")
	})
	return who
}

// When one master held two singletons, and two others wait for both, each gets one,
// whether the holder let them go or died, and at once or one after the other.
func TestTwoOfOneHolderGoToTwo(t *testing.T) {
	client := dialEtcd(t, etcdtest.Start(t, 1, etcdtest.Options{}))
	for how, tc := range map[string]struct {
		ttl time.Duration
		end func(c *contest)
	}{
		"died": {time.Second, func(*contest) {}},
		"released": {time.Hour, func(c *contest) {
			c.waited()
			var both sync.WaitGroup
			for k := range c.held {
				both.Go(func() { c.release(k) })
			}
			both.Wait()
		}},
		"released one by one": {time.Hour, func(c *contest) {
			c.waited()
			c.release(1)
			c.winner(1)
			c.release(0)
		}},
	} {
		t.Run(how, func(t *testing.T) {
			for round := range 12 {
				t.Run(fmt.Sprint(round), func(t *testing.T) {
					id := fmt.Sprintf("%c%d%c", how[0], round, how[len(how)-1])
					names := []string{"m1", "m2", "m3"}
					holder := names[round%3]
					others := append(append([]string{}, names[:round%3]...), names[round%3+1:]...)
					c := newContest(t, client, id, holder, others, tc.ttl)
					tc.end(c)
					if one, two := c.winner(0), c.winner(1); one == two {
						t.Errorf("%s got both", one)
					}
				})
			}
		})
	}
}

// A list that does not come, or says nothing, delays nobody after a dead holder.
func TestSpreadWithoutAList(t *testing.T) {
	client, err := etcdlock.Dial(etcdlock.Config{Endpoints: []string{"http://127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	lock, err := client.Lock("k")
	if err != nil {
		t.Fatal(err)
	}
	s := NewSpread(client, lock, "m1")
	s.held = 2
	dead := lease.Record{Token: 5, Claim: lease.Claim{TTL: time.Second}}
	if got := s.Delay(t.Context(), dead); got != 0 {
		t.Errorf("after a dead holder: %v", got)
	}
	dead.Ended = true
	if got := s.Delay(t.Context(), dead); got != 2*SpreadStep {
		t.Errorf("after a release: %v, want two steps for the two that were counted last", got)
	}
	s.held = 9
	if got := s.Delay(t.Context(), dead); got != spreadMost*SpreadStep {
		t.Errorf("the delay %v is not bounded", got)
	}
}

// How many a candidate holds stands in its entries.
func TestHeldIsListed(t *testing.T) {
	client := dialEtcd(t, etcdtest.Start(t, 1, etcdtest.Options{}))
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer func() { stop(); wg.Wait() }()
	run := func(key, name string) *lease.Elector {
		t.Helper()
		lock, err := client.Lock(key)
		if err != nil {
			t.Fatal(err)
		}
		spread := NewSpread(client, lock, name)
		e, err := lease.New(lease.Config{Lock: lock, Holder: name, Delay: spread.Delay})
		if err != nil {
			t.Fatal(err)
		}
		r, err := New(Config{
			Client: client, Lock: lock, Elector: e, Work: idle{}, Spread: spread, Candidate: etcdlock.Candidate{Name: name, ID: key + name},
		})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Errorf("%s of %s: %v", name, key, err)
			}
		})
		return e
	}
	holds := func(e *lease.Elector) {
		t.Helper()
		testwait.For(t, "the first to hold it", time.Minute, func() error {
			if s, _ := e.Status(); s.Role != lease.Holding {
				return errors.New(string(s.Role))
			}
			return nil
		})
	}
	holds(run("a", "m1"))
	holds(run("b", "m2"))
	run("b", "m1")
	testwait.For(t, "m1's entry at b to tell that it holds one", time.Minute, func() error {
		info, err := etcdlock.Get(t.Context(), client, "b", false)
		if err != nil {
			return err
		}
		if len(info.Waiting) != 1 || info.Waiting[0].Held != 1 {
			return fmt.Errorf("%+v", info.Waiting)
		}
		return nil
	})
}
