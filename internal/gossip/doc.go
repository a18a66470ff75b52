// Package gossip lets the masters see each other: who seems alive, and what each
// says of itself (its addresses, its version, whether its API server is ready).
//
//	m1 ◀──── encrypted UDP and TCP, port 7946 ────▶ m2, m3 …
//	 │
//	 └─▶ Peers() : the latest picture, and a channel that closes when it changes
//
// It is a hint, and never a source of truth. A message may be late, lost or old,
// and a frozen machine believes what it believed. Nothing may remove a member,
// move a lease or eject a balancer's backend because gossip says so: etcd's
// membership is the truth, the lease decides who acts, probes decide where
// traffic goes.
//
// What holds:
//
//   - Only who has the cluster's gossip key takes part: every message is encrypted and
//     authenticated (AES-GCM), with the cluster's name as its label.
//   - A configured peer that is not seen is tried again for as long as it takes.
//     The library underneath (memberlist) never rejoins after a partition.
//   - A machine that returns under its name with another address is accepted when
//     the old one has been dead for ReclaimAfter. Two that live under one name
//     are a conflict, which is logged once and shown.
//   - A dead peer of 3 masters is seen as such after about 3 s, suspected earlier.
package gossip
