//go:build lab

package masters

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/hactl/hactl/internal/kubebin"
	"github.com/hactl/hactl/test/acceptance"
)

// The course of docs/acceptance.md on systemd hosts, through each host's front
// door in turn.
func TestAcceptanceThroughEachFrontDoor(t *testing.T) {
	m := up(t, 3)
	all := []string{"m1", "m2", "m3"}
	m.configure(t, all...)
	m.bootstrap(t, all)
	m.healthy(t, all...)
	cfg := acceptance.Config{Kubectl: filepath.Join("..", "..", "bin", "kube", "kubectl"), EtcdGet: m.etcdGet(t, "m1")}
	cfg.KWOK, cfg.KWOKStages = kwok(t)
	for _, n := range all {
		t.Run(n, func(t *testing.T) {
			through := cfg
			through.Kubeconfig = m.kubeconfigThrough(t, n)
			acceptance.Run(t, through)
		})
	}
	m.healthy(t, all...)
}

// kwok builds KWOK, or finds it built.
func kwok(t *testing.T) (program, stages string) {
	t.Helper()
	store, err := kubebin.New(kubebin.Config{Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	set, err := kubebin.KWOK(repo)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := store.Find(t.Context(), set)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "kwok"), filepath.Join(dir, "kwok-stages")
}

var serverLine = regexp.MustCompile(`server: \S+`)

// kubeconfigThrough is an administrator's file for programs on this machine, whose
// server leads to a host's front door.
func (m *masters) kubeconfigThrough(t *testing.T, host string) string {
	t.Helper()
	text := serverLine.ReplaceAll(m.read(t, host, "/etc/kubernetes/admin.conf"), []byte("server: https://"+m.forward(t, host+":6443")))
	file := filepath.Join(t.TempDir(), "admin.conf")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (m *masters) read(t *testing.T, host, path string) []byte {
	t.Helper()
	h, err := m.Named(host)
	if err != nil {
		t.Fatal(err)
	}
	data, err := h.ReadFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// forward returns a loopback address that leads to an address in the lab.
func (m *masters) forward(t *testing.T, address string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context())) // clean-ups use it, too
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { m.carry(ctx, client, address) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		conns.Wait()
	})
	return l.Addr().String()
}

// carry copies both ways until one side ends, or ctx.
func (m *masters) carry(ctx context.Context, client net.Conn, address string) {
	defer client.Close()
	server, err := m.DialContext(ctx, "tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	stop := context.AfterFunc(ctx, func() {
		_ = client.Close()
		_ = server.Close()
	})
	defer stop()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], way[0])
			if half, ok := way[1].(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
		})
	}
	both.Wait()
}

// etcdGet reads etcd past the API servers, with a host's own client certificate.
func (m *masters) etcdGet(t *testing.T, host string) func(context.Context, string) ([]byte, error) {
	t.Helper()
	const dir = "/etc/kubernetes/pki/etcd/"
	cert, err := tls.X509KeyPair(m.read(t, host, dir+"healthcheck-client.crt"), m.read(t, host, dir+"healthcheck-client.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(m.read(t, host, dir+"ca.crt"))
	h, err := m.Named(host)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := clientv3.New(clientv3.Config{
		Endpoints: []string{fmt.Sprintf("https://%s:2379", h.Address())}, Logger: zap.NewNop(),
		TLS: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13},
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return m.DialContext(ctx, "tcp", address)
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	return func(ctx context.Context, key string) ([]byte, error) {
		r, err := cl.Get(ctx, key)
		if err != nil || len(r.Kvs) == 0 {
			return nil, err
		}
		return r.Kvs[0].Value, nil
	}
}
