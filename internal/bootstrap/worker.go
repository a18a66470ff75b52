package bootstrap

import (
	"net"
	"strconv"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/workload/systemd"
)

// RenderWorker returns the unit files of a balancer on a machine that is no
// master, listening on listen (IP:PORT; an empty host is every address). It needs
// the configuration, the Kubernetes CA's certificate and no secret.
func RenderWorker(c *config.Cluster, l layout.Layout, p master.Programs, listen string, version int) ([]UnitFile, error) {
	metrics := net.JoinHostPort(config.MetricsAddress(""), strconv.Itoa(config.BalancerMetricsPort))
	u := master.FrontDoor(l, p, listen, metrics)
	u.Description, u.LogFile = "hactl front door of cluster "+c.Name, "" // to the journal
	socket, err := systemd.RenderSocket(u.Name, u.Description, listen)
	if err != nil {
		return nil, err
	}
	box := systemd.SandboxOf(l, u.Name)
	box.SocketUnit = Socket
	service, err := systemd.Render(u, box, systemd.Options{Version: version, Fingerprint: fingerprint(c, l, u.Name)})
	if err != nil {
		return nil, err
	}
	return []UnitFile{{Socket, socket}, {systemd.FileName(u.Name), service}}, nil
}
