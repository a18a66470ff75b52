package child

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/backoff"
	"github.com/hactl/hactl/internal/workload"
)

// Defaults of workload.Unit's and Config's fields that are zero.
const (
	DefaultAfterTimeout = 20 * time.Second
	DefaultStartTimeout = 90 * time.Second // systemd's DefaultTimeoutStartSec
	DefaultStopTimeout  = 90 * time.Second // systemd's DefaultTimeoutStopSec
	DefaultMaxLog       = 64 << 20
	defaultStable       = 10 * time.Second
	killGrace           = 10 * time.Second // for the kernel to end a killed process
)

// maxSocketPath is the longest path that fits into a Unix socket's address.
const maxSocketPath = 107

// Config says what a Supervisor runs.
type Config struct {
	// Units are started in the order that their After asks for.
	Units []workload.Unit
	// Socket is the path of the control socket, absolute. Socket + ".lock" is
	// locked while the supervisor runs.
	Socket string
	// NotifySocket is the path of the socket for sd_notify messages, absolute.
	NotifySocket string
	Logger       *slog.Logger // nil: nothing is logged
	// MaxLog is the size in bytes from which on a unit's log file is renamed to
	// NAME.1 when the unit starts; default 64 MiB.
	MaxLog int64
	// Restart gives the pauses before restarts; default 100ms, doubling to 5s.
	Restart backoff.Backoff
	// Stable is how long a process must have run for the pauses to begin anew;
	// default 10s.
	Stable time.Duration
}

var unitName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:_.@-]*$`)

// validate sets the defaults and returns every fault.
func (c *Config) validate() error {
	var errs []error
	for what, path := range map[string]string{"socket": c.Socket, "notifySocket": c.NotifySocket} {
		switch {
		case !filepath.IsAbs(path):
			errs = append(errs, fmt.Errorf("%s: %q is not an absolute path", what, path))
		case len(path) > maxSocketPath:
			errs = append(errs, fmt.Errorf("%s: %s has %d characters, a socket's path may have %d: use a folder with a shorter path", what, path, len(path), maxSocketPath))
		}
	}
	if c.Socket != "" && c.Socket == c.NotifySocket {
		errs = append(errs, fmt.Errorf("notifySocket: %s is also the control socket", c.Socket))
	}
	if c.MaxLog <= 0 {
		c.MaxLog = DefaultMaxLog
	}
	if c.Restart.Max <= 0 {
		c.Restart.Max = 5 * time.Second
	}
	if c.Stable <= 0 {
		c.Stable = defaultStable
	}
	c.Units = slices.Clone(c.Units)
	return errors.Join(append(errs, validateUnits(c.Units))...)
}

// validateUnits sets the units' defaults and returns every fault.
func validateUnits(units []workload.Unit) error {
	var errs []error
	fault := func(u workload.Unit, format string, args ...any) {
		errs = append(errs, fmt.Errorf("unit %q: %w", u.Name, fmt.Errorf(format, args...)))
	}
	names := map[string]bool{}
	for i := range units {
		u := &units[i]
		if !unitName.MatchString(u.Name) {
			fault(*u, "not a unit's name")
		}
		if names[u.Name] {
			fault(*u, "given twice")
		}
		names[u.Name] = true
		if len(u.Exec) == 0 || !filepath.IsAbs(u.Exec[0]) {
			fault(*u, "exec: %q does not begin with an absolute path", u.Exec)
		}
		for _, kv := range u.Env {
			if k, _, ok := strings.Cut(kv, "="); !ok || k == "" || strings.ContainsRune(kv, 0) {
				fault(*u, "env: %q is not KEY=value", kv)
			}
		}
		if u.LogFile != "" && !filepath.IsAbs(u.LogFile) {
			fault(*u, "logFile: %q is not an absolute path", u.LogFile)
		}
		for what, d := range map[string]*time.Duration{
			"watchdogSec": &u.WatchdogSec, "afterTimeout": &u.AfterTimeout, "startTimeout": &u.StartTimeout, "stopTimeout": &u.StopTimeout,
		} {
			if *d < 0 {
				fault(*u, "%s: %v is negative", what, *d)
			}
		}
		setDefault(&u.AfterTimeout, DefaultAfterTimeout)
		setDefault(&u.StartTimeout, DefaultStartTimeout)
		setDefault(&u.StopTimeout, DefaultStopTimeout)
	}
	for _, u := range units {
		for _, a := range u.After {
			if !names[a] {
				fault(u, "after: no unit %q", a)
			}
		}
	}
	if cycle := findCycle(units); cycle != nil {
		errs = append(errs, fmt.Errorf("after: each waits for the next: %s", strings.Join(cycle, " → ")))
	}
	return errors.Join(errs...)
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}

// findCycle returns the names along a cycle of After, its first one also last;
// nil when there is none.
func findCycle(units []workload.Unit) []string {
	after := map[string][]string{}
	for _, u := range units {
		after[u.Name] = u.After
	}
	const open, closed = 1, 2
	mark := map[string]int{}
	var path []string
	var visit func(name string) []string
	visit = func(name string) []string {
		switch mark[name] {
		case closed:
			return nil
		case open:
			return append(slices.Clone(path[slices.Index(path, name):]), name)
		}
		mark[name] = open
		path = append(path, name)
		for _, a := range after[name] {
			if c := visit(a); c != nil {
				return c
			}
		}
		path = path[:len(path)-1]
		mark[name] = closed
		return nil
	}
	for _, u := range units {
		if c := visit(u.Name); c != nil {
			return c
		}
	}
	return nil
}
