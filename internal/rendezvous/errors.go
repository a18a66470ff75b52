package rendezvous

import "errors"

// What SecretsOf and ConfigOf return, wrapped.
var (
	// ErrUnknown is returned when nobody of that name takes part.
	ErrUnknown = errors.New("nobody of that name is seen")
	// ErrRefused is returned when the other machine does not answer this one, with
	// its reason.
	ErrRefused = errors.New("it refused")
	// ErrNone is returned when the other machine has no secrets.
	ErrNone = errors.New("it has no secrets")
	// ErrNoAnswer is returned when the other machine did not answer in time.
	ErrNoAnswer = errors.New("it did not answer")
)
