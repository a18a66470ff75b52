// Package pki makes and keeps the keys and certificates of a cluster: one set
// of CAs for all masters, and each master's own leaves and kubeconfigs.
//
//	ca ─────────────── apiserver · apiserver-kubelet-client · admin, scheduler, controller-manager .conf
//	etcd/ca ────────── etcd/server · etcd/peer · etcd/healthcheck-client · apiserver-etcd-client
//	        └───────── hactl/agent · hactl/admin            (O=hactl:masters)
//	front-proxy-ca ─── front-proxy-client
//	sa.key, sa.pub ─── service account tokens
//	hactl/gossip.key ─ the masters' gossip
//
// What holds:
//
//   - A CA is made once. If a part of the set is there and another is missing or
//     broken, Ensure refuses and names the file: a second CA would split the
//     cluster in two that do not trust each other.
//   - Ensure is idempotent: what is good stays byte for byte; what is missing,
//     expired, soon expiring, signed by another CA or made out to other names is
//     issued again. A crash at any write leaves a state that the next run repairs.
//   - A renewal keeps the leaf's key, so it replaces one file, atomically: a
//     program that starts at any moment finds a pair that fits.
//   - Everything is signed on the spot with the CA's key. Nothing that expired
//     while the machine was off stands in the way of its own renewal.
//   - hactl's own certificates are signed by etcd's CA, not by Kubernetes' one:
//     Kubernetes signs client certificates with the latter for whoever may
//     approve signing requests, who could so become a master.
//
// What it does not do: it knows no Kubernetes API, sends nothing over the
// network, and reads no configuration.
package pki
