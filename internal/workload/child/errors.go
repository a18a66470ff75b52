package child

import "errors"

var (
	// ErrInUse is returned by Run when another supervisor holds the socket.
	ErrInUse = errors.New("another supervisor runs here")
	// ErrStopping is returned by commands once the supervisor is stopping, and
	// before it runs.
	ErrStopping = errors.New("the supervisor is not running")
	// ErrUnkillable is returned when a process is still there 10 s after SIGKILL.
	ErrUnkillable = errors.New("did not end after SIGKILL")
	// ErrNoProcess is returned when no process of any unit has the given name.
	ErrNoProcess = errors.New("no such process")
	// ErrUnreachable is returned by Client when nobody answers on the socket.
	ErrUnreachable = errors.New("no supervisor answers")
)
