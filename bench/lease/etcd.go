package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/process"
)

// hosts is how many etcd members, and candidates of a group, there are.
const hosts = 3

// scene is three etcd members, and the groups in front of them.
type scene struct {
	o        options
	dir      string
	progress *progress
	etcd     [hosts]*process.Process
	client   *clientv3.Client
	lock     *etcdlock.Client
	kube     *kube

	mu     sync.Mutex
	groups []*group
	runs   int
}

func etcdURL(i int, port int) string { return fmt.Sprintf("http://127.210.0.%d:%d", i+1, port) }

// endpoints are the members' addresses, the own host's first.
func endpoints(own int) []string {
	var all []string
	for i := range hosts {
		all = append(all, etcdURL((own+i)%hosts, 2379))
	}
	return all
}

func (s *scene) startEtcd(ctx context.Context) error {
	for i := range s.etcd {
		if err := s.startMember(i); err != nil {
			return err
		}
	}
	var err error
	if s.client, err = clientv3.New(clientv3.Config{Endpoints: endpoints(0), DialTimeout: 5 * time.Second, Logger: zap.NewNop()}); err != nil {
		return err
	}
	if s.lock, err = etcdlock.Dial(etcdlock.Config{Endpoints: endpoints(0)}); err != nil {
		return err
	}
	return s.whole(ctx)
}

func (s *scene) startMember(i int) error {
	var cluster []string
	for j := range s.etcd {
		cluster = append(cluster, fmt.Sprintf("m%d=%s", j+1, etcdURL(j, 2380)))
	}
	p, err := process.Start(process.Config{Path: s.o.etcd, Args: []string{
		"--name", fmt.Sprintf("m%d", i+1), "--data-dir", filepath.Join(s.dir, fmt.Sprintf("etcd%d", i)), "--log-level", "fatal",
		"--listen-client-urls", etcdURL(i, 2379), "--advertise-client-urls", etcdURL(i, 2379),
		"--listen-peer-urls", etcdURL(i, 2380), "--initial-advertise-peer-urls", etcdURL(i, 2380),
		"--initial-cluster", strings.Join(cluster, ","), "--auto-compaction-retention=5m",
	}})
	s.etcd[i] = p
	return err
}

// members starts the members that have ended, and waits for all of them.
func (s *scene) members(ctx context.Context) error {
	for i, p := range s.etcd {
		select {
		case <-p.Done():
			if err := s.startMember(i); err != nil {
				return err
			}
		default:
		}
	}
	return s.whole(ctx)
}

// whole waits until every member serves and all have the same leader.
func (s *scene) whole(ctx context.Context) error {
	return until(ctx, "three etcd members with one leader", func() error {
		var leaders []uint64
		for i := range s.etcd {
			call, cancel := context.WithTimeout(ctx, time.Second)
			st, err := s.client.Status(call, etcdURL(i, 2379))
			cancel()
			if err != nil {
				return err
			}
			leaders = append(leaders, st.Leader)
		}
		if leaders[0] == 0 || len(slices.Compact(leaders)) != 1 {
			return fmt.Errorf("leaders %v", leaders)
		}
		return nil
	})
}

// leader is the index of etcd's leader.
func (s *scene) leader(ctx context.Context) (int, error) {
	for i := range s.etcd {
		call, cancel := context.WithTimeout(ctx, time.Second)
		st, err := s.client.Status(call, etcdURL(i, 2379))
		cancel()
		if err == nil && st.Leader == st.Header.MemberId {
			return i, nil
		}
	}
	return 0, errors.New("etcd has no leader")
}

// revision is etcd's, which grows by one with each write.
func (s *scene) revision(ctx context.Context) (int64, error) {
	resp, err := s.client.Get(ctx, "none")
	if err != nil {
		return 0, err
	}
	return resp.Header.Revision, nil
}

func (s *scene) end() {
	s.stopGroups()
	if s.kube != nil {
		s.kube.end()
	}
	if s.client != nil {
		_ = s.client.Close()
	}
	if s.lock != nil {
		_ = s.lock.Close()
	}
	for _, p := range s.etcd {
		if p != nil {
			_ = p.Kill()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := process.KillDescendants(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func until(ctx context.Context, what string, f func() error) error {
	deadline := time.Now().Add(time.Minute)
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// phase is a random part of a renewal's period, and more: events hit any moment.
func phase(ctx context.Context) error {
	return pause(ctx, 200*time.Millisecond+time.Duration(rand.Int64N(int64(900*time.Millisecond))))
}
