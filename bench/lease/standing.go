package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/procfs"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/process"
)

// startAlone measures from the work's start to its first line, without any lock:
// what every row with the start has in it.
func startAlone(ctx context.Context, s *scene, t *table) error {
	r := newResult("start of the work alone", "nobody", "")
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for i := range s.o.repeats {
		g := &group{s: s, log: filepath.Join(s.dir, fmt.Sprintf("start%d", i))}
		began := lease.Boottime{}.Now()
		p, err := process.Start(process.Config{Path: self, Args: []string{workArg, g.log}})
		if err != nil {
			return err
		}
		err = until(ctx, "the work's first line", func() error { _, err := g.last(); return err })
		_ = p.Kill()
		p.Wait()
		if err != nil {
			return err
		}
		all, err := g.lines()
		if err != nil {
			return err
		}
		if err := r.add(all[0].at - began); err != nil {
			return err
		}
	}
	return t.put(r)
}

// standing measures what candidates cost while nothing happens: memory, processor
// and writes to etcd. As many podmasters wait as there are repeats.
func standing(ctx context.Context, s *scene, t *table) error {
	const span = time.Minute
	for _, c := range []struct {
		who    string
		size   int
		memory string
		core   string
	}{{ours, s.o.repeats + 1, "≤ 20 MB", "≤ 0.2 %"}, {lockPeer, 6, "", ""}} {
		g, err := s.newGroup(ctx, c.who, c.size, 0)
		if err != nil {
			return err
		}
		l, err := g.last()
		if err != nil {
			return err
		}
		holder, err := g.holder(l.pid)
		if err != nil {
			return err
		}
		if err := pause(ctx, 15*time.Second); err != nil { // until the start's garbage is gone
			return err
		}
		rev, err := s.revision(ctx)
		if err != nil {
			return err
		}
		var waiting []*process.Process
		for i, p := range g.cand {
			if i != holder {
				waiting = append(waiting, p)
			}
		}
		d := span
		if c.who == lockPeer {
			d = 10 * time.Second
		}
		if err := s.cost(ctx, t, c.who, waiting, d, c.memory, c.core); err != nil {
			return err
		}
		if c.who == ours {
			after, err := s.revision(ctx)
			if err != nil {
				return err
			}
			fmt.Fprintf(t.w, "| writes to etcd for one held singleton | %s | 1 | %.2f a second | | | ≤ 3 a second | |\n", ours, float64(after-rev)/d.Seconds())
			if err := s.cost(ctx, t, ours+" that holds", []*process.Process{g.cand[holder]}, 10*time.Second, "", ""); err != nil {
				return err
			}
		}
		s.drop(g)
	}
	return nil
}

// cost measures the memory and the processor of processes while nothing happens.
func (s *scene) cost(ctx context.Context, t *table, who string, waiting []*process.Process, span time.Duration, memory, core string) error {
	s.progress.say("standing cost of %s, %d processes: %v", who, len(waiting), span)
	before := make([]float64, len(waiting))
	var err error
	for i, p := range waiting {
		if before[i], err = cpu(p.PID()); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := pause(ctx, span); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	// The units of the table do not fit: kilobytes and millionths of a core.
	rss := newResult("memory while nothing happens (RSS)", who, memory)
	anon := newResult("of it its own (anonymous)", who, "")
	used := newResult("processor while nothing happens", who, core)
	for i, p := range waiting {
		now, err := cpu(p.PID())
		if err != nil {
			return err
		}
		proc, err := procfs.NewProc(p.PID())
		if err != nil {
			return err
		}
		status, err := proc.NewStatus()
		if err != nil {
			return err
		}
		for r, v := range map[*result]float64{rss: float64(status.VmRSS) / 1000, anon: float64(status.RssAnon) / 1000, used: (now - before[i]) / took * 1e6} {
			if err := r.add(time.Duration(v) * time.Microsecond); err != nil {
				return err
			}
		}
	}
	return errors.Join(t.putIn(rss, 1000, "%.1f MB"), t.putIn(anon, 1000, "%.1f MB"), t.putIn(used, 1e4, "%.2f %%"))
}

// cpu is the processor time that a process has used, in seconds.
func cpu(pid int) (float64, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	stat, err := p.Stat()
	if err != nil {
		return 0, err
	}
	return stat.CPUTime(), nil
}
