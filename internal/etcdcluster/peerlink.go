package etcdcluster

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver"
)

// Timing of the links to the other members.
const (
	linkPing    = 2 * time.Second       // keeps the idle connection open
	linkAgain   = 20 * time.Millisecond // after a refused or lost connection: how soon a death is seen
	linkNoHurry = time.Second           // after a time-out or a bad certificate, which prove nothing
	linkMembers = time.Second           // between two looks at the membership
)

// leaderDeadLine is logged once for each leader that is seen dead.
const leaderDeadLine = "the leader's process is dead: writes wait for the next one"

// guardLeader feeds the member's leaderGate until ctx ends: it keeps a link to
// every other member, whoever they are.
func (m *Member) guardLeader(ctx context.Context, s *etcdserver.EtcdServer) {
	gate := newLeaderGate(uint64(s.MemberID()), s, 3*m.cfg.Election, m.metrics.heldWrite)
	m.gate.Store(gate)
	defer m.gate.Store(nil)
	var tlsConfig *tls.Config
	if m.cfg.PeerTLS.Cert != "" {
		var err error
		if tlsConfig, err = m.cfg.PeerTLS.info().ClientConfig(); err != nil {
			m.cfg.Logger.Warn("deaths of the leader will be noticed late", "member", m.cfg.Name, "err", err)
			return
		}
	}
	var running sync.WaitGroup
	defer running.Wait()
	links := map[types.ID]context.CancelFunc{}
	defer func() {
		for _, stop := range links {
			stop()
		}
	}()
	tick := time.NewTicker(linkMembers)
	defer tick.Stop()
	for {
		seen := map[types.ID]bool{}
		for _, peer := range s.Cluster().Members() {
			if peer.ID == s.MemberID() || len(peer.PeerURLs) == 0 {
				continue
			}
			seen[peer.ID] = true
			if links[peer.ID] == nil {
				linkCtx, stop := context.WithCancel(ctx)
				links[peer.ID] = stop
				l := peerLink{url: peer.PeerURLs[0], tls: tlsConfig, dead: func() {
					if gate.sawDead(uint64(peer.ID)) {
						m.cfg.Logger.Info(leaderDeadLine, "member", m.cfg.Name, "leader", memberName(s, peer.ID))
					}
				}}
				running.Go(func() { l.run(linkCtx) })
			}
		}
		for id, stop := range links {
			if !seen[id] {
				stop()
				delete(links, id)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// peerLink keeps one idle connection to another member's peer port, only to
// notice at once when the process behind it dies.
type peerLink struct {
	url  string
	tls  *tls.Config // nil for http
	dead func()      // called when the port refuses connections
}

var errLinkLost = errors.New("connection lost")

func (l peerLink) run(ctx context.Context) {
	for ctx.Err() == nil {
		pause := linkNoHurry
		switch err := l.hold(ctx); {
		case errors.Is(err, syscall.ECONNREFUSED):
			l.dead()
			pause = linkAgain
		case errors.Is(err, errLinkLost), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF):
			// The next try tells whether the process or only the connection is
			// gone. A process that is just dying may accept one more.
			pause = linkAgain
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// hold connects and returns when the connection ends.
func (l peerLink) hold(ctx context.Context) error {
	lost := make(chan struct{})
	var once sync.Once
	tell := func() { once.Do(func() { close(lost) }) }
	plain := &net.Dialer{Timeout: time.Second}
	watch := func(c net.Conn, err error) (net.Conn, error) {
		if err != nil {
			return nil, err
		}
		return &lossConn{Conn: c, lost: tell}, nil
	}
	transport := &http.Transport{
		MaxConnsPerHost: 1,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return watch(plain.DialContext(ctx, network, addr))
		},
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return watch((&tls.Dialer{NetDialer: plain, Config: l.tls}).DialContext(ctx, network, addr))
		},
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	for {
		if err := ping(ctx, client, l.url); err != nil {
			return err
		}
		select {
		case <-lost:
			return errLinkLost
		case <-time.After(linkPing):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ping asks for the version, which every peer port tells.
func ping(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/version", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// Not read to its end, the connection would not be kept.
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)); err != nil {
		return errLinkLost
	}
	return nil
}

// lossConn tells when reading ends. The transport reads from an idle connection
// all the time, so that is at once.
type lossConn struct {
	net.Conn
	lost func()
}

func (c *lossConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.lost()
	}
	return n, err
}
