// Package lease elects, again and again, the one party that may do some work, and
// ends its reign in time: a Term is a context that ends before anybody else may
// begin, whatever is late, frozen, cut off or killed.
//
//	waiting ── taken ──▶ holding ── released ──▶ waiting
//	   ▲                    │ no renewal answered in time: the term's context ends at
//	   │                    │ sent + TTL − StopTime, the work is dead by sent + TTL
//	   └── work dead ── stopping ── work alive ──▶ ErrStuck: the process must exit
//
// What holds:
//
//   - A deadline counts from when a renewal was sent, on a clock that runs while
//     the machine sleeps. No wall clock is read and no two clocks are compared.
//   - A candidate takes a lock only after it has watched it stand still for a TTL
//     on its own clock, in one transaction that fails if it moved meanwhile.
//   - Tokens only grow, so that a receiver can refuse what is old.
//   - The lock is released only when the work is known to have stopped.
//
// The package knows a Lock and a Clock; etcdlock is the Lock on etcd, leasetest
// one in memory and the suite that both pass. It stops no process by itself:
// internal/singleton does, with a guard beside it. DESIGN.md has the argument, the
// sums, and what the decisions cost.
package lease
