package config

import (
	"fmt"
	"time"
)

// Warnings lists what is allowed but probably not meant. It expects a valid
// configuration.
func (c *Cluster) Warnings() []*FieldError {
	k := &checker{}
	if c.Etcd.Quota > 8<<30 {
		k.bad("etcd.quota", c.Etcd.Quota, "etcd suggests at most 8Gi: starting, defragmenting and restoring take minutes beyond")
	}
	if err := c.CheckMasterCount(); err != nil {
		k.faults = append(k.faults, FieldErrors(err)...)
	}
	has := map[string]bool{}
	for i, s := range c.Singletons {
		has[s.Name] = true
		if s.TTL > time.Minute {
			k.bad(fmt.Sprintf("singletons[%d].ttl", i), formatDuration(s.TTL), "after the loss of its master nobody runs it for that long")
		}
	}
	for _, name := range []string{KubeScheduler, KubeControllerManager} {
		if !has[name] {
			k.bad("singletons", "", "without %s; a list replaces the default one, so name all that should run", name)
		}
	}
	if c.Etcd.Election < 10*c.Etcd.Heartbeat {
		k.bad("etcd.election", formatDuration(c.Etcd.Election), "etcd suggests at least 10 times etcd.heartbeat %s", formatDuration(c.Etcd.Heartbeat))
	}
	if len(c.Etcd.Backup.To) == 0 {
		k.bad("etcd.backup.to", "", "no backups are made")
	}
	return k.faults
}
