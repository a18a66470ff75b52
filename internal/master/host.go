package master

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/kube"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/workload"
)

// The names of a master's units; a singleton's is Podmaster and its name.
const (
	Etcd      = "hactl-etcd"
	APIServer = "kube-apiserver"
	Balancer  = "hactl-lb"
	Agent     = "hactl-agent"
	Podmaster = "podmaster@"
)

// Host is one master: what it is called, where its files lie, and the programs
// that it runs.
type Host struct {
	config   *config.Cluster
	self     config.Master
	layout   layout.Layout
	programs Programs
}

// New returns the master called name. It errs when the configuration has none.
func New(c *config.Cluster, name string, l layout.Layout, p Programs) (*Host, error) {
	self, ok := c.MasterByName(name)
	if !ok {
		return nil, fmt.Errorf("no master %q in the configuration", name)
	}
	return &Host{config: c, self: self, layout: l, programs: p}, nil
}

// WriteFiles makes the master's certificates, kubeconfigs and Kubernetes' own
// files, or keeps what is right. The CA set and the encryption key must be there.
func (h *Host) WriteFiles() error {
	store, err := pki.New(pki.Config{Dir: h.layout.PKI(), Cluster: h.config.Name})
	if err != nil {
		return err
	}
	serviceIP, err := h.config.Kubernetes.ServiceIP()
	if err != nil {
		return err
	}
	leaves := pki.Leaves{
		Self:      pki.Master{Name: h.self.Name, Address: h.self.Address},
		ServiceIP: serviceIP.String(),
		SANs:      h.config.FrontDoor.SANs,
	}
	if host := h.config.FrontDoor.Host; host != "" {
		leaves.SANs = append([]string{host}, leaves.SANs...)
	}
	for _, m := range h.config.Masters {
		leaves.Masters = append(leaves.Masters, pki.Master{Name: m.Name, Address: m.Address})
	}
	if _, err := store.EnsureLeaves(leaves); err != nil {
		return err
	}
	// The master's own programs use its own balancer: one hop less, and the
	// loss of another master's balancer is nothing to them.
	if _, err := store.EnsureKubeconfigs(h.layout.Kubernetes(), "https://"+h.config.BalancerAddress(h.self)); err != nil {
		return err
	}
	_, err = kube.WriteFiles(h.layout, h.config)
	return err
}

// Units returns the master's units in the order of starting; stopping is the
// reverse. etcd starts first and stops last, since all others need it; the agent
// comes last, so that the watchdog is quiet before we stop what it watches.
func (h *Host) Units() ([]workload.Unit, error) {
	apiserver, err := kube.APIServer(h.layout, h.config, h.self.Name)
	if err != nil {
		return nil, err
	}
	units := []workload.Unit{
		h.hactl(Etcd, "etcd member", 30*time.Second, "etcd", "run"),
		{
			Name: APIServer, Description: "Kubernetes API server",
			Exec:   apiserver,
			Notify: true, After: []string{Etcd},
			StopTimeout: kube.StopTimeout(h.config),
		},
		h.hactl(Balancer, "load balancer", 10*time.Second, "lb", "run", "--from-masters"),
	}
	for i, s := range h.config.Singletons {
		u, err := h.singleton(i, s)
		if err != nil {
			return nil, err
		}
		units = append(units, u)
	}
	units = append(units, h.hactl(Agent, "agent: gossip, watchdog, status", 30*time.Second, "agent"))
	for i := range units {
		units[i].LogFile = h.layout.LogFile(units[i].Name)
	}
	return units, nil
}

// etcdStart is how long a member may take until it serves: until enough other
// masters are up, which may be never. A restart would not help.
const etcdStart = 10 * 365 * 24 * time.Hour

// hactl is a unit that runs one of hactl's own commands.
func (h *Host) hactl(name, description string, watchdog time.Duration, command ...string) workload.Unit {
	args := append([]string{h.programs.Hactl}, command...)
	args = append(args, "--name", h.self.Name)
	if h.layout.Root != "" {
		args = append(args, "--root", h.layout.Root)
	}
	u := workload.Unit{
		Name: name, Description: description, Exec: args,
		Notify: true, WatchdogSec: watchdog, StopTimeout: 30 * time.Second,
	}
	if name == Etcd {
		u.StartTimeout = etcdStart
	}
	return u
}

// singleton is the podmaster of the i-th singleton, with the program as its
// child.
func (h *Host) singleton(i int, s config.Singleton) (workload.Unit, error) {
	command, err := kube.Singleton(h.layout, h.config, h.self.Name, s.Name)
	if err != nil {
		return workload.Unit{}, err
	}
	args := []string{
		h.programs.Podmaster,
		"--etcd-servers", strings.Join(h.etcdServers(), ","),
		"--etcd-cafile", filepath.Join(h.layout.PKI(), "etcd/ca.crt"),
		"--etcd-certfile", filepath.Join(h.layout.PKI(), "etcd/healthcheck-client.crt"),
		"--etcd-keyfile", filepath.Join(h.layout.PKI(), "etcd/healthcheck-client.key"),
		"--key", s.Name,
		"--whoami", h.self.Name,
		"--ttl", s.TTL.String(),
		"--listen-metrics", h.config.PodmasterMetricsAddress(h.self, i),
	}
	if url := h.healthURL(s); url != "" {
		args = append(args, "--health-url", url)
		if len(s.Command) == 0 {
			// On the loopback address, with a certificate that it makes itself.
			args = append(args, "--health-insecure")
		}
	}
	return workload.Unit{
		Name: Podmaster + s.Name, Description: s.Name + ", on one master at a time",
		Exec:   append(append(args, "--"), command...),
		Notify: true,
		// The dead man's switch: pinged only by a renewal, it must fire before
		// another candidate may take over.
		WatchdogSec: s.TTL - s.TTL/6,
		After:       []string{Balancer}, StopTimeout: 30 * time.Second,
	}, nil
}

// healthURL is where the singleton tells how it is; empty when nobody knows.
func (h *Host) healthURL(s config.Singleton) string {
	switch {
	case s.HealthURL != "":
		return s.HealthURL
	case len(s.Command) > 0:
		return ""
	case s.Name == config.KubeScheduler:
		return kube.SchedulerHealth(h.self).Alone
	case s.Name == config.KubeControllerManager:
		return kube.ControllerManagerHealth(h.self).Alone
	default:
		return ""
	}
}

// etcdServers lists all members, the master's own first.
func (h *Host) etcdServers() []string {
	urls := []string{h.self.EtcdClientURL()}
	for _, m := range h.config.Masters {
		if m.Name != h.self.Name {
			urls = append(urls, m.EtcdClientURL())
		}
	}
	return urls
}

// FrontDoor is one more balancer, as a worker runs it: in front of all API
// servers, without a master's secrets.
func FrontDoor(l layout.Layout, p Programs, listen, metrics string) workload.Unit {
	args := []string{p.Hactl, "lb", "run"}
	if l.Root != "" {
		args = append(args, "--root", l.Root)
	}
	return workload.Unit{
		Name: Balancer, Description: "load balancer",
		Exec:   append(args, "--from-masters", "--listen", listen, "--listen-metrics", metrics),
		Notify: true, WatchdogSec: 10 * time.Second, StopTimeout: 30 * time.Second,
		LogFile: l.LogFile(Balancer),
	}
}
