// Package pool decides which backend a new connection goes to, what a backend's
// probes mean, and how many old connections should move. It is pure: it starts
// no goroutine, reads no clock and does no I/O.
//
//	probe results ─▶ Health.Observe ─▶ Verdict ─┐
//	admin drain ────────────────────────────────┼─▶ Pool.Set ─▶ Pool.Pick (lock-free, from any thread)
//	list of backends ───────────────────────────┘
//
// Words: a ready backend gets new connections; a draining one gets none and
// keeps its old ones; an ejected one gets none, and if it was silent its old
// ones are cut, because they would hang.
package pool
