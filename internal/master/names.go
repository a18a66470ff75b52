package master

import "github.com/hactl/hactl/internal/config"

// UnitNames lists the units of a master in the order of starting, as Host.Units
// has them.
func UnitNames(c *config.Cluster) []string {
	names := []string{Etcd, APIServer, Balancer}
	for _, s := range c.Singletons {
		names = append(names, Podmaster+s.Name)
	}
	return append(names, Agent)
}
