package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
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
	// learnerDeadline is how long a learner may be silent, before it starts or later.
	// Only one can be at a time, so that one that never comes keeps all others out.
	// One that answers may fetch a snapshot for as long as that takes.
	learnerDeadline = 10 * time.Minute
	// peerTimeout is how long a learner's peer port may take for a handshake.
	peerTimeout = 3 * time.Second
)

// learners takes care of new members: the master whose member leads promotes
// those that have caught up, and takes out one that never started, or died, so that
// a machine that died while joining leaves nothing behind.
type learners struct {
	self   *clientv3.Client // this master's member
	admin  *etcdcluster.Admin
	tls    *tls.Config
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
	return &learners{self: self, admin: admin, tls: tlsConfig, logger: logger}, nil
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
	s, do := l.next(ms, l.hear(ctx, ms), time.Now())
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

// hear returns the learners that answer at all. One that fetches a snapshot may not
// serve clients for long; its process then still greets its peers.
func (l *learners) hear(ctx context.Context, ms []etcdcluster.MemberStatus) map[string]bool {
	heard := map[string]bool{}
	for _, m := range ms {
		if m.Role == etcdcluster.Learner && m.IDText != "" {
			heard[m.IDText] = m.Reachable || slices.ContainsFunc(m.PeerURLs, func(u string) bool { return greets(ctx, u, l.tls) })
		}
	}
	return heard
}

// greets tells whether a process answers a TLS handshake at a peer URL. Whose
// certificate it shows is no matter here.
func greets(ctx context.Context, peerURL string, conf *tls.Config) bool {
	u, err := url.Parse(peerURL)
	if err != nil {
		return false
	}
	conf = conf.Clone()
	conf.InsecureSkipVerify = true //nolint:gosec // nothing is sent, and nothing is believed but that somebody is there
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	c, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// nursery decides about learners. Its memory is the leader's: another one counts
// from its own first look.
type nursery struct {
	since map[string]time.Time // learner that is not there → since when
}

func (n *nursery) forget() { n.since = nil }

// next is the step that is due now; false: none. heard are those that answer, if
// only their peers.
func (n *nursery) next(ms []etcdcluster.MemberStatus, heard map[string]bool, now time.Time) (etcdcluster.Step, bool) {
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
		if !heard[m.IDText] {
			first, known := n.since[m.IDText]
			if !known {
				first = now
			}
			waiting[m.IDText] = first
			if now.Sub(first) < learnerDeadline {
				continue
			}
			s.Kind, s.Why = etcdcluster.Remove, fmt.Sprintf("it was added and has not started for %v", learnerDeadline)
			if m.Name != "" {
				s.Why = fmt.Sprintf("it has not answered for %v, and keeps others from joining", learnerDeadline)
			}
			return s, true
		}
		s.Kind, s.Why = etcdcluster.Promote, "it has caught up"
		if etcdcluster.Guard(ms, s) == nil {
			return s, true
		}
	}
	return etcdcluster.Step{}, false
}
