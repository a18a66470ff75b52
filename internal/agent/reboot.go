package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/lb"
	"github.com/hactl/hactl/internal/watchdog"
)

// newMarker is the part of the agent that gives this host up.
func (a *Agent) newMarker() *marker {
	m := &marker{
		client: a.etcd.cluster, self: a.self.Name, masters: len(a.cfg.Cluster.Masters),
		file: a.cfg.Layout.Under("/var/lib/hactl/mark.json"), manager: a.cfg.Manager,
		balancer: lb.NewClient(a.cfg.Layout.LBAdminSocket()), events: a.events,
		look: func() []watchdog.TargetStatus {
			s, _ := a.watchdog.Status()
			return unlessRemoved(a.cfg.Layout.State(), s.Units)
		},
	}
	for _, s := range a.cfg.Cluster.Singletons {
		m.singletons = append(m.singletons, s.Name)
	}
	if a.cfg.Cluster.Watchdog.Reboot == config.RebootAllowed {
		m.reboot, m.rebootAfter = a.reboot, a.cfg.RebootAfter
	}
	return m
}

// unlessRemoved returns no unit of a machine that the cluster has removed: its etcd
// member fails for good, as it should, and there is nothing to give up or reboot for.
func unlessRemoved(stateDir string, units []watchdog.TargetStatus) []watchdog.TargetStatus {
	if in, err := etcdcluster.ReadIntent(stateDir); err == nil && in.State == etcdcluster.Removed {
		return nil
	}
	return units
}

// reboot reboots this host, if its supervisor can, no other host did so within
// rebootQuiet, and the others are a quorum.
func (a *Agent) reboot(ctx context.Context) error {
	host, ok := a.cfg.Manager.(interface {
		Reboot(ctx context.Context) error
	})
	if !ok {
		return errors.New("this supervisor cannot reboot a host")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := a.etcd.withoutOurs(ctx, a.index()); err != nil {
		return errNeededBy("etcd would have no quorum without this host", err)
	}
	if err := a.probes.others(ctx, a.probes.ready); err != nil {
		return errNeededBy("no other API server is ready", err)
	}
	// Kept: no restart of another master's begins while this host goes down.
	release, err := a.permits.lock(ctx, watchdog.Ask{Unit: "host", Reason: watchdog.BudgetUsed})
	if err != nil {
		return err
	}
	if err := claimReboot(ctx, a.etcd.cluster, a.self.Name); err != nil {
		release()
		return err
	}
	if err := host.Reboot(ctx); err != nil {
		release()
		return err
	}
	return nil
}

// claimReboot takes the only reboot within rebootQuiet.
func claimReboot(ctx context.Context, client *clientv3.Client, self string) error {
	lease, err := client.Grant(ctx, int64(rebootQuiet.Seconds()))
	if err != nil {
		return fmt.Errorf("claim the reboot: %w", err)
	}
	resp, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(rebootKey), "=", 0)).
		Then(clientv3.OpPut(rebootKey, self, clientv3.WithLease(lease.ID))).
		Else(clientv3.OpGet(rebootKey)).Commit()
	if err != nil {
		return fmt.Errorf("claim the reboot: %w", err)
	}
	if resp.Succeeded {
		return nil
	}
	who := "another host"
	if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
		who = string(kvs[0].Value)
	}
	return fmt.Errorf("claim the reboot: %s rebooted less than %v ago", who, rebootQuiet)
}
