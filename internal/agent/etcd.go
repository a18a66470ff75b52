package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
)

// etcdAccess asks etcd, each member over a connection of its own: one that
// hangs must not make the others look ill.
type etcdAccess struct {
	members []*clientv3.Client // all of them
	cluster *clientv3.Client   // whichever answers
}

func newEtcdAccess(c *config.Cluster, l layout.Layout) (*etcdAccess, error) {
	dir := filepath.Join(l.PKI(), "etcd")
	tlsConfig, err := pki.ClientTLS(pki.Files{
		Cert: filepath.Join(dir, "healthcheck-client.crt"),
		Key:  filepath.Join(dir, "healthcheck-client.key"),
		CA:   filepath.Join(dir, "ca.crt"),
	})
	if err != nil {
		return nil, err
	}
	dial := func(endpoints ...string) (*clientv3.Client, error) {
		return clientv3.New(clientv3.Config{
			Endpoints: endpoints, TLS: tlsConfig, Logger: zap.NewNop(),
			DialTimeout: 2 * time.Second, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
		})
	}
	a := &etcdAccess{}
	for _, m := range c.Masters {
		cl, err := dial(m.EtcdClientURL())
		if err != nil {
			return nil, errors.Join(err, a.close())
		}
		a.members = append(a.members, cl)
	}
	if a.cluster, err = dial(c.EtcdClientURLs()...); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

func (a *etcdAccess) close() error {
	var errs []error
	for _, c := range append(a.members, a.cluster) {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// probeKey is read by probes; it need not exist.
const probeKey = "/hactl/probe"

// quorum is nil when a linearizable read works through any member.
func (a *etcdAccess) quorum(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan error, len(a.members))
	for _, m := range a.members {
		go func() {
			_, err := m.Get(ctx, probeKey, clientv3.WithCountOnly())
			answers <- err
		}()
	}
	var errs []error
	for range a.members {
		err := <-answers
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("no linearizable read works: %w", errors.Join(errs...))
}
