// Package exitcode holds the exit codes that hactl and podmaster share, and an
// error that carries one together with the next command to type.
//
// The codes are a contract: scripts branch on them. docs/exit-codes.md lists
// them for users.
package exitcode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The exit codes of every hactl and podmaster command.
const (
	OK          = 0  // it worked
	Failed      = 1  // it failed for a reason that has no code of its own
	Usage       = 2  // wrong flags, arguments or configuration
	Refused     = 3  // refused for safety; the message says what would be safe
	Unhealthy   = 4  // status, preflight: unhealthy or degraded
	Unreachable = 5  // the cluster cannot be reached
	TimedOut    = 6  // the deadline passed
	LostLease   = 10 // podmaster: the lease was lost
)

// Error is an error with an exit code and, where there is one, the way out.
type Error struct {
	Code int
	Err  error
	Hint string // the next command to type, or what would be safe; may be empty
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an *Error with the given code; %w wraps as in fmt.Errorf.
func Errorf(code int, format string, args ...any) *Error {
	return &Error{Code: code, Err: fmt.Errorf(format, args...)}
}

// WithHint returns a copy of e whose hint is the formatted text.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Of returns the code of the first *Error in err's chain; TimedOut for a
// deadline, OK for nil and Failed otherwise.
func Of(err error) int {
	var e *Error
	switch {
	case err == nil:
		return OK
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.DeadlineExceeded):
		return TimedOut
	default:
		return Failed
	}
}

// Print writes err the way every command does: "PROG: what failed" and, on a
// line of its own, the hint.
func Print(w io.Writer, prog string, err error) {
	if err == nil {
		return
	}
	msg := strings.TrimRight(err.Error(), "\n")
	if msg != "" {
		fmt.Fprintf(w, "%s: %s\n", prog, msg)
	}
	var e *Error
	if errors.As(err, &e) && e.Hint != "" {
		fmt.Fprintf(w, "try: %s\n", e.Hint)
	}
}
