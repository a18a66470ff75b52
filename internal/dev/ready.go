package dev

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/workload"
)

// waitReady waits until the cluster is healthy, and prints a line for each unit
// that becomes active meanwhile.
func (f *Folder) waitReady(ctx context.Context, cfg Config) (*status.Report, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Timeout, errNotReady)
	defer cancel()
	began := time.Now()
	active := map[string]bool{}
	var last *status.Report
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		all, err := f.progress(ctx, active, func(unit string) {
			fmt.Fprintf(cfg.Progress, "%6.1fs  %s is active\n", time.Since(began).Seconds(), unit)
		})
		// The whole report costs more than the supervisors' word, so it comes last.
		if err == nil && all {
			if last, err = cfg.Report(ctx, f); err == nil && last.Verdict == status.Healthy {
				return last, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, f.notReady(ctx, active, last, err)
		}
	}
}

var errNotReady = exitcode.Errorf(exitcode.TimedOut, "not everything serves in time")

// notReady says what is missing, and where to look.
func (f *Folder) notReady(ctx context.Context, active map[string]bool, last *status.Report, err error) error {
	if cause := context.Cause(ctx); cause != errNotReady { //nolint:errorlint // identity: was it our own limit?
		return cause
	}
	var missing []string
	if last != nil {
		for _, r := range last.Reasons {
			missing = append(missing, r.Text)
		}
	}
	for unit, up := range active {
		if !up {
			missing = append(missing, unit+" is not active, see "+filepath.Join(f.Dir, strings.Replace(unit, " ", "/var/log/hactl/", 1)+".log"))
		}
	}
	if err != nil {
		missing = append(missing, err.Error())
	}
	return exitcode.Errorf(exitcode.TimedOut, "not everything serves in time; all is stopped again:\n  %s", strings.Join(missing, "\n  ")).
		WithHint("look into the logs, or give it more time: hactl dev up --timeout 10m")
}

// progress asks every supervisor for its units, notes which are active by "HOST
// UNIT", tells of those that became so, and says whether all are.
func (f *Folder) progress(ctx context.Context, active map[string]bool, became func(string)) (all bool, err error) {
	all = true
	for _, h := range f.Hosts() {
		units, err := f.client(h).Units(ctx)
		if err != nil {
			return false, fmt.Errorf("%s: %w", h, err)
		}
		for _, u := range units {
			key := h + " " + u.Name
			up := u.Active == workload.Active
			if up && !active[key] {
				became(key)
			}
			active[key] = up
			all = all && up
		}
	}
	return all, nil
}
