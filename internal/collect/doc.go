// Package collect asks every part of a cluster how it is and makes one
// status.Report of the answers.
//
//	etcd members ── API servers ── balancers ── agents      each asked by itself, all at once
//	      └──────────────┴──────┬─────┴───────────┘
//	                        Collector ──▶ status.Report ──▶ status.Judge
//	                            └── this machine's sockets and files, where its agent is silent
//
// Invariants:
//
//   - No part is needed to ask another: the report is made without the local
//     agent, without etcd's quorum, without any API server.
//   - No call lasts longer than CallTimeout, no report longer than Timeout: what hangs
//     has not answered. One that hangs costs the others nothing.
//   - Every connection is TLS and verified; what could not be asked is Unknown with
//     its reason, never left out.
//
// It changes nothing anywhere. The same gathering of what one machine knows
// about itself (Local, Gather) serves the agent's GET /v1/node.
package collect
