package systemd

import (
	"path/filepath"
	"strings"

	"github.com/hactl/hactl/internal/layout"
)

// Sandbox says what a unit may do beyond computing and talking TCP. The zero
// value may write nothing.
type Sandbox struct {
	// ReadWrite are the folders it may write; they need not exist yet.
	ReadWrite []string
	// SystemBus: it calls systemd over D-Bus, and so needs to be the host's root
	// and to see the processes of the other units.
	SystemBus bool
	// Children: it starts programs, which must be able to write where it may, and
	// of which one that is killed for memory must not end the unit.
	Children bool
	// Chown: its log rotation gives the new file the old one's owner.
	Chown bool
	// Nice is the scheduling priority, -20 (first) to 19; 0: the usual one.
	Nice int
	// OOMScoreAdjust is how soon it is killed when memory is short, -1000 (never)
	// to 1000.
	OOMScoreAdjust int
	// WorkingDir is where it stands; empty: in the root, which it cannot write.
	WorkingDir string
	// SocketUnit names the socket unit that hands over its listeners; empty: none.
	SocketUnit string
	// ReloadSignal is what `systemctl reload` sends to the main process, as kill(1)
	// names it; empty: the unit cannot be reloaded.
	ReloadSignal string
}

// The names of the units whose sandbox is known.
const (
	unitEtcd      = "hactl-etcd"
	unitAPIServer = "kube-apiserver"
	unitBalancer  = "hactl-lb"
	unitAgent     = "hactl-agent"
	podmasters    = "podmaster@"
)

// SandboxOf returns what the unit of that name needs on a master with the given
// layout. A unit that is not known may write its logs.
func SandboxOf(l layout.Layout, unit string) Sandbox {
	run, logs := l.Run(), l.Logs()
	switch {
	case unit == unitEtcd:
		// etcd first: everything waits for its disk. It is never the one to kill.
		// Before it listens on its abstract socket it removes a file of that name,
		// which a read-only folder refuses even where there is none.
		return Sandbox{ReadWrite: []string{l.State(), run, logs}, WorkingDir: l.State(), Nice: -10, OOMScoreAdjust: -900}
	case unit == unitAPIServer:
		return Sandbox{ReadWrite: []string{logs}, Chown: true, OOMScoreAdjust: -800}
	case unit == unitBalancer:
		// It starts its own successor, with the program that is on the disk then.
		return Sandbox{ReadWrite: []string{filepath.Dir(l.BackendsFile()), run, logs}, Nice: -5, OOMScoreAdjust: -900, ReloadSignal: "USR2"}
	case unit == unitAgent:
		return Sandbox{
			ReadWrite: []string{filepath.Dir(l.ConfigFile()), l.Kubernetes(), l.State(), run, logs, "/var/backups/hactl"},
			SystemBus: true, OOMScoreAdjust: -900,
		}
	case strings.HasPrefix(unit, podmasters):
		return Sandbox{ReadWrite: []string{run, logs}, Children: true, OOMScoreAdjust: -700}
	default:
		return Sandbox{ReadWrite: []string{logs}}
	}
}
