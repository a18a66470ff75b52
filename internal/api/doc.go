// Package api is the agent's API: what one master tells the others and the CLI.
//
//	CLI, other masters ──TLS 1.3, client certificate with O=hactl:masters──▶ ┐
//	root on this master ──────────────unix socket, 0600────────────────────▶ ├─▶ one mux
//	                                                                         ┘
//	GET /v1/node     this master: processes, balancer, certificates, gossip, watchdog, clock
//	GET /v1/status   the whole cluster, as this master sees it (if the agent offers it)
//	GET /livez /readyz /metrics
//
// Invariants:
//
//   - Over the network nothing is answered before the client has shown a certificate
//     of the etcd CA that names the organization hactl:masters. That CA also signs
//     clients that only may talk to etcd, so the CA alone is not enough.
//   - Nobody can hold a request open: reading, answering and idling have limits, and so
//     have a request's header, its body and, on the client's side, the answer.
//   - Certificates are read again when their files change, so that a renewal
//     needs no restart.
//
// The package knows no part of a master: it is given functions. It changes
// nothing; what changes something goes through other doors.
package api
