package supervise

import (
	"context"
	"errors"
	"strings"
)

// ErrDone is returned by a service whose work is finished for good: a Group
// goes on without it, and Restarting does not run it again.
var ErrDone = errors.New("done")

// StuckError names the services that did not return within their StopTimeout.
// Their goroutines still run, so the process should end.
type StuckError struct {
	Names []string // in the order in which they were told to stop
}

func (e *StuckError) Error() string {
	return "did not stop in time: " + strings.Join(e.Names, ", ")
}

// stopped reports whether err only says that its context ended.
func stopped(err error) bool {
	return err == nil || errors.Is(err, context.Canceled)
}
