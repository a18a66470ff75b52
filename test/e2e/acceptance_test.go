//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/hactl/hactl/internal/kubebin"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/test/acceptance"
)

// TestAcceptance does the course of docs/acceptance.md on three masters.
func TestAcceptance(t *testing.T) {
	c := newCluster(t, "127.0.23.0")
	c.up(t)
	acceptance.Run(t, c.acceptance(t))
}

// TestABAC does the part on attribute-based access control in a plane of its own,
// of one master.
func TestABAC(t *testing.T) {
	c := newCluster(t, "127.0.24.0")
	files := t.TempDir()
	policy, tokens, err := acceptance.ABACFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	dropIn := filepath.Join(files, "abac.yaml")
	text := fmt.Sprintf("apiServer:\n  authorizationModes: [Node, ABAC]\n  abacPolicyFile: %s\n  tokenAuthFile: %s\n", policy, tokens)
	if err := os.WriteFile(dropIn, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.up(t, "--masters", "1", "--drop-in", dropIn)
	acceptance.RunABAC(t, c.acceptance(t))
}

func (c *cluster) acceptance(t *testing.T) acceptance.Config {
	t.Helper()
	kwok := kwokPrograms(t)
	return acceptance.Config{
		Kubectl: c.kubectl, Kubeconfig: c.kubeconfig(),
		KWOK: filepath.Join(kwok, "kwok"), KWOKStages: filepath.Join(kwok, "kwok-stages"),
		EtcdGet: c.etcdGet(t),
	}
}

// kwokPrograms builds KWOK, or finds it built.
func kwokPrograms(t *testing.T) string {
	t.Helper()
	store, err := kubebin.New(kubebin.Config{Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	set, err := kubebin.KWOK(repo(t))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := store.Find(t.Context(), set)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// etcdGet reads etcd with the first master's own client certificate.
func (c *cluster) etcdGet(t *testing.T) func(context.Context, string) ([]byte, error) {
	t.Helper()
	dir := filepath.Join(c.dir, "m1", "etc/kubernetes/pki/etcd")
	tlsConfig, err := pki.ClientTLS(pki.Files{
		Cert: filepath.Join(dir, "healthcheck-client.crt"), Key: filepath.Join(dir, "healthcheck-client.key"), CA: filepath.Join(dir, "ca.crt"),
	})
	if err != nil {
		t.Fatal(err)
	}
	host := c.network[:len(c.network)-1] + "1"
	cl, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + host + ":2379"}, TLS: tlsConfig, Logger: zap.NewNop()})
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
