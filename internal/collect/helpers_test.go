package collect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/status"
)

// patience is a deadline for what must answer, on a slow machine with other work.
const patience = 30 * time.Second

var errDown = errors.New("connection refused")

// root makes the keys and certificates of master m1 at 127.0.0.1.
func root(t *testing.T) layout.Layout {
	t.Helper()
	l := layout.Layout{Root: t.TempDir()}
	store, err := pki.New(pki.Config{Dir: l.PKI(), Cluster: "prod"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.EnsureCAs(); err != nil {
		t.Fatal(err)
	}
	if _, err := store.EnsureLeaves(pki.Leaves{Self: pki.Master{Name: "m1", Address: "127.0.0.1"}, ServiceIP: "10.96.0.1"}); err != nil {
		t.Fatal(err)
	}
	return l
}

// serve answers HTTPS on a free port of address with the API server's
// certificate of l.
func serve(t *testing.T, l layout.Layout, address string, h http.HandlerFunc) (port int) {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(filepath.Join(l.PKI(), "apiserver.crt"), filepath.Join(l.PKI(), "apiserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", net.JoinHostPort(address, "0"), &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	_, p, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if port, err = strconv.Atoi(p); err != nil {
		t.Fatal(err)
	}
	return port
}

func ready(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "ok") }

// cluster is a configuration with masters m1, m2, … at the given addresses.
func cluster(addresses ...string) *config.Cluster {
	c := &config.Cluster{
		Name: "prod", APIServer: config.APIServer{Port: 1}, FrontDoor: config.FrontDoor{Port: 1}, Agent: config.Agent{Port: 1},
		Singletons: []config.Singleton{{Name: "kube-scheduler"}, {Name: "kube-controller-manager"}},
		Etcd:       config.Etcd{Quota: 8 << 30},
	}
	for i, a := range addresses {
		c.Masters = append(c.Masters, config.Master{Name: fmt.Sprintf("m%d", i+1), Address: a})
	}
	return c
}

// wellNode is what a healthy agent tells.
func wellNode(_ context.Context, m config.Master) (*status.Node, error) {
	return &status.Node{
		Name: m.Name, Version: "v1", Time: time.Now(),
		Processes:    []status.Process{{Name: "hactl-etcd", Active: "active"}},
		Balancer:     &status.LocalLB{Backends: []status.Backend{{Name: "m1", State: status.BackendReady}}, Connections: 3},
		Certificates: []status.Certificate{{File: "apiserver.crt", NotAfter: time.Now().AddDate(1, 0, 0)}},
	}, nil
}

// wellEtcd is a healthy etcd of c.
func wellEtcd(c *config.Cluster) func(context.Context) (status.Etcd, []status.Singleton) {
	return func(context.Context) (status.Etcd, []status.Singleton) {
		e := status.Etcd{Quorum: status.Yes, Membership: status.Yes, Leader: "m1", Term: 2}
		for _, m := range c.Masters {
			e.Members = append(e.Members, status.Member{Name: m.Name, Role: status.RoleVoter, Reachable: true, Leader: "m1", Term: 2})
		}
		return e, []status.Singleton{}
	}
}
