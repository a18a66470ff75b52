// Package kubebin makes sure that the programs which hactl runs, and is tested
// with, exist: the Kubernetes components, a kubelet, KWOK, stock etcd.
//
//	nested module (go.mod pins the version) ──go build──▶ <cache>/<set>/<version>-<key>/PROGRAM
//
// A set of programs is built once from source and kept outside the clone. The
// key covers everything that decides what comes out (the Go release and
// target, the flags, go.mod, go.sum and the module's own source), so another
// clone, branch or release never gets the wrong programs, and an unchanged one
// never builds again. A folder appears in the cache whole or not at all: the
// programs are built beside it, asked for their version, and renamed into
// place. One build runs at a time for each cache; a second one waits.
//
// Two other ways exist, only on request: ready programs (HACTL_KUBE_BIN=DIR),
// whose versions are checked, and the official release (KUBE=release), whose
// checksums are.
//
// It uses the standard library alone, so that `go run` of its command starts
// at once in a fresh clone.
package kubebin
