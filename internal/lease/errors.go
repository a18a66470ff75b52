package lease

import "errors"

var (
	// ErrLost ends a term that is not ours any more, or about which we cannot be
	// sure in time. It is the cause of the term's context, and Run returns it
	// when Config.Once is set.
	ErrLost = errors.New("the lease is lost")
	// ErrStuck is returned by Run when lead had not returned at the term's
	// deadline. The caller must end the process: what lead runs may still work.
	ErrStuck = errors.New("the work did not stop by the term's deadline")
	// ErrYield is returned by a lead that stopped its work and wants another
	// candidate to go on. Run releases the lock and stays behind: see
	// Config.YieldFor. Wrap it in a *Yield to name the candidate.
	ErrYield = errors.New("the term is handed over")
	// ErrUnconfirmed is returned by a lead that cannot tell whether its work has
	// stopped. Run does not release the lock: the others wait for the full TTL.
	ErrUnconfirmed = errors.New("the work's stop is not confirmed")
	// ErrChanged is returned by Lock.Take when the record is not the one that the
	// candidate saw. Nothing was taken.
	ErrChanged = errors.New("the record changed meanwhile")
	// ErrNotTaken is wrapped by Run's error when the lock was not ours within
	// Config.Wait. Nothing was started.
	ErrNotTaken = errors.New("the lock was not taken in time")
	// ErrStopped is the cause of a term's context when Run's own context ended.
	ErrStopped = errors.New("the elector was stopped")
)

// Yield is an ErrYield with the candidate that should go on.
type Yield struct {
	To     string // a candidate's name; empty: any
	Reason string // for the log and the record
}

func (y *Yield) Error() string {
	if y.To == "" {
		return "hand over: " + y.Reason
	}
	return "hand over to " + y.To + ": " + y.Reason
}

// paused is the Yield of a pause: no hand-over, for nobody is to go on.
var paused = &Yield{Reason: "paused"}

// Is makes errors.Is(y, ErrYield) true.
func (y *Yield) Is(target error) bool { return target == ErrYield }
