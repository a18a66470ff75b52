package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hactl/hactl/internal/lease"
)

// healthyGroups is how many of podmaster's groups see each loss of etcd's leader.
const healthyGroups = 4

// watch is how long a group is looked at after the loss of etcd's leader: longer
// than a term that was not renewed can stand.
const watch = 4500 * time.Millisecond

// leaderLost kills etcd's leader again and again; no holder is touched. A term is
// kept when the same process goes on. The time is its longest pause, which for the
// work of a term that is kept is the scheduler's.
func leaderLost(ctx context.Context, s *scene, t *table) error {
	const name = "etcd leader lost, holder healthy: pause of the work"
	r, peer := newResult(name, ours, "kept in ≥ 99 %"), newResult(name, lockPeer, "")
	kube := newResult("etcd leader lost, holder healthy: term", kubePeer, "")
	mine, err := s.some(ctx, ours, healthyGroups)
	if err != nil {
		return err
	}
	other, err := s.some(ctx, lockPeer, 1)
	if err != nil {
		return err
	}
	groups := append(mine, other...)
	for i := range s.o.repeats {
		if err := s.loseLeader(ctx, groups, r, peer, kube); err != nil {
			return err
		}
		s.progress.count(ours, i+1, s.o.repeats)
	}
	return t.put(r, peer, kube)
}

func (s *scene) loseLeader(ctx context.Context, groups []*group, r, peer, kube *result) error {
	var before []string
	if s.kube != nil {
		var err error
		if before, err = s.kube.holders(ctx); err != nil {
			return err
		}
	}
	was := make([]ready, len(groups))
	for i, g := range groups {
		if err := os.Truncate(g.log, 0); err != nil {
			return err
		}
		if err := until(ctx, "the work to go on", func() (err error) { was[i], err = g.look(); return err }); err != nil {
			return err
		}
	}
	if err := phase(ctx); err != nil {
		return err
	}
	l, err := s.leader(ctx)
	if err != nil {
		return err
	}
	hit := lease.Boottime{}.Now()
	if err := s.etcd[l].Kill(); err != nil {
		return err
	}
	s.etcd[l].Wait()
	if err := pause(ctx, watch); err != nil {
		return err
	}
	if err := s.members(ctx); err != nil {
		return err
	}
	for i, g := range groups {
		to := r
		if g.who == lockPeer {
			to = peer
		}
		if err := g.paused(was[i].old.pid, hit, to); err != nil {
			return err
		}
		if err := g.mend(ctx); err != nil {
			if err := g.again(ctx, err); err != nil {
				return err
			}
		}
	}
	if s.kube == nil {
		return nil
	}
	after, err := s.kube.holders(ctx)
	if err != nil {
		return err
	}
	for i := range before {
		if after[i] == before[i] {
			kube.note(func(r *result) { r.kept++ })
		}
		if err := kube.add(0); err != nil {
			return err
		}
	}
	return nil
}

// paused notes the longest pause in the work since hit, and whether it is the same.
func (g *group) paused(old int, hit time.Duration, r *result) error {
	all, err := g.lines()
	if err != nil {
		return err
	}
	prev, longest, same := hit, time.Duration(0), true
	for _, l := range all {
		if l.at > hit {
			longest, prev = max(longest, l.at-prev), l.at
		}
		same = same && l.pid == old
	}
	longest = max(longest, lease.Boottime{}.Now()-prev) // it may have stopped for good
	if same {
		r.note(func(r *result) { r.kept++ })
	}
	return r.add(longest)
}

// leaderHostLost kills, at one instant, etcd's leader and the holder on its host with
// all that is its: podmaster, guard and work. The peers' holders die with it.
func leaderHostLost(ctx context.Context, s *scene, t *table) error {
	const name = "host with etcd's leader lost"
	r, peer, kube := newResult(name, ours, "p99 ≤ 4000"), newResult(name, lockPeer, ""), newResult(name, kubePeer, "")
	mine, err := s.some(ctx, ours, 1)
	if err != nil {
		return err
	}
	for r.n() < s.o.repeats {
		// kube-scheduler takes so long that all of its groups go at once, and not each time.
		withKube := s.kube != nil && kube.n() <= r.n() && kube.n() < s.o.repeats
		if err := s.loseLeaderHost(ctx, mine[0], withKube, r, peer, kube); err != nil {
			return err
		}
		s.progress.count(ours, r.n(), s.o.repeats)
	}
	return t.put(r, peer, kube)
}

func (s *scene) loseLeaderHost(ctx context.Context, mine *group, withKube bool, r, peer, kube *result) error {
	l, err := s.leader(ctx)
	if err != nil {
		return err
	}
	if err := mine.handTo(ctx, l); err != nil {
		return err
	}
	other, err := s.newGroup(ctx, lockPeer, hosts, l) // the first to start holds
	if err != nil {
		return err
	}
	defer s.drop(other)
	if err := mine.mend(ctx); err != nil {
		return err
	}
	if err := phase(ctx); err != nil {
		return err
	}
	if now, err := s.leader(ctx); err != nil || now != l {
		return errors.Join(err, s.whole(ctx)) // it moved by itself: another time
	}
	var pids []int
	groups, was := []*group{mine, other}, make([]ready, 2)
	for i, g := range groups {
		if err := os.Truncate(g.log, 0); err != nil {
			return err
		}
		if err := until(ctx, "the work to go on", func() (err error) { was[i], err = g.look(); return err }); err != nil {
			return err
		}
		pids = append(pids, was[i].tree...)
	}
	var takeOver []func(context.Context) error
	if withKube {
		dying, wait, err := s.kube.doom(ctx, kube)
		if err != nil {
			return err
		}
		pids, takeOver = append(pids, dying...), wait
	}
	hit := lease.Boottime{}.Now()
	killAtOnce(append(pids, s.etcd[l].PID()))
	s.etcd[l].Wait()
	all, each := errgroup.WithContext(ctx)
	for i, g := range groups {
		to := []*result{r, peer}[i]
		all.Go(func() error { return g.record(each, was[i], hit, hit, to, nil) })
	}
	for _, wait := range takeOver {
		all.Go(func() error { return wait(each) })
	}
	if err := all.Wait(); err != nil {
		return err
	}
	if err := s.members(ctx); err != nil {
		return err
	}
	if err := mine.mend(ctx); err != nil {
		return mine.again(ctx, err)
	}
	return nil
}

// drop ends a group for good.
func (s *scene) drop(g *group) {
	s.mu.Lock()
	s.groups = slices.DeleteFunc(s.groups, func(o *group) bool { return o == g })
	s.mu.Unlock()
	g.stop()
}

// doom is what dies of the schedulers with a host: every group's holder. wait
// notes, group by group, when another one holds.
func (k *kube) doom(ctx context.Context, r *result) (pids []int, wait []func(context.Context) error, err error) {
	for _, g := range k.groups {
		was, i, err := g.holder(ctx)
		if err != nil {
			return nil, nil, err
		}
		pids = append(pids, g.sched[i].PID())
		wait = append(wait, func(ctx context.Context) error {
			if err := g.succession(ctx, was, lease.Boottime{}.Now(), r); err != nil {
				return err
			}
			return g.mend(ctx)
		})
	}
	return pids, wait, nil
}
