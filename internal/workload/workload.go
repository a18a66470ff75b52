package workload

import (
	"context"
	"syscall"
	"time"
)

// Unit is one supervised process of a host, in systemd's words. It is rendered
// to a unit file (workload/systemd) or run by hactl's own child supervisor
// (workload/child); both give it the same life.
type Unit struct {
	Name        string   `json:"name"` // without ".service": "hactl-etcd", "podmaster@kube-scheduler"
	Description string   `json:"description"`
	Exec        []string `json:"exec"`          // absolute path of the program, then its arguments
	Env         []string `json:"env,omitempty"` // KEY=value, beside PATH
	// Notify is systemd's Type=notify: the unit is active only once its process
	// sent READY=1. Without it a unit is active when its process runs.
	Notify bool `json:"notify,omitempty"`
	// WatchdogSec kills the unit's whole process group with SIGKILL when no
	// WATCHDOG=1 came for so long. Zero: no watchdog.
	WatchdogSec time.Duration `json:"watchdogSec,omitempty"` //nolint:staticcheck // systemd's own name for it
	// After names units that are waited for before this one starts: until each
	// is active, or AfterTimeout (default 20s) has passed.
	After        []string      `json:"after,omitempty"`
	AfterTimeout time.Duration `json:"afterTimeout,omitempty"`
	StartTimeout time.Duration `json:"startTimeout,omitempty"` // to READY=1; default 90s
	StopTimeout  time.Duration `json:"stopTimeout,omitempty"`  // from SIGTERM to SIGKILL; default 90s
	LogFile      string        `json:"logFile,omitempty"`      // stdout and stderr are appended here
}

// The values of State.Active, as systemd's ActiveState.
const (
	Active       = "active"
	Activating   = "activating"
	Deactivating = "deactivating"
	Inactive     = "inactive"
	Failed       = "failed"
)

// State is what a supervisor knows of a unit.
type State struct {
	Name     string    `json:"name"`
	Active   string    `json:"active"`   // one of the constants above
	Status   string    `json:"status"`   // the process' own words (sd_notify STATUS=)
	MainPID  int       `json:"mainPID"`  // 0 when none
	Since    time.Time `json:"since"`    // of Active
	Restarts int       `json:"restarts"` // since the supervisor started
	LastExit string    `json:"lastExit"` // why the last process ended: "exit status 1", "signal: killed", "watchdog"
}

// Manager is what supervisors offer: systemd over D-Bus, or the child
// supervisor over its socket. Each call returns when its result is known, not
// when it is queued.
type Manager interface {
	Units(ctx context.Context) ([]State, error)
	Start(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	// Restart stops the unit and starts it; with force the stop is a SIGKILL,
	// for a process that hangs.
	Restart(ctx context.Context, unit string, force bool) error
	// Signal sends sig to every process of the unit.
	Signal(ctx context.Context, unit string, sig syscall.Signal) error
}
