package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/prometheus/procfs"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/process"
)

// startOnly is the row of what every gap has in it.
const startOnly = "start of the work alone"

// starts measures from the work's start to its first line, without any lock.
func (s *scene) starts(ctx context.Context, r *row) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for i := range s.o.repeats {
		s.log = filepath.Join(s.dir, fmt.Sprintf("start%d", i))
		began := lease.Boottime{}.Now()
		p, err := process.Start(process.Config{Path: self, Args: []string{workArg, s.log}})
		if err != nil {
			return err
		}
		err = s.until(ctx, "the work's first line", func() error { _, err := s.last(); return err })
		_ = p.Kill()
		p.Wait()
		if err != nil {
			return err
		}
		all, err := s.lines()
		if err != nil {
			return err
		}
		if err := r.hist.RecordValue(max(1, (all[0].at - began).Microseconds())); err != nil {
			return err
		}
	}
	return nil
}

// standing measures what podmaster costs while nothing happens: memory, processor
// and writes to etcd.
func (s *scene) standing(ctx context.Context, w io.Writer) error {
	defer s.stopAll()
	if err := s.fresh(ctx, "podmaster"); err != nil {
		return err
	}
	old, err := s.last()
	if err != nil {
		return err
	}
	holder, err := s.holder(old.pid)
	if err != nil {
		return err
	}
	if err := pause(ctx, 15*time.Second); err != nil { // until the start's garbage is gone
		return err
	}
	const span = 60 * time.Second
	rev, err := s.revision(ctx)
	if err != nil {
		return err
	}
	before := map[int]float64{}
	for i, p := range s.cand {
		if before[i], err = cpu(p.PID()); err != nil {
			return err
		}
	}
	if err := pause(ctx, span); err != nil {
		return err
	}
	after, err := s.revision(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%-28s %.2f writes/s to etcd for one held singleton with two that wait\n", "standing cost", float64(after-rev)/span.Seconds())
	for i, p := range s.cand {
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
		what := "waits"
		if i == holder {
			what = "holds"
		}
		fmt.Fprintf(w, "%-28s podmaster that %s: RSS %.1f MB (anonymous %.1f MB), %.2f %% of a core\n",
			"standing cost", what, mb(status.VmRSS), mb(status.RssAnon), (now-before[i])/span.Seconds()*100)
	}
	return nil
}

func mb(bytes uint64) float64 { return float64(bytes) / 1e6 }

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

// revision is etcd's, which grows by one with each write.
func (s *scene) revision(ctx context.Context) (int64, error) {
	out, err := exec.CommandContext(ctx, s.o.etcdctl, "--endpoints", etcdURL(0, 2379), "endpoint", "status", "-w", "json").Output()
	if err != nil {
		return 0, fmt.Errorf("etcd's revision: %w", err)
	}
	var all []struct {
		Status struct{ Header struct{ Revision int64 } }
	}
	if err := json.Unmarshal(out, &all); err != nil || len(all) == 0 {
		return 0, fmt.Errorf("etcd's revision: %w: %s", err, out)
	}
	return all[0].Status.Header.Revision, nil
}
