package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/lb"
)

// measureProbes looks at whether a busy data path delays what else the process
// does: its probes, which are to start every 100 ms here, and the garbage collector.
func measureProbes(ctx context.Context, o options, b *backends) error {
	fmt.Printf("\n## probes: a probe each 90 to 100 ms to each of three backends, beside the data path\n\n")
	fmt.Printf("| load | probes | duration p50 | p99 | max | longest time between two | GC pauses | longest |\n|---|---|---|---|---|---|---|---|\n")
	for _, load := range []string{"none", "small", "conn", "bulk"} {
		if err := probesUnder(ctx, o, b, load); err != nil {
			return fmt.Errorf("%s: %w", load, err)
		}
	}
	return nil
}

func probesUnder(ctx context.Context, o options, b *backends, load string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	metrics := fmt.Sprintf("127.0.0.1:%d", port)
	p, err := startHactl(ctx, o, "probes", b, "--check-interval", "100ms", "--listen-metrics", metrics)
	if err != nil {
		return err
	}
	defer p.stop()
	const d = 8 * time.Second
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		if w, ok := workloads[load]; ok {
			_, err := slice(ctx, p, w, d)
			failed <- err
			return
		}
		time.Sleep(d)
		failed <- nil
	}()
	client := lb.NewClient(filepath.Join(o.dir, "probes", "run", "hactl", "lb.sock"))
	var (
		took    []time.Duration
		longest time.Duration
		last    = map[string]time.Time{}
		tick    = time.NewTicker(20 * time.Millisecond)
	)
	defer tick.Stop()
	for {
		select {
		case err := <-failed:
			if err != nil {
				return err
			}
			slices.Sort(took)
			at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(10 * time.Microsecond) }
			pauses, worst, err := gcPauses(ctx, metrics)
			if err != nil || len(took) == 0 {
				return fmt.Errorf("%d probes: %w", len(took), err)
			}
			fmt.Printf("| %s | %d | %v | %v | %v | %v | %d | %v |\n", load, len(took), at(.5), at(.99), at(1), longest.Round(time.Millisecond), pauses, worst)
			return nil
		case <-tick.C:
		}
		s, err := client.Status(ctx)
		if err != nil {
			return err
		}
		for _, m := range s.Backends {
			if m.Probe.At.After(last[m.Name]) {
				if !last[m.Name].IsZero() {
					longest = max(longest, m.Probe.At.Sub(last[m.Name]))
				}
				last[m.Name] = m.Probe.At
				took = append(took, time.Duration(m.Probe.TookMS*float64(time.Millisecond)))
			}
		}
	}
}

// gcPauses reads the number of garbage collections and the longest pause.
func gcPauses(ctx context.Context, addr string) (n int, longest time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return 0, 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	for in := bufio.NewScanner(resp.Body); in.Scan(); {
		name, value, _ := strings.Cut(in.Text(), " ")
		v, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "go_gc_duration_seconds_count":
			n = int(v)
		case `go_gc_duration_seconds{quantile="1"}`:
			longest = time.Duration(v * float64(time.Second)).Round(time.Microsecond)
		}
	}
	return n, longest, nil
}
