package etcdtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/hactl/hactl/internal/testwait"
)

// patience is how long a member may take on a slow machine with other work.
const patience = 2 * time.Minute

// Options says what cluster a test wants. The zero value is good for most.
type Options struct {
	TLS       bool          // mutual TLS for clients and peers
	Heartbeat time.Duration // default 100ms, as in production
	Election  time.Duration // default 1s, as in production
	Quota     int64         // bytes; default etcd's 2 GiB
	Fsync     bool          // sync files, as in production; slower
}

// Cluster is a running etcd cluster. It ends with the test.
type Cluster struct {
	// Members are m1, m2, …; a stopped member stays in its place.
	Members []*Member

	tb  testing.TB
	tls *tls.Config
}

// Member is one member of a Cluster. Its methods end the test on failure.
type Member struct {
	Name    string
	Address string // its loopback address, without a port

	tb   testing.TB
	spec *spec
	run  interface {
		start() error
		stop() error
		kill() error
		pause() error
		resume() error
		running() bool
	}
	tls *tls.Config
}

// Start runs n members in the test's own process and returns when every one
// serves.
func Start(tb testing.TB, n int, opts Options) *Cluster {
	tb.Helper()
	return start(tb, n, opts, func(s spec) *Member {
		run := &embedded{spec: s}
		return &Member{run: run, spec: &run.spec}
	})
}

// StartProcesses runs n members as processes of their own, which can be killed
// and paused, and returns when every one serves. The package's TestMain must
// begin with Main, or be VerifyTestMain. The members' logs are shown when the test fails.
func StartProcesses(tb testing.TB, n int, opts Options) *Cluster {
	tb.Helper()
	return start(tb, n, opts, func(s spec) *Member {
		run := &process{spec: s}
		return &Member{run: run, spec: &run.spec}
	})
}

func start(tb testing.TB, n int, opts Options, member func(spec) *Member) *Cluster {
	tb.Helper()
	dir := tb.TempDir()
	c := &Cluster{tb: tb}
	addrs := make([]string, n)
	for i := range addrs {
		addrs[i] = Address(tb)
	}
	base := spec{
		Token: filepath.Base(dir), New: true, Quota: opts.Quota, Fsync: opts.Fsync,
		Heartbeat: or(opts.Heartbeat, 100*time.Millisecond), Election: or(opts.Election, time.Second),
	}
	if opts.TLS {
		base.TLS, c.tls = makeTLS(tb, dir, addrs)
	}
	var initial []string
	for i, addr := range addrs {
		s := base
		s.Address = addr
		u := s.peerURL()
		initial = append(initial, fmt.Sprintf("m%d=%s", i+1, u.String()))
	}
	for i, addr := range addrs {
		s := base
		s.Name, s.Address = fmt.Sprintf("m%d", i+1), addr
		s.Dir, s.LogFile = filepath.Join(dir, s.Name), filepath.Join(dir, s.Name+".log")
		s.InitialCluster = strings.Join(initial, ",")
		m := member(s)
		m.Name, m.Address, m.tb, m.tls = s.Name, addr, tb, c.tls
		c.Members = append(c.Members, m)
	}
	tb.Cleanup(c.end)
	for _, m := range c.Members {
		m.do("start", m.run.start)
	}
	for _, m := range c.Members {
		m.WaitServing()
	}
	return c
}

func or(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// end kills what is left: a test need not stop its members in order.
func (c *Cluster) end() {
	if c.tb.Failed() {
		c.showLogs() // now: their end is the killing
	}
	for _, m := range c.Members {
		m.do("kill", m.run.kill)
	}
}

func (c *Cluster) showLogs() {
	for _, m := range c.Members {
		log, err := os.ReadFile(m.spec.LogFile)
		if err != nil {
			continue
		}
		const most = 4 << 10
		c.tb.Logf("end of the log of %s:\n%s", m.Name, log[max(0, len(log)-most):])
	}
}

// Endpoints are the client URLs of all members, also of those that are down.
func (c *Cluster) Endpoints() []string {
	var eps []string
	for _, m := range c.Members {
		eps = append(eps, m.Endpoint())
	}
	return eps
}

// TLS is the configuration for clients; nil without Options.TLS.
func (c *Cluster) TLS() *tls.Config { return c.tls.Clone() }

// TLSFiles are the PEM files of TLS: a CA, and a certificate with its key that is
// good for clients too.
func (c *Cluster) TLSFiles() Files { return c.Members[0].spec.TLS }

// Running returns the members that run.
func (c *Cluster) Running() []*Member {
	var ms []*Member
	for _, m := range c.Members {
		if m.run.running() {
			ms = append(ms, m)
		}
	}
	return ms
}

// Client returns a client of the given members, or of all. It is closed when
// the test ends.
func (c *Cluster) Client(members ...*Member) *clientv3.Client {
	c.tb.Helper()
	eps := c.Endpoints()
	if len(members) > 0 {
		eps = nil
		for _, m := range members {
			eps = append(eps, m.Endpoint())
		}
	}
	cl, err := newClient(eps, c.tls)
	if err != nil {
		c.tb.Fatalf("client of %v: %v", eps, err)
	}
	c.tb.Cleanup(func() { _ = cl.Close() })
	return cl
}

func newClient(eps []string, tlsConfig *tls.Config) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: eps, TLS: tlsConfig.Clone(), Logger: zap.NewNop(), DialTimeout: 5 * time.Second,
		DialKeepAliveTime: 2 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
	})
}

// Leader waits until the running members agree on a leader, and returns it.
func (c *Cluster) Leader() *Member {
	c.tb.Helper()
	var leader *Member
	testwait.For(c.tb, "a leader", patience, func() error {
		ids := map[uint64]*Member{}
		var seen []uint64
		for _, m := range c.Members {
			if !m.run.running() {
				continue
			}
			st, err := m.status()
			if err != nil {
				return fmt.Errorf("status of %s: %w", m.Name, err)
			}
			ids[st.Header.MemberId] = m
			seen = append(seen, st.Leader)
		}
		if len(seen) == 0 {
			return errors.New("no member runs")
		}
		for _, id := range seen {
			if id != seen[0] {
				return fmt.Errorf("the members name different leaders: %x", seen)
			}
		}
		if leader = ids[seen[0]]; leader == nil {
			return fmt.Errorf("the leader %x is not among the running members", seen[0])
		}
		return nil
	})
	return leader
}

// Follower waits for a leader, and returns a running member that is not it.
func (c *Cluster) Follower() *Member {
	c.tb.Helper()
	leader := c.Leader()
	for _, m := range c.Members {
		if m != leader && m.run.running() {
			return m
		}
	}
	c.tb.Fatal("no follower runs")
	return nil
}

// Endpoint is the member's client URL.
func (m *Member) Endpoint() string {
	u := m.spec.clientURL()
	return u.String()
}

// PeerURL is the URL at which the other members reach it.
func (m *Member) PeerURL() string {
	u := m.spec.peerURL()
	return u.String()
}

// Dir is the member's data folder.
func (m *Member) Dir() string { return m.spec.Dir }

// Stop ends the member in order: a leader hands its leadership over first.
func (m *Member) Stop() { m.tb.Helper(); m.do("stop", m.run.stop) }

// Kill ends the member without a word to the others: SIGKILL for a process, a
// hard stop in the test's own process.
func (m *Member) Kill() { m.tb.Helper(); m.do("kill", m.run.kill) }

// Pause freezes a member process (SIGSTOP).
func (m *Member) Pause() { m.tb.Helper(); m.do("pause", m.run.pause) }

// Resume lets a paused member process go on (SIGCONT).
func (m *Member) Resume() { m.tb.Helper(); m.do("resume", m.run.resume) }

// Restart starts a member that was stopped or killed, with its old data, and
// returns when it runs; WaitServing waits until it serves, which needs a quorum.
func (m *Member) Restart() {
	m.tb.Helper()
	if m.run.running() {
		m.tb.Fatalf("restart member %s: it runs", m.Name)
	}
	m.do("start", m.run.start)
}

// WaitServing waits until the member answers a linearizable read.
func (m *Member) WaitServing() {
	m.tb.Helper()
	cl, err := newClient([]string{m.Endpoint()}, m.tls)
	if err != nil {
		m.tb.Fatalf("client of member %s: %v", m.Name, err)
	}
	defer cl.Close()
	testwait.For(m.tb, "member "+m.Name+" to serve", patience, func() error {
		if !m.run.running() {
			return errors.New("it does not run")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := cl.Get(ctx, "etcdtest")
		return err
	})
}

func (m *Member) status() (*clientv3.StatusResponse, error) {
	cl, err := newClient([]string{m.Endpoint()}, m.tls)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return cl.Status(ctx, m.Endpoint())
}

func (m *Member) do(what string, f func() error) {
	m.tb.Helper()
	if err := f(); err != nil {
		m.tb.Errorf("%s member %s: %v", what, m.Name, err)
	}
}
