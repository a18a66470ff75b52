// Package dataplane moves bytes between clients and backends.
//
//	listener ─▶ accept ─▶ [ClientHello complete?] ─▶ Router.Pick ─▶ connect ─▶ send hello ─▶ first byte ─▶ copy/splice
//	                                                     ▲                 refused, reset, silent │
//	                                                     └──────── the same hello, another backend ┘
//
// A few loops, each a goroutine that never blocks for long, wait on epoll and do
// everything else without waiting: no goroutine and no buffer belongs to a
// connection. What is kept for an idle connection is one small struct and its
// two sockets.
//
// Invariants:
//
//   - All of a connection's fields are touched by its loop only. Others
//     post a function into the loop's mailbox.
//   - Before a backend's first byte was seen, at most MaxHello bytes of the
//     client are kept and can be sent again. After it nothing is ever repeated.
//   - In hello mode only the ClientHello itself goes out before the first byte;
//     whatever follows it (early data) waits, so it reaches one backend only.
//   - A direction is read only when what was read before has been written:
//     a slow reader costs a bounded amount.
//   - An event for a closed connection is recognised by its generation.
//
// What it does not know: health, configuration, Kubernetes, TLS beyond the
// length of a ClientHello. Where connections go is the Router's business.
package dataplane
