package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hactl/hactl/internal/lease"
)

// row is a part of the bench that can be asked for by its name.
type row struct {
	name string
	kube bool // kube-scheduler is a contestant, when there is one
	run  func(ctx context.Context, s *scene, t *table) error
	// How long it takes, measured on two cores: beside the repeats, for each, and for
	// each more when kube-scheduler is there.
	fixed, each, eachKube time.Duration
}

// startUp is what the run takes beside its rows.
const startUp = time.Minute

// allRows are in the order in which they are measured: kube-apiserver and its
// schedulers start when they are needed, and go on until the end.
func allRows() []row {
	sec := time.Second
	return []row{
		{name: "start of the work alone", run: startAlone, each: 50 * time.Millisecond},
		{name: "standing cost", run: standing, fixed: 90 * sec, each: sec / 5},
		{name: "work crashes", run: crashes, fixed: 5 * sec, each: 2 * sec},
		{name: "holder frozen 6 s", run: frozen, fixed: 10 * sec, each: 3 * sec},
		{name: "host lost", run: hostLost, fixed: 10 * sec, each: 2 * sec},
		{name: "planned hand-over", kube: true, run: planned, fixed: 15 * sec, each: 4 * sec, eachKube: 3 * sec},
		{name: "holder killed", kube: true, run: killed, fixed: 15 * sec, each: 3 * sec, eachKube: 4 * sec},
		{name: "etcd leader lost, holder healthy", kube: true, run: leaderLost, fixed: 20 * sec, each: 7 * sec},
		{name: "host with etcd's leader lost", kube: true, run: leaderHostLost, fixed: 20 * sec, each: 10 * sec, eachKube: 5 * sec},
		{name: "standing cost of kube-scheduler", kube: true, run: kubeStanding, fixed: 35 * sec},
	}
}

// event is what happens to a group's holder.
type event struct {
	// hit does it; i is the holder, pid the work, tree everything of the holder.
	hit func(ctx context.Context, g *group, i, pid int, tree []int) error
	// fromHit: the time counts from the event, else from the old work's last line.
	fromHit bool
}

func signalTo(sig syscall.Signal) func(context.Context, *group, int, int, []int) error {
	return func(_ context.Context, g *group, i, _ int, _ []int) error { return g.cand[i].Signal(sig) }
}

var (
	stop = event{hit: func(_ context.Context, g *group, i, pid int, _ []int) error {
		if g.who == lockPeer { // it does not pass the signal on, and waits for its command
			return syscall.Kill(pid, syscall.SIGTERM)
		}
		return g.cand[i].Signal(syscall.SIGTERM)
	}}
	crash = event{hit: func(_ context.Context, _ *group, _, pid int, _ []int) error {
		return syscall.Kill(pid, syscall.SIGKILL)
	}}
	kill = event{fromHit: true, hit: signalTo(syscall.SIGKILL)}
	lose = event{fromHit: true, hit: func(_ context.Context, _ *group, _, _ int, tree []int) error { killAtOnce(tree); return nil }}

	freeze = event{fromHit: true, hit: func(ctx context.Context, g *group, i, _ int, _ []int) error {
		if err := g.cand[i].Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		if err := pause(ctx, 6*time.Second); err != nil {
			return err
		}
		return g.cand[i].Signal(syscall.SIGCONT)
	}}
)

// killAtOnce ends processes with no chance for one to tell of another's end: all are
// frozen first, and the last ones killed first.
func killAtOnce(pids []int) {
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		for _, pid := range slices.Backward(pids) {
			_ = syscall.Kill(pid, sig) // it may have ended with another one
		}
	}
}

// ready is the state of a group right before an event.
type ready struct {
	holder int
	old    line  // the work's last one
	tree   []int // everything of the holder
}

func (g *group) look() (ready, error) {
	old, err := g.last()
	if err != nil {
		return ready{}, err
	}
	i, err := g.holder(old.pid)
	if err != nil {
		return ready{}, err
	}
	tree, err := g.cand[i].Remaining()
	return ready{holder: i, old: old, tree: tree}, err
}

// suffer lets an event happen once, and notes what came of it. lock, which may be
// nil, gets the time until the lock was taken.
func (g *group) suffer(ctx context.Context, ev event, r, lock *result) error {
	if err := os.Truncate(g.log, 0); err != nil {
		return err
	}
	if err := phase(ctx); err != nil {
		return err
	}
	was, err := g.look()
	if err != nil {
		return g.again(ctx, err)
	}
	hit := lease.Boottime{}.Now()
	if err := ev.hit(ctx, g, was.holder, was.old.pid, was.tree); err != nil {
		return err
	}
	from := time.Duration(0)
	if ev.fromHit {
		from = hit
	}
	if err := g.record(ctx, was, hit, from, r, lock); err != nil {
		return err
	}
	if g.who == lockPeer && ev.fromHit { // it may be no candidate any more, and have left its command
		if err := g.end(was.holder); err != nil {
			return err
		}
	}
	if err := g.mend(ctx); err != nil {
		return g.again(ctx, err)
	}
	return nil
}

// record waits for another process to work, and notes the time since from; 0: since
// the old one's last line.
func (g *group) record(ctx context.Context, was ready, hit, from time.Duration, r, lock *result) error {
	err := until(ctx, "another process to work", func() error { return g.succeeded(was.old.pid) })
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.note(func(r *result) { r.stuck++ })
		g.s.progress.say("%s, %s: %v", r.event, r.who, err)
		return r.add(time.Minute)
	}
	if g.who == lockPeer { // for how long do both work?
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
	}
	all, err := g.lines()
	if err != nil {
		return err
	}
	lastOld, firstNew := was.old.at, time.Duration(0)
	for _, l := range all {
		switch {
		case l.pid == was.old.pid:
			lastOld = max(lastOld, l.at)
		case firstNew == 0 || l.at < firstNew:
			firstNew = l.at
		}
	}
	if both := lastOld - firstNew; both > 0 {
		r.note(func(r *result) { r.overlap++; r.worst = max(r.worst, both) })
	}
	if from == 0 {
		from = lastOld
	}
	if lock != nil && g.who == ours {
		took, err := g.took(hit)
		if err != nil {
			return err
		}
		if err := lock.add(took - lastOld); err != nil {
			return err
		}
	}
	return r.add(firstNew - from)
}

// succeeded returns nil when another process than old has written.
func (g *group) succeeded(old int) error {
	l, err := g.last()
	if err != nil {
		return err
	}
	if l.pid != old {
		return nil
	}
	all, err := g.lines()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(l line) bool { return l.pid != old }) {
		return fmt.Errorf("only pid %d writes", old)
	}
	return nil
}

// side lets groups suffer side by side, each again and again, until r has want
// repeats.
func (s *scene) side(ctx context.Context, groups []*group, want int, ev event, r, lock *result) error {
	return side(ctx, s, groups, want, r, func(ctx context.Context, g *group) error { return g.suffer(ctx, ev, r, lock) })
}

func side[G any](ctx context.Context, s *scene, groups []G, want int, r *result, f func(context.Context, G) error) error {
	var (
		all   errgroup.Group
		mu    sync.Mutex
		begun = r.n()
	)
	another := func() bool {
		mu.Lock()
		defer mu.Unlock()
		begun++
		return begun <= want
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, g := range groups {
		all.Go(func() error {
			for another() {
				if err := f(ctx, g); err != nil {
					cancel()
					return err
				}
				s.progress.count(r.who, r.n(), s.o.repeats)
			}
			return nil
		})
	}
	return all.Wait()
}

// some starts n groups of three.
func (s *scene) some(ctx context.Context, who string, n int, args ...string) ([]*group, error) {
	var out []*group
	for i := range n {
		g, err := s.newGroup(ctx, who, hosts, i, args...)
		if err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, nil
}

// both lets groups of podmaster's and of etcdctl's suffer the same, at the same time
// each at its own moments.
func (s *scene) both(ctx context.Context, n int, ev event, r, peer *result) error {
	mine, err := s.some(ctx, ours, n)
	if err != nil {
		return err
	}
	other, err := s.some(ctx, lockPeer, n)
	if err != nil {
		return err
	}
	var all errgroup.Group
	all.Go(func() error { return s.side(ctx, mine, s.o.repeats, ev, r, nil) })
	all.Go(func() error { return s.side(ctx, other, s.o.repeats, ev, peer, nil) })
	return all.Wait()
}

// Each crash is one by itself: in a row the pauses grow, and the term is handed over.
func crashes(ctx context.Context, s *scene, t *table) error {
	g, err := s.some(ctx, ours, 1, "--crash-window", "100ms")
	if err != nil {
		return err
	}
	r := newResult("work crashes, restarted in place", ours, "p99 ≤ 200 + start")
	if err := s.side(ctx, g, s.o.repeats, crash, r, nil); err != nil {
		return err
	}
	return t.put(r)
}

func frozen(ctx context.Context, s *scene, t *table) error {
	r, peer := newResult("holder frozen 6 s", ours, "–"), newResult("holder frozen 6 s", lockPeer, "")
	if err := s.both(ctx, 4, freeze, r, peer); err != nil {
		return err
	}
	return t.put(r, peer)
}

func hostLost(ctx context.Context, s *scene, t *table) error {
	const name = "host lost (holder, guard and work killed at once)"
	r, peer := newResult(name, ours, "p99 ≤ 3500"), newResult(name, lockPeer, "")
	if err := s.both(ctx, 4, lose, r, peer); err != nil {
		return err
	}
	return t.put(r, peer)
}

// turns is how often the contestants of the planned hand-over change.
const turns = 4

func planned(ctx context.Context, s *scene, t *table) error {
	const name = "planned hand-over, with the start"
	lock := newResult("planned hand-over, lock part", ours, "p99 ≤ 100")
	r, peer, kube := newResult(name, ours, "p99 ≤ 100 + start"), newResult(name, lockPeer, ""), newResult(name, kubePeer, "")
	mine, err := s.some(ctx, ours, 1)
	if err != nil {
		return err
	}
	other, err := s.some(ctx, lockPeer, 2)
	if err != nil {
		return err
	}
	for turn := range turns {
		want := s.o.repeats * (turn + 1) / turns
		if err := s.side(ctx, mine, want, stop, r, lock); err != nil {
			return err
		}
		if err := s.side(ctx, other, want, stop, peer, nil); err != nil {
			return err
		}
		if s.kube != nil {
			if err := s.kube.side(ctx, want, syscall.SIGTERM, kube); err != nil {
				return err
			}
		}
	}
	return t.put(lock, r, peer, kube)
}

func killed(ctx context.Context, s *scene, t *table) error {
	const name = "holder killed"
	r, peer, kube := newResult(name, ours, "p99 ≤ 1000 (its host tells)"), newResult(name, lockPeer, ""), newResult(name, kubePeer, "")
	var all errgroup.Group
	all.Go(func() error { return s.both(ctx, 2, kill, r, peer) })
	if s.kube != nil {
		all.Go(func() error { return s.kube.side(ctx, s.o.repeats, syscall.SIGKILL, kube) })
	}
	if err := all.Wait(); err != nil {
		return err
	}
	return t.put(r, peer, kube)
}
