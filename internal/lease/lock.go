package lease

import (
	"context"
	"time"
)

// Lock is a place where one candidate's claim can stand. internal/lease/etcdlock
// has the one on etcd; leasetest one in memory.
type Lock interface {
	// Read returns the record as it is now (linearizable).
	Read(ctx context.Context) (Record, error)
	// Watch sends each newer record than after, and closes the channel when it
	// cannot go on or ctx ends. It may skip records that a newer one replaced.
	Watch(ctx context.Context, after Record) <-chan Record
	// Take writes the claim if the record is still exactly seen (Token, Beat and
	// Order), in one step. It returns ErrChanged if it is not; after any other
	// error the claim may or may not stand, and a later Read tells.
	Take(ctx context.Context, seen Record, c Claim) (Held, error)
}

// Held is a lock that was taken.
type Held interface {
	// Token is the term's fencing token: greater than every earlier term's.
	Token() int64
	// Renew writes the next heartbeat if the term still stands. It returns
	// ErrLost if it does not; after any other error it may or may not be written.
	Renew(ctx context.Context) error
	// Release ends the term cleanly: its work has stopped. It returns nil also
	// when the term was not ours any more.
	Release(ctx context.Context, r Release) error
}

// Claim is what a candidate writes when it takes the lock.
type Claim struct {
	ID       string        // of this elector's run, unique; tells a claim of ours whose answer was lost
	Holder   string        // the candidate's name
	Address  string        // where the candidate is, for people
	Priority int           // the candidate's priority
	TTL      time.Duration // how long the term stands without a renewal
	// LockDelay is what others wait beyond the TTL after an unconfirmed end: how
	// long the work may go on by itself when nobody steers it.
	LockDelay time.Duration
}

// Release is what a holder leaves behind at a clean end.
type Release struct {
	Next   string // the candidate that should take first; empty: any
	Reason string
}

// Record is the state of the lock as one read or one change shows it.
type Record struct {
	Rev   int64 // of the store; newer records have greater ones
	Token int64 // of the term, ended or not; 0: never taken, or the record is gone
	Beat  int64 // changes with every renewal
	Order int64 // changes with every order

	Ended   bool // the term ended cleanly
	Claim        // of the term, ended or not
	Release      // valid when Ended

	Paused bool   // an order: nobody shall hold it
	MoveTo string // an order: hand over to this candidate; empty: none
}

// free reports that no term stands: never taken, or ended cleanly.
func (r Record) free() bool { return r.Token == 0 || r.Ended }
