// Package layout says where everything of a master lies. All of it can be moved
// under one folder (--root), which is how several masters live on one machine.
package layout

import (
	"os"
	"path/filepath"
)

// Layout is the file layout of one master. The zero value is a real machine's:
// everything at its usual place under "/".
type Layout struct {
	Root string // prefix of every path; empty means "/"
}

func (l Layout) path(elem ...string) string {
	root := l.Root
	if root == "" {
		root = "/"
	}
	return filepath.Join(append([]string{root}, elem...)...)
}

// Under returns where an absolute path of the configuration, such as the token
// file's, lies on this master.
func (l Layout) Under(path string) string { return l.path(path) }

// UnitsFile lists the units that the child supervisor runs; on a real master
// systemd's unit files take its place.
func (l Layout) UnitsFile() string { return l.path("var/lib/hactl/units.json") }

// ConfigFile is the cluster's configuration, the same on every master.
func (l Layout) ConfigFile() string { return l.path("etc/hactl/cluster.yaml") }

// ConfigDropIns holds *.yaml files merged over ConfigFile in the order of their names.
func (l Layout) ConfigDropIns() string { return l.path("etc/hactl/cluster.yaml.d") }

// TokenFile is the default place of the shared secret.
func (l Layout) TokenFile() string { return l.path("etc/hactl/token") }

// State is hactl's own state, 0700.
func (l Layout) State() string { return l.path("var/lib/hactl") }

// EtcdData is the etcd member's data folder.
func (l Layout) EtcdData() string { return l.path("var/lib/hactl/etcd") }

// EventsFile is what was decided and done on this master.
func (l Layout) EventsFile() string { return l.path("var/lib/hactl/events.jsonl") }

// BackendsFile is the load balancer's last good list of backends.
func (l Layout) BackendsFile() string { return l.path("var/lib/hactl/lb/backends.json") }

// DrainedFile says which backends of a load balancer whose list is on its command line are drained.
func (l Layout) DrainedFile() string { return l.path("var/lib/hactl/lb/drained.json") }

// Run holds sockets and pid files; it is empty after a boot.
func (l Layout) Run() string { return l.path("run/hactl") }

// AgentSocket is the agent's local API.
func (l Layout) AgentSocket() string { return l.path("run/hactl/agent.sock") }

// LBAdminSocket is the load balancer's admin API.
func (l Layout) LBAdminSocket() string { return l.path("run/hactl/lb.sock") }

// SupervisorSocket is where the child supervisor (not systemd) is steered.
func (l Layout) SupervisorSocket() string { return l.path("run/hactl/supervisor.sock") }

// NotifySocket is where units send their sd_notify states when the child
// supervisor runs them.
func (l Layout) NotifySocket() string { return l.path("run/hactl/notify.sock") }

// Logs holds one log file a process.
func (l Layout) Logs() string { return l.path("var/log/hactl") }

// LogFile is the log of one unit, named without ".service".
func (l Layout) LogFile(unit string) string { return l.path("var/log/hactl", unit+".log") }

// Kubernetes is the folder of kubeconfigs and Kubernetes' own files.
func (l Layout) Kubernetes() string { return l.path("etc/kubernetes") }

// PKI is the folder of the certificates; keys 0600, folders 0700.
func (l Layout) PKI() string { return l.path("etc/kubernetes/pki") }

// Kubeconfig is the kubeconfig of "admin", "scheduler", "controller-manager", …
func (l Layout) Kubeconfig(who string) string { return l.path("etc/kubernetes", who+".conf") }

// MkdirAll makes the folders that every master has: state and keys 0700,
// the others 0755.
func (l Layout) MkdirAll() error {
	for _, d := range []struct {
		path string
		perm os.FileMode
	}{
		{filepath.Dir(l.ConfigFile()), 0o755},
		{l.ConfigDropIns(), 0o755},
		{l.Kubernetes(), 0o755},
		{l.PKI(), 0o700},
		{l.State(), 0o700},
		{l.Run(), 0o755},
		{l.Logs(), 0o750},
	} {
		if err := os.MkdirAll(d.path, d.perm); err != nil {
			return err
		}
	}
	return nil
}
