// Package etcdlock is lease.Lock on an etcd cluster.
//
//	/hactl/singletons/NAME/term              who holds it; written at the take and at the clean end only
//	                       beat              written by every renewal
//	                       order             written by people: paused, or hand over to …
//	                       waiting/WHO       who campaigns; on an etcd lease, so it goes with its process
//
// The token is the revision of the transaction that took the lock, which is also
// the modification revision of term for as long as the term stands. So one
// comparison guards everything:
//
//	take     if term, beat and order are as seen   → put term, put beat
//	renew    if mod_revision(term) = token          → put beat
//	release  if mod_revision(term) = token          → put term (ended)
//
// and anybody else who writes to this etcd can guard with it as well. The lock is
// not bound to an etcd lease: an etcd leader that was deposed can revoke leases
// or answer keep-alives, and a new one extends them all.
//
// Each call goes to the endpoint that answered last, and, when no answer comes
// within Config.HedgeAfter, to the others as well; every call is guarded, so a
// second copy does no harm. One frozen or cut-off member costs HedgeAfter, once.
package etcdlock
