package collect

import (
	"context"
	"strings"
	"sync"

	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/status"
)

// etcdSaid is what etcd told about itself and the singletons.
type etcdSaid struct {
	members []etcdcluster.MemberStatus // each for itself, quorum or not
	agreed  []etcdlock.Info            // by a linearizable read, which proves the quorum
	err     error                      // why there is no agreed
	memory  []etcdlock.Info            // as one member remembers
	memErr  error                      // why there is no memory
}

// etcd asks the members, and reads the singletons twice: linearizably and from
// one member's memory. All at the same time, since without a quorum the first
// read has no answer before its deadline.
func (c *Collector) etcd(ctx context.Context) (status.Etcd, []status.Singleton) {
	conf, err := c.etcdTLS()
	if err != nil {
		return unasked(c.cfg.Cluster, err), listed(c.cfg.Cluster, nil, "")
	}
	urls := endpoints(c.cfg.Cluster)
	client, err := etcdlock.Dial(etcdlock.Config{Endpoints: urls, TLS: conf})
	if err != nil {
		return unasked(c.cfg.Cluster, err), listed(c.cfg.Cluster, nil, "")
	}
	defer func() { _ = client.Close() }()

	var said etcdSaid
	var wg sync.WaitGroup
	wg.Go(func() { said.members = etcdcluster.Observe(ctx, urls, conf) })
	read := func(into *[]etcdlock.Info, why *error, serializable bool) {
		ctx, cancel := context.WithTimeout(ctx, c.call)
		defer cancel()
		*into, *why = etcdlock.List(ctx, client, serializable)
		if *why != nil && ctx.Err() != nil {
			*why = ctx.Err() // etcd may end the call first, in words of its own
		}
	}
	wg.Go(func() { read(&said.agreed, &said.err, false) })
	wg.Go(func() { read(&said.memory, &said.memErr, true) })
	wg.Wait()

	e := join(c.cfg.Cluster, said)
	switch {
	case said.err == nil:
		return e, listed(c.cfg.Cluster, said.agreed, status.Linearizable)
	case said.memErr == nil:
		return e, listed(c.cfg.Cluster, said.memory, status.Stale)
	default:
		return e, listed(c.cfg.Cluster, nil, "")
	}
}

// untrusted tells whether a call failed because of certificates: then it says
// nothing about etcd.
func untrusted(text string) bool {
	return strings.Contains(text, "certificate") || strings.Contains(text, "tls:") || strings.Contains(text, "x509:")
}
