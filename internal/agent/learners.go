package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
)

const (
	// learnersEvery is the pause between two looks for learners.
	learnersEvery = 2 * time.Second
	// learnerDeadline is how long a learner may take to start. Only one can be at a
	// time, so that one that never comes keeps all others out.
	learnerDeadline = 10 * time.Minute
)

// learners takes care of new members: the master whose member leads promotes
// those that have caught up, and takes out one that never started, so that a
// machine that died while joining leaves nothing behind.
type learners struct {
	self   *clientv3.Client // this master's member
	admin  *etcdcluster.Admin
	logger *slog.Logger
	nursery
}

func newLearners(c *config.Cluster, l layout.Layout, self *clientv3.Client, logger *slog.Logger) (*learners, error) {
	files := etcdcluster.ClientFiles(l)
	tlsConfig, err := pki.ClientTLS(pki.Files{Cert: files.Cert, Key: files.Key, CA: files.CA})
	if err != nil {
		return nil, err
	}
	admin := etcdcluster.NewAdmin(etcdcluster.AdminConfig{Endpoints: c.EtcdClientURLs(), TLS: tlsConfig, Logger: logger})
	return &learners{self: self, admin: admin, logger: logger}, nil
}

// Run looks again and again until ctx ends.
func (l *learners) Run(ctx context.Context) error {
	last := ""
	for {
		err := l.look(ctx)
		if text := fmt.Sprint(err); err != nil && text != last && ctx.Err() == nil {
			l.logger.Warn("a new etcd member is not taken care of", "err", err)
			last = text
		} else if err == nil {
			last = ""
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(learnersEvery):
		}
	}
}

// look does one step for a learner, if there is one and it is this master's turn.
func (l *learners) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	mine, err := l.mine(ctx)
	if err != nil || !mine {
		l.forget()
		return nil //nolint:nilerr // a member that does not answer does not lead
	}
	ms, err := l.admin.Members(ctx)
	if err != nil {
		return err
	}
	s, do := l.next(ms, time.Now())
	if !do {
		return nil
	}
	_, err = l.admin.Do(ctx, s)
	var refused *etcdcluster.RefusedError
	if errors.As(err, &refused) || errors.Is(err, context.DeadlineExceeded) {
		return nil // what has changed since is seen at the next look
	}
	return err
}

// mine tells whether this master's member leads and there is a learner.
func (l *learners) mine(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	endpoint := l.self.Endpoints()[0]
	st, err := l.self.Status(ctx, endpoint)
	if err != nil || st.Header == nil || st.Leader != st.Header.MemberId {
		return false, err
	}
	list, err := l.self.MemberList(ctx)
	if err != nil {
		return false, err
	}
	for _, m := range list.Members {
		if m.IsLearner {
			return true, nil
		}
	}
	return false, nil
}

// nursery decides about learners. Its memory is the leader's: another one counts
// from its own first look.
type nursery struct {
	since map[string]time.Time // learner that has not started → when it was first seen
}

func (n *nursery) forget() { n.since = nil }

// next is the step that is due now; false: none.
func (n *nursery) next(ms []etcdcluster.MemberStatus, now time.Time) (etcdcluster.Step, bool) {
	waiting := map[string]time.Time{}
	defer func() { n.since = waiting }()
	for _, m := range ms {
		if m.Role != etcdcluster.Learner || m.IDText == "" {
			continue
		}
		s := etcdcluster.Step{Peer: etcdcluster.Peer{Name: m.Name}, ID: m.IDText}
		if len(m.PeerURLs) > 0 {
			s.Peer.URL = m.PeerURLs[0]
		}
		if m.Name == "" { // never started
			first, known := n.since[m.IDText]
			if !known {
				first = now
			}
			waiting[m.IDText] = first
			if now.Sub(first) < learnerDeadline {
				continue
			}
			s.Kind, s.Why = etcdcluster.Remove, fmt.Sprintf("it was added and has not started for %v", learnerDeadline)
			return s, true
		}
		s.Kind, s.Why = etcdcluster.Promote, "it has caught up"
		if etcdcluster.Guard(ms, s) == nil {
			return s, true
		}
	}
	return etcdcluster.Step{}, false
}
