package kube

import (
	"fmt"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
)

// Singleton returns the command line of the named singleton on master: of
// kube-scheduler or kube-controller-manager as Scheduler and
// ControllerManager say, of any other its own command.
func Singleton(l layout.Layout, c *config.Cluster, master, name string) ([]string, error) {
	switch name {
	case config.KubeScheduler:
		return Scheduler(l, c, master)
	case config.KubeControllerManager:
		return ControllerManager(l, c, master)
	}
	for _, s := range c.Singletons {
		if s.Name == name && len(s.Command) > 0 {
			return append([]string(nil), s.Command...), nil
		}
	}
	return nil, fmt.Errorf("command line of %s: no singleton with that name and a command in the configuration", name)
}

// Scheduler returns the command line of kube-scheduler on master. It does not
// elect a leader: podmaster runs it once in the cluster.
func Scheduler(l layout.Layout, c *config.Cluster, master string) ([]string, error) {
	h, err := on(l, c, master, config.KubeScheduler)
	if err != nil {
		return nil, err
	}
	var f flags
	h.singleton(&f, "scheduler", config.SchedulerPort)
	f.override(extraArgs(c, config.KubeScheduler))
	return f.argv(h.program(config.KubeScheduler)), nil
}

// ControllerManager returns the command line of kube-controller-manager on
// master. It does not elect a leader: podmaster runs it once in the cluster.
func ControllerManager(l layout.Layout, c *config.Cluster, master string) ([]string, error) {
	h, err := on(l, c, master, config.KubeControllerManager)
	if err != nil {
		return nil, err
	}
	var f flags
	h.singleton(&f, "controller-manager", config.ControllerManagerPort)
	// All that are on by default, and the two that bootstrap tokens need, with
	// which workers join.
	f.list("controllers", "*", "bootstrapsigner", "tokencleaner")
	f.bool("use-service-account-credentials", true)
	f.set("cluster-name", c.Name)
	f.set("cluster-cidr", c.Kubernetes.ClusterCIDR)
	f.bool("allocate-node-cidrs", true)
	f.set("service-cluster-ip-range", c.Kubernetes.ServiceCIDR)
	f.set("root-ca-file", h.pki("ca.crt"))
	f.set("service-account-private-key-file", h.pki("sa.key"))
	f.set("cluster-signing-cert-file", h.pki("ca.crt"))
	f.set("cluster-signing-key-file", h.pki("ca.key"))
	// The controller manager makes this folder, so it must move with the rest.
	f.set("flex-volume-plugin-dir", h.Under("/usr/libexec/kubernetes/kubelet-plugins/volume/exec"))
	f.int("terminated-pod-gc-threshold", 1000) // kube's default of 12500 pods fills etcd with the dead
	f.override(extraArgs(c, config.KubeControllerManager))
	return f.argv(h.program(config.KubeControllerManager)), nil
}

// singleton sets what both have: who they are, where they listen, and that
// they do not elect.
func (h host) singleton(f *flags, who string, port int) {
	kubeconfig := h.Kubeconfig(who)
	f.set("kubeconfig", kubeconfig)
	f.set("authentication-kubeconfig", kubeconfig)
	f.set("authorization-kubeconfig", kubeconfig)
	// With both files at hand nothing is looked up in the cluster at the start,
	// so a take-over does not wait for it.
	f.set("client-ca-file", h.pki("ca.crt"))
	f.set("requestheader-client-ca-file", h.pki("front-proxy-ca.crt"))
	f.set("requestheader-allowed-names", "front-proxy-client")
	f.bool("leader-elect", false)
	f.set("bind-address", h.master.MetricsAddress())
	f.int("secure-port", port)
	f.tls()
}

func extraArgs(c *config.Cluster, name string) map[string]string {
	for _, s := range c.Singletons {
		if s.Name == name {
			return s.ExtraArgs
		}
	}
	return nil
}
