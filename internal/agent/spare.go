package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/watchdog"
)

// spareTimeout is how long the other masters may take to show that they work.
const spareTimeout = time.Second

// spared errs when the cluster would lose something by this restart: quorum, or
// its last API server. A unit that is hung serves nobody; what must not happen is
// that we are wrong about it where nobody else would do its work.
func (a *Agent) spared(ctx context.Context, ask watchdog.Ask) error {
	ctx, cancel := context.WithTimeout(ctx, spareTimeout)
	defer cancel()
	switch {
	case ask.Unit == master.Etcd:
		quorum := make(chan error, 1)
		go func() { quorum <- a.etcd.quorum(ctx) }() // at the same time: one may take all of it
		without := a.etcd.withoutOurs(ctx, a.index())
		if with := <-quorum; without != nil && (ask.Gentle || with == nil) {
			return errNeededBy("etcd would have no quorum without it", without)
		}
		return nil // the others do, or there is none with it either
	case ask.Unit == master.APIServer && ask.Gentle:
		if err := a.probes.others(ctx, a.probes.ready); err != nil {
			return errNeededBy("no other API server is ready", err)
		}
	}
	return nil
}

// withoutOurs is nil when the other members alone are a quorum: each answers from
// its own data, and knows a leader.
func (a *etcdAccess) withoutOurs(ctx context.Context, ours int) error {
	need := len(a.members)/2 + 1
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		good int
		errs []error
	)
	for i, m := range a.members {
		if i == ours {
			continue
		}
		wg.Go(func() {
			err := memberWorks(ctx, m)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			good++
		})
	}
	wg.Wait()
	if good >= need {
		return nil
	}
	return fmt.Errorf("%d of the other members work, %d are needed: %w", good, need, errors.Join(errs...))
}

// memberWorks asks one member whether it knows a leader and is no learner.
func memberWorks(ctx context.Context, m *clientv3.Client) error {
	s, err := m.Status(ctx, m.Endpoints()[0])
	switch {
	case err != nil:
		return err
	case s.Leader == 0:
		return fmt.Errorf("%s knows no leader", m.Endpoints()[0])
	case s.IsLearner:
		return fmt.Errorf("%s is a learner", m.Endpoints()[0])
	}
	return nil
}
