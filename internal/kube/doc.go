// Package kube turns the cluster's configuration into the command lines of
// kube-apiserver, kube-scheduler and kube-controller-manager, and into the
// files that those name.
//
//	cluster.yaml + layout + master ──▶ argv           (pure: no clock, no disk)
//	                               └─▶ WriteFiles     (etc/kubernetes/*.yaml)
//
// The flags are hardened as the CIS Kubernetes benchmark asks, with these
// departures, each for a reason:
//
//   - Anonymous requests are not off but limited to /livez, /readyz and
//     /healthz, by an AuthenticationConfiguration: balancers probe them.
//   - The scheduler and the controller manager listen on the master's loopback
//     address with a certificate that they make themselves; only the health
//     paths answer without credentials.
//   - privileged containers are allowed: network plugins need them. Limit them
//     by Pod Security labels on namespaces.
//
// An AuthenticationConfiguration and --oidc-* flags exclude one another, so
// apiServer.oidc is written into the same file, and --anonymous-auth and
// --oidc-* are refused in extraArgs.
//
// extraArgs override every flag of ours, even one that safety depends on: a
// cluster whose etcd-servers, leader-elect or authorization-mode was overridden
// is its owner's. enable-admission-plugins and other lists are replaced, not
// extended.
//
// # etcd-servers
//
// See apiserver.go for which members an API server talks to, and why.
package kube
