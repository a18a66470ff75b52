package workload

import "errors"

// Errors that every Manager returns, wrapped with the unit's name.
var (
	// ErrNoUnit is returned for a unit that the manager does not know.
	ErrNoUnit = errors.New("no such unit")
	// ErrNotRunning is returned when a signal is for a unit without a process.
	ErrNotRunning = errors.New("not running")
)
