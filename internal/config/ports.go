package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// The ports that are the same in every cluster. The front door's, the API
// servers' and the agents' are in the configuration.
const (
	EtcdClientPort        = 2379 // TLS
	EtcdPeerPort          = 2380 // TLS
	EtcdMetricsPort       = 2381 // plain, on MetricsAddress only
	BalancerMetricsPort   = 9445 // plain, on MetricsAddress only
	AgentMetricsPort      = 9446 // plain, on MetricsAddress only
	PodmasterMetricsPort  = 9450 // plain, on MetricsAddress only; plus the singleton's index
	ControllerManagerPort = 10257
	SchedulerPort         = 10259
)

// MetricsAddress is where a master with the given address listens for what may
// not leave the machine: the address itself when it is a loopback one (several
// masters on one machine), else 127.0.0.1.
func MetricsAddress(address string) string {
	if a, err := netip.ParseAddr(address); err == nil && a.IsLoopback() {
		return address
	}
	return "127.0.0.1"
}

// hostPort joins an address and a port; IPv6 gets its brackets.
func hostPort(address string, port int) string { return net.JoinHostPort(address, strconv.Itoa(port)) }

// MetricsAddress is the package's MetricsAddress for m.
func (m Master) MetricsAddress() string { return MetricsAddress(m.Address) }

// EtcdClientURL is where m's etcd member serves clients.
func (m Master) EtcdClientURL() string { return "https://" + hostPort(m.Address, EtcdClientPort) }

// EtcdPeerURL is where m's etcd member talks to the other members.
func (m Master) EtcdPeerURL() string { return "https://" + hostPort(m.Address, EtcdPeerPort) }

// APIServerAddress is host:port of m's kube-apiserver.
func (c *Cluster) APIServerAddress(m Master) string { return hostPort(m.Address, c.APIServer.Port) }

// BalancerAddress is host:port of m's own load balancer.
func (c *Cluster) BalancerAddress(m Master) string { return hostPort(m.Address, c.FrontDoor.Port) }

// AgentAddress is host:port of m's agent API (mTLS).
func (c *Cluster) AgentAddress(m Master) string { return hostPort(m.Address, c.Agent.Port) }

// GossipAddress is host:port of m's gossip, TCP and UDP.
func (c *Cluster) GossipAddress(m Master) string { return hostPort(m.Address, c.Agent.GossipPort) }

// JoinAddress is host:port where m meets other machines that hold the token, TCP
// and UDP.
func (c *Cluster) JoinAddress(m Master) string { return hostPort(m.Address, c.Agent.JoinPort) }

// PodmasterMetricsAddress is host:port of the metrics of the podmaster of
// Singletons[index] on m.
func (c *Cluster) PodmasterMetricsAddress(m Master, index int) string {
	return hostPort(m.MetricsAddress(), PodmasterMetricsPort+index)
}

// EtcdClientURLs lists EtcdClientURL of all masters, in the file's order.
func (c *Cluster) EtcdClientURLs() []string {
	urls := make([]string, len(c.Masters))
	for i, m := range c.Masters {
		urls[i] = m.EtcdClientURL()
	}
	return urls
}

// FrontDoorAddress is host:port that clients use. Without frontDoor.host it is
// the balancer of m, the master that asks.
func (c *Cluster) FrontDoorAddress(m Master) string {
	if c.FrontDoor.Host != "" {
		return hostPort(c.FrontDoor.Host, c.FrontDoor.Port)
	}
	return c.BalancerAddress(m)
}

// MasterByName finds a master.
func (c *Cluster) MasterByName(name string) (Master, bool) {
	for _, m := range c.Masters {
		if m.Name == name {
			return m, true
		}
	}
	return Master{}, false
}

// ServiceIP is the first address of the services' range: the cluster-internal
// address of the API servers, and a name in their certificates.
func (k Kubernetes) ServiceIP() (netip.Addr, error) {
	p, err := netip.ParsePrefix(k.ServiceCIDR)
	if err != nil {
		return netip.Addr{}, &FieldError{Path: "kubernetes.serviceCIDR", Value: k.ServiceCIDR, Err: err}
	}
	return p.Masked().Addr().Next(), nil
}

// Port is something that a master listens on.
type Port struct {
	Address string // IP address; the masters' own or MetricsAddress
	Port    int
	User    string // who listens: a unit, in words
	Path    string // the field that sets Port; empty for a fixed one
}

// String is host:port.
func (p Port) String() string { return hostPort(p.Address, p.Port) }

// Ports lists everything that m listens on, in a fixed order. A port that is
// out of range is listed too.
func (c *Cluster) Ports(m Master) []Port {
	x, local := m.Address, m.MetricsAddress()
	ports := []Port{
		{x, c.FrontDoor.Port, "the load balancer", "frontDoor.port"},
		{x, c.APIServer.Port, "kube-apiserver", "apiServer.port"},
		{x, c.Agent.Port, "the agent's API", "agent.port"},
		{x, c.Agent.GossipPort, "gossip", "agent.gossipPort"},
		{x, c.Agent.JoinPort, "the machines with the token", "agent.joinPort"},
		{x, EtcdClientPort, "etcd, clients", ""},
		{x, EtcdPeerPort, "etcd, peers", ""},
		{local, EtcdMetricsPort, "etcd, metrics", ""},
		{local, BalancerMetricsPort, "the load balancer's metrics", ""},
		{local, AgentMetricsPort, "the agent's metrics", ""},
		{local, ControllerManagerPort, KubeControllerManager, ""},
		{local, SchedulerPort, KubeScheduler, ""},
	}
	for i, s := range c.Singletons {
		ports = append(ports, Port{local, PodmasterMetricsPort + i, "podmaster@" + s.Name, fmt.Sprintf("singletons[%d]", i)})
	}
	return ports
}
