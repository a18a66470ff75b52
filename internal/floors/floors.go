// Package floors holds the rule of which package may import which, and nothing
// that runs in production. Its test reads every import in the tree.
//
// A package imports only packages on a lower floor, never a neighbour. A
// subpackage stands on its parent's floor and may import its parent, never the
// reverse; two subpackages of one parent are neighbours.
package floors

import (
	"fmt"
	"strings"
)

// Module is the path that all our packages begin with.
const Module = "github.com/hactl/hactl/"

// floors maps the first elements of a package path to its floor. The longest
// match counts.
var floors = map[string]int{
	"cmd": 5, "test": 5, "bench": 6,

	"internal/agent": 4, "internal/dev": 4, "internal/bootstrap": 4,

	"internal/api": 3, "internal/dashboard": 3, "internal/singleton": 3,
	"internal/master": 3, "internal/collect": 3, "internal/preflight": 3,

	"internal/etcdcluster": 2, "internal/lease": 2, "internal/lb": 2, "internal/watchdog": 2,
	"internal/gossip": 2, "internal/token": 2, "internal/rendezvous": 2, "internal/workload": 2, "internal/backup": 2, "internal/kube": 2,

	"internal/supervise": 1, "internal/pki": 1, "internal/config": 1, "internal/process": 1,
	"internal/mesh":        1,
	"internal/kubebin":     1,
	"internal/event":       1,
	"internal/restartlock": 1,

	// The balancer is made of parts that know nothing of each other's business.
	"internal/lb/dataplane": 1, "internal/lb/probe": 1, "internal/lb/pool": 0,

	"internal/status": 0, "internal/health": 0, "internal/backoff": 0, "internal/atomicfile": 0,
	"internal/logging": 0, "internal/layout": 0, "internal/exitcode": 0, "internal/testwait": 0,
	"internal/version": 0, "internal/floors": 0,
}

// Floor returns the floor of the package at path (without Module) and the entry
// of the table that decided it.
func Floor(path string) (floor int, entry string, err error) {
	for p := path; p != ""; p = parent(p) {
		if f, ok := floors[p]; ok {
			return f, p, nil
		}
	}
	return 0, "", fmt.Errorf("%s stands on no floor: add it to the table", path)
}

// Allowed says why the package from must not import the package to, or nil.
func Allowed(from, to string) error {
	ff, fe, err := Floor(from)
	if err != nil {
		return err
	}
	tf, te, err := Floor(to)
	if err != nil {
		return err
	}
	switch {
	case tf < ff:
		return nil
	case fe == te && strings.HasPrefix(from, to+"/"):
		return nil // a subpackage imports its parent
	case fe == te && (fe == "cmd" || fe == "test" || fe == "bench"):
		return nil // the top floor's own tools
	default:
		return fmt.Errorf("%s (floor %d) imports %s (floor %d)", from, ff, to, tf)
	}
}

func parent(p string) string {
	i := strings.LastIndexByte(p, '/')
	if i < 0 {
		return ""
	}
	return p[:i]
}
