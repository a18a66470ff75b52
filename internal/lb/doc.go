// Package lb is a TCP load balancer for API servers that nobody notices failing
// over.
//
//	clients ──▶ listeners ──▶ dataplane.Engine ──▶ backends
//	                              │    ▲
//	               Router: Pick,  │    │ Cut, CloseQuiet
//	               Trouble        ▼    │
//	 Source ──list──▶ Balancer ── pool.Pool, pool.Health ◀── probe.Prober (one a backend)
//	 admin socket ──drain──▶ │
//	                         └──▶ status, metrics, last good list on disk
//
// TLS is passed through. The parts: dataplane moves bytes and knows nothing of
// health; pool holds the decisions and does nothing; probe asks; Balancer, here,
// joins them.
//
// Invariants:
//
//   - Old connections are reset only when they would hang: their backend has been
//     silent, and another one is ready.
//   - A list that is wrong in one line changes nothing at all.
//   - When nothing is ready, everything is tried.
//   - Nothing here is on the way of a byte: a stuck control loop, a full disk or
//     an unanswered probe delays no connection.
//
// What it does not do: terminate TLS, balance requests within one connection,
// or decide who is a member. See DESIGN.md.
package lb
