package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver"
)

const (
	// roleEvery is how often the role is looked at; a new leader is noticed at once.
	roleEvery = time.Second
	// defragMax is how long a defragmentation, which blocks all reads, counts as
	// work being done.
	defragMax = 10 * time.Minute
)

// watch tells the supervisor about the member until ctx ends.
func (m *Member) watch(ctx context.Context, s *etcdserver.EtcdServer) {
	var wg sync.WaitGroup
	wg.Go(func() { m.tellRole(ctx, s) })
	if m.cfg.WatchdogEvery > 0 {
		wg.Go(func() { m.feedWatchdog(ctx, s) })
	}
	wg.Wait()
}

func (m *Member) tellRole(ctx context.Context, s *etcdserver.EtcdServer) {
	ticker := time.NewTicker(roleEvery)
	defer ticker.Stop()
	last := ""
	for {
		changed := s.LeaderChangedNotify()
		role := describeRole(s)
		if role != last {
			m.status("%s", role)
			m.cfg.Logger.Info("role of the etcd member", "member", m.cfg.Name, "role", role)
			last = role
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-ticker.C:
		}
	}
}

// describeRole is for people: "leader of 3 members, term 4".
func describeRole(s *etcdserver.EtcdServer) string {
	n := len(s.Cluster().Members())
	lead := s.Leader()
	what := fmt.Sprintf("follower of %s", memberName(s, lead))
	self := s.Cluster().Member(s.MemberID()) // not s.IsLearner, which panics for a removed member
	switch {
	case self == nil:
		return "removed from the cluster"
	case lead == 0:
		return fmt.Sprintf("no leader, %d members, term %d", n, s.Term())
	case self.IsLearner:
		what = fmt.Sprintf("learner from %s", memberName(s, lead))
	case lead == s.MemberID():
		what = "leader"
	}
	return fmt.Sprintf("%s, %d members, term %d", what, n, s.Term())
}

func memberName(s *etcdserver.EtcdServer, id types.ID) string {
	if m := s.Cluster().Member(id); m != nil && m.Name != "" {
		return m.Name
	}
	return id.String()
}

// feedWatchdog sends WATCHDOG=1 for each read that the member answers, and
// nothing else: a member that hangs falls silent.
func (m *Member) feedWatchdog(ctx context.Context, s *etcdserver.EtcdServer) {
	ticker := time.NewTicker(m.cfg.WatchdogEvery)
	defer ticker.Stop()
	answers := make(chan error, 1)
	asked := time.Time{} // zero: no read is under way
	for {
		if asked.IsZero() {
			asked = time.Now()
			go func() { answers <- selfRead(ctx, s) }()
		}
		select {
		case <-ctx.Done():
			return // the read ends with ctx, or with the process
		case err := <-answers:
			m.metrics.selfRead.Set(time.Since(asked).Seconds())
			if err == nil {
				m.cfg.Notify("WATCHDOG=1")
			} else if ctx.Err() == nil {
				m.metrics.selfReadErrors.Inc()
				m.cfg.Logger.Warn("the member does not answer its own read", "member", m.cfg.Name, "err", err)
			}
			asked = time.Time{}
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		case <-ticker.C:
			if took := time.Since(asked); took < defragMax && defragmenting() {
				m.cfg.Notify("WATCHDOG=1")
			} else {
				m.metrics.selfReadErrors.Inc()
				m.cfg.Logger.Warn("the member does not answer its own read", "member", m.cfg.Name, "took", took)
			}
		}
	}
}

// selfRead reads a key from the member's own store; it needs no other member.
func selfRead(ctx context.Context, s *etcdserver.EtcdServer) error {
	resp, err := s.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("hactl"), Serializable: true, CountOnly: true})
	if err == nil && resp == nil {
		return errors.New("no answer")
	}
	return err
}

// defragmenting reads etcd's own gauge: there is no other way to know.
func defragmenting() bool {
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil && len(families) == 0 {
		return false
	}
	for _, f := range families {
		if f.GetName() == "etcd_disk_defrag_inflight" && len(f.GetMetric()) > 0 {
			return f.GetMetric()[0].GetGauge().GetValue() > 0
		}
	}
	return false
}
