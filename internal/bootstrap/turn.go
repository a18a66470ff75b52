package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/restartlock"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/workload/systemd"
)

// askQuorum is how long etcd may take to show that it has a quorum.
const askQuorum = 5 * time.Second

// turn waits until this machine may restart a unit that the whole cluster depends
// on: no other master restarts one meanwhile, and the others can do without ours.
// The same command runs on all masters, often at the same time. What is returned
// ends the turn.
func (r *run) turn(ctx context.Context, name string) (release func(), err error) {
	var wait func(context.Context) (string, error)
	switch name {
	case systemd.FileName(master.Etcd):
		wait = r.othersAreAQuorum
	case systemd.FileName(master.APIServer):
		wait = r.anotherServes
	default:
		return func() {}, nil
	}
	client, err := r.etcdClient()
	if err != nil {
		return nil, err
	}
	lock, err := r.lock(ctx, client, name)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	release = func() {
		if lock != nil {
			lock.Release()
		}
		_ = client.Close()
	}
	for lock != nil {
		why, err := wait(ctx)
		if err == nil && why == "" {
			break
		}
		if err != nil {
			why = err.Error()
		}
		r.waitFor("the restart of " + name + " waits: " + why)
		if !pause(ctx) {
			release()
			return nil, timedOut(ctx, why, "hactl status shows what is wrong there")
		}
	}
	return release, nil
}

// lock returns nil, without an error, where etcd has no quorum: then there is
// nobody to ask, and nothing to lose.
func (r *run) lock(ctx context.Context, client *clientv3.Client, name string) (*restartlock.Lock, error) {
	asked, cancel := context.WithTimeout(ctx, askQuorum)
	defer cancel()
	if _, err := client.Get(asked, restartlock.Key, clientv3.WithCountOnly()); err != nil {
		if ctx.Err() != nil {
			return nil, timedOut(ctx, "etcd does not say whose turn it is to restart", "hactl status")
		}
		r.say("%s is restarted without asking the others: etcd has no quorum", name)
		return nil, nil //nolint:nilnil // said above
	}
	r.waitFor("for the turn to restart " + name)
	lock, err := restartlock.Wait(ctx, client)
	if err != nil && ctx.Err() != nil {
		return nil, timedOut(ctx, "another master's restart is under way", "")
	}
	return lock, err
}

func (r *run) etcdClient() (*clientv3.Client, error) {
	files := etcdcluster.ClientFiles(r.cfg.Layout)
	tlsConfig, err := pki.ClientTLS(pki.Files{Cert: files.Cert, Key: files.Key, CA: files.CA})
	if err != nil {
		return nil, err
	}
	return clientv3.New(clientv3.Config{Endpoints: r.cluster.EtcdClientURLs(), TLS: tlsConfig, Logger: zap.NewNop(), DialTimeout: 2 * time.Second})
}

func (r *run) othersAreAQuorum(ctx context.Context) (string, error) {
	admin, err := r.admin()
	if err != nil {
		return "", err
	}
	ms, err := admin.Members(ctx)
	if err != nil {
		return "", err
	}
	return needed(ms, r.self.EtcdPeerURL()), nil
}

// needed says why the member at peerURL may not be restarted now; empty: it may.
// Where no other voter is missing there is nothing to wait for: a cluster of one
// or two has no quorum without each.
func needed(ms []etcdcluster.MemberStatus, peerURL string) string {
	voters, well, ill := 0, 0, ""
	for _, m := range ms {
		if m.IDText == "" || m.Role == etcdcluster.Learner {
			continue
		}
		voters++
		switch {
		case len(m.PeerURLs) > 0 && m.PeerURLs[0] == peerURL:
		case m.Reachable && m.LeaderID != "":
			well++
		default:
			ill = m.Name
		}
	}
	if ill == "" || well >= voters/2+1 {
		return ""
	}
	return fmt.Sprintf("etcd would have no quorum meanwhile: %s is not well", ill)
}

func (r *run) anotherServes(ctx context.Context) (string, error) {
	report, err := r.cfg.Report(ctx, r.cluster)
	if err != nil {
		return "", err
	}
	return lastAPIServer(report, r.self.Name), nil
}

// lastAPIServer says why the API server of self may not be restarted now; empty:
// it may, since another serves, or it does not serve itself, or is the only one.
func lastAPIServer(report *status.Report, self string) string {
	others := 0
	for _, a := range report.APIServers {
		switch {
		case a.Master == self && a.Ready != status.Yes:
			return ""
		case a.Master == self:
		case a.Ready == status.Yes:
			return ""
		default:
			others++
		}
	}
	if others == 0 {
		return ""
	}
	return "no other API server is ready"
}
