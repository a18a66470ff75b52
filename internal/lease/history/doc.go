// Package history writes down what one party asked of a lease.Lock and what it was
// answered, so that the lock's own history can be judged afterwards: by package
// linear, which looks for an order in which one lock could have said all that.
//
//	Elector ──▶ Recorder ──▶ etcdlock.Lock
//	               │ a line before each call, a line after it
//	               ▼
//	             a file, opened for appending; Tail reads it, also while it grows
//
// A call without a second line was never answered: its caller was killed, and what
// it asked for may have happened, or may still. Times are of the recorder's clock.
//
// What it does not do: follow what a watch tells, which may be late and binds
// nobody, or decide anything. A file that cannot be written holds up no call.
package history
