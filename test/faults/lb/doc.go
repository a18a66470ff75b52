// Package lb breaks real API servers behind `hactl lb run`, and attacks it, while
// clients watch.
//
//	make faults                                            each fault, briefly
//	HACTL_FAULT_LONG=1 go test -tags faults -timeout 40m …  as long as HAProxy needs to notice too, and HAProxy
//	                                                        beside it with the settings of the kubeadm guide
//	go test -tags faults -run 'TestFaults/SIGSTOP' …        one fault
//
// Everything runs in a network namespace of its own: real kube-apiservers on
// 127.0.4.1 to .3 in front of a real etcd, the balancer on 127.0.5.1, HAProxy on
// 127.0.5.2, attackers on 127.0.6.x, servers that misbehave on 127.0.7.x. So addresses are fixed, packets can be
// dropped, and nobody else's ports are in the way.
//
// Judged are counts and outcomes: failed requests, connections that were cut,
// what memory was used. Times are printed; an overloaded machine changes them. The
// one exception is how much slower others become under attack: it is judged as the
// ratio to a second balancer that nobody attacks, watched by the same clients at the
// same time (comparison).
package lb
