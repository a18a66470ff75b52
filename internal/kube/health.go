package kube

import (
	"net"
	"strconv"

	"github.com/hactl/hactl/internal/config"
)

// Health says where a component tells how it is: HTTPS addresses that answer
// 200 without credentials when all is well.
//
// The API servers' certificate is signed by the cluster's CA. The other two
// serve a certificate that they made themselves, on the master's loopback
// address, so there is nothing to verify it against.
type Health struct {
	Live  string // red: only a restart helps
	Ready string // red: send it no requests
	// Alone is Live without what the component depends on: it stays green when
	// only the dependency is sick. Equal to Live where there is no difference.
	Alone string
}

// APIServerHealth is where m's kube-apiserver tells how it is.
func APIServerHealth(c *config.Cluster, m config.Master) Health {
	base := "https://" + c.APIServerAddress(m)
	return Health{Live: base + "/livez", Ready: base + "/readyz", Alone: base + "/livez?exclude=etcd"}
}

// SchedulerHealth is where a kube-scheduler on m tells how it is.
func SchedulerHealth(m config.Master) Health {
	base := local(m, config.SchedulerPort)
	return Health{Live: base + "/livez", Ready: base + "/readyz", Alone: base + "/livez"}
}

// ControllerManagerHealth is where a kube-controller-manager on m tells how it
// is. It has one health path only.
func ControllerManagerHealth(m config.Master) Health {
	base := local(m, config.ControllerManagerPort)
	return Health{Live: base + "/healthz", Ready: base + "/healthz", Alone: base + "/healthz"}
}

func local(m config.Master, port int) string {
	return "https://" + net.JoinHostPort(m.MetricsAddress(), strconv.Itoa(port))
}
