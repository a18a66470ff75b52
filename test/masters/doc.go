// Package masters holds tests of real masters, in the lab of systemd hosts
// (build tag lab): the commands that a user has, on real Kubernetes components.
// `make build kube` comes first, as for test/e2e.
package masters
