package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"
)

// event is what happens to the holder.
type event struct {
	name string
	peer bool // also measured with etcdctl lock
	kube bool // also measured with kube-scheduler's own election
	// hit does it; i is the holder, pid the work.
	hit func(ctx context.Context, s *scene, i, pid int) error
	// mend brings the scene back to three candidates and three members.
	mend func(ctx context.Context, s *scene, i int) error
	// stays: the same work may go on; the gap is then the longest pause in its lines.
	stays   bool
	args    []string      // podmaster's, besides the usual
	planned bool          // the holder is told to go
	leader  bool          // etcd's leader is lost
	watch   time.Duration // how long the lines are looked at after the event
}

// members starts the etcd members that have ended.
func members(ctx context.Context, s *scene, _ int) error {
	for j, p := range s.etcd {
		select {
		case <-p.Done():
			if err := s.startMember(j); err != nil {
				return err
			}
		default:
		}
	}
	return s.until(ctx, "a leader", func() error { _, err := s.leader(ctx); return err })
}

func killLeader(ctx context.Context, s *scene) error {
	l, err := s.leader(ctx)
	if err != nil {
		return err
	}
	if err := s.etcd[l].Kill(); err != nil {
		return err
	}
	s.etcd[l].Wait()
	return nil
}

func events() []event {
	restart := func(_ context.Context, s *scene, i int) error { return s.start(i) }
	return []event{
		{name: "planned hand-over", peer: true, kube: true, planned: true, mend: restart, watch: 20 * time.Second,
			hit: func(_ context.Context, s *scene, i, pid int) error {
				if s.who == "etcdctl lock" { // it does not pass the signal on, and waits for its command
					return syscall.Kill(pid, syscall.SIGTERM)
				}
				return s.cand[i].Signal(syscall.SIGTERM)
			}},
		// Each crash is one by itself: in a row the pauses grow, and the term is handed over.
		{name: "work crashes", args: []string{"--crash-window", "100ms"}, watch: 20 * time.Second,
			hit: func(_ context.Context, _ *scene, _, pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }},
		{name: "holder killed", peer: true, kube: true, mend: restart, watch: 20 * time.Second,
			hit: func(_ context.Context, s *scene, i, _ int) error { return s.cand[i].Signal(syscall.SIGKILL) }},
		{name: "holder frozen 6 s", peer: true, watch: 20 * time.Second,
			hit: func(ctx context.Context, s *scene, i, _ int) error {
				if err := s.cand[i].Signal(syscall.SIGSTOP); err != nil {
					return err
				}
				if err := pause(ctx, 6*time.Second); err != nil {
					return err
				}
				return s.cand[i].Signal(syscall.SIGCONT)
			}},
		{name: "host lost", mend: restart, watch: 20 * time.Second,
			hit: func(_ context.Context, s *scene, i, _ int) error { return s.loseHost(i) }},
		{name: "host and etcd leader lost", kube: true, leader: true, watch: 20 * time.Second,
			hit: func(ctx context.Context, s *scene, i, _ int) error {
				if err := killLeader(ctx, s); err != nil {
					return err
				}
				return s.loseHost(i)
			},
			mend: func(ctx context.Context, s *scene, i int) error {
				if err := members(ctx, s, i); err != nil {
					return err
				}
				return s.start(i)
			}},
		{name: "etcd leader lost", kube: true, leader: true, stays: true, watch: 5 * time.Second, mend: members,
			hit: func(ctx context.Context, s *scene, _, _ int) error { return killLeader(ctx, s) }},
	}
}

// loseHost ends everything of a candidate with no chance for the guard to tell
// anybody: frozen first, and the guard killed before podmaster.
func (s *scene) loseHost(i int) error {
	pids, err := s.cand[i].Remaining()
	if err != nil {
		return err
	}
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		for _, pid := range slices.Backward(pids) {
			_ = syscall.Kill(pid, sig) // it may have ended with another one
		}
	}
	return nil
}

// measure repeats one event and fills r.
func (s *scene) measure(ctx context.Context, ev event, r *row) error {
	defer s.stopAll()
	s.args = ev.args
	if err := s.fresh(ctx, r.who); err != nil {
		return err
	}
	for range s.o.repeats {
		if err := s.once(ctx, ev, r); err != nil {
			return err
		}
	}
	return nil
}

func (s *scene) once(ctx context.Context, ev event, r *row) error {
	if err := phase(ctx); err != nil {
		return err
	}
	old, err := s.last()
	if err != nil {
		return err
	}
	i, err := s.holder(old.pid)
	if err != nil {
		// It is the one that etcdctl left running when it was killed.
		return fmt.Errorf("the work has no holder: %w", err)
	}
	if err := ev.hit(ctx, s, i, old.pid); err != nil {
		return err
	}
	if ev.stays {
		if err := pause(ctx, ev.watch); err != nil {
			return err
		}
	} else if err := s.until(ctx, "another process to work", func() error { return s.succeeded(old) }); err != nil {
		r.stuck++
		fmt.Fprintf(os.Stderr, "%s, %s: %v\n", r.event, r.who, err)
	}
	if r.who == "etcdctl lock" { // how long do both work?
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
	}
	if err := s.record(r, old); err != nil {
		return err
	}
	if r.who == "etcdctl lock" { // it leaves its command running: begin anew
		s.stopAll()
		return s.fresh(ctx, r.who)
	}
	if ev.mend != nil {
		return ev.mend(ctx, s, i)
	}
	return nil
}

// succeeded returns nil when a process that had not written by mark has.
func (s *scene) succeeded(mark line) error {
	all, err := s.lines()
	if err != nil {
		return err
	}
	before := map[int]bool{}
	for _, l := range all {
		if l.at <= mark.at {
			before[l.pid] = true
		} else if !before[l.pid] {
			return nil
		}
	}
	return fmt.Errorf("only pid %d writes", mark.pid)
}

// record finds the gap after mark, or the overlap.
func (s *scene) record(r *row, mark line) error {
	all, err := s.lines()
	if err != nil {
		return err
	}
	lastOld, firstNew, longest := mark.at, time.Duration(0), time.Duration(0)
	prev := mark.at
	for _, l := range all {
		if l.at < mark.at {
			continue
		}
		longest = max(longest, l.at-prev)
		prev = l.at
		switch {
		case l.pid == mark.pid:
			lastOld = l.at
		case firstNew == 0:
			firstNew = l.at
		}
	}
	gap := firstNew - lastOld
	switch {
	case firstNew == 0:
		r.kept++
		gap = longest
	case gap < 0:
		r.overlap++
		r.worst = max(r.worst, -gap)
		gap = 0
	}
	return r.hist.RecordValue(max(1, gap.Microseconds()))
}
