//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// cluster is a dev cluster that a test drives only through the commands that a
// user has.
type cluster struct {
	dir, network, frontDoor string
	hactl, kubectl          string
}

// repo is the repository's root.
func repo(tb testing.TB) string {
	tb.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

// newCluster names a cluster that does not run yet. Its folder has a short path,
// since sockets lie in it, and is removed after the test; so are its processes.
func newCluster(tb testing.TB, network string) *cluster {
	tb.Helper()
	bin := filepath.Join(repo(tb), "bin")
	for _, need := range []string{"hactl", "podmaster", "kube/kube-apiserver", "kube/kubectl"} {
		if _, err := os.Stat(filepath.Join(bin, need)); err != nil {
			tb.Fatalf("%v: run these tests by `make test`, or after `make build kube`", err)
		}
	}
	dir, err := os.MkdirTemp("", "hactl-e2e-")
	if err != nil {
		tb.Fatal(err)
	}
	c := &cluster{
		dir: dir, network: network, frontDoor: strings.TrimSuffix(network, ".0") + ".100:6443",
		hactl: filepath.Join(bin, "hactl"), kubectl: filepath.Join(bin, "kube", "kubectl"),
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			c.keepLogs(tb)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if r := c.run(ctx, "dev", "down", "--purge", "--yes"); r.code != 0 && !strings.Contains(r.stderr, "no dev cluster") {
			tb.Errorf("down: %v", r)
		}
		_ = os.RemoveAll(dir)
	})
	return c
}

// result is how a command ended.
type result struct {
	args           []string
	code           int
	stdout, stderr string
}

func (r result) String() string {
	return fmt.Sprintf("hactl %s: exit %d\n%s%s", strings.Join(r.args, " "), r.code, r.stdout, r.stderr)
}

// command is hactl on this cluster's folder.
func (c *cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.hactl, args...)
	cmd.Env = append(os.Environ(), "HACTL_DEV_DIR="+c.dir)
	return cmd
}

// run runs hactl and waits for it.
func (c *cluster) run(ctx context.Context, args ...string) result {
	cmd := c.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := result{args: args, stdout: out.String(), stderr: errs.String()}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		r.code, r.stderr = -1, r.stderr+err.Error()
	}
	return r
}

// must runs hactl and ends the test unless it exits 0.
func (c *cluster) must(tb testing.TB, args ...string) result {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 5*time.Minute)
	defer cancel()
	r := c.run(ctx, args...)
	if r.code != 0 {
		tb.Fatal(r)
	}
	return r
}

// up starts the cluster.
func (c *cluster) up(tb testing.TB, more ...string) {
	tb.Helper()
	c.must(tb, append([]string{"dev", "up", "--network", c.network, "--front-door", c.frontDoor}, more...)...)
}

func (c *cluster) kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }

// masters returns m1 … as the folder has them.
func (c *cluster) masters(tb testing.TB) []string {
	tb.Helper()
	var info struct{ Masters int }
	data, err := os.ReadFile(filepath.Join(c.dir, "dev.json"))
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(data, &info); err != nil {
		tb.Fatal(err)
	}
	var names []string
	for i := range info.Masters {
		names = append(names, fmt.Sprintf("m%d", i+1))
	}
	return names
}

// client reads the admin's credentials from the kubeconfig, as any client does.
func (c *cluster) client(tb testing.TB) (server string, cfg *tls.Config) {
	tb.Helper()
	data, err := os.ReadFile(c.kubeconfig())
	if err != nil {
		tb.Fatal(err)
	}
	var kc struct {
		Clusters []struct {
			Cluster struct {
				Server string `yaml:"server"`
				CA     string `yaml:"certificate-authority-data"`
			} `yaml:"cluster"`
		} `yaml:"clusters"`
		Users []struct {
			User struct {
				Cert string `yaml:"client-certificate-data"`
				Key  string `yaml:"client-key-data"`
			} `yaml:"user"`
		} `yaml:"users"`
	}
	if err := yaml.Unmarshal(data, &kc); err != nil || len(kc.Clusters) != 1 || len(kc.Users) != 1 {
		tb.Fatalf("read %s: %v", c.kubeconfig(), err)
	}
	decode := func(s string) []byte {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			tb.Fatal(err)
		}
		return b
	}
	cert, err := tls.X509KeyPair(decode(kc.Users[0].User.Cert), decode(kc.Users[0].User.Key))
	if err != nil {
		tb.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(decode(kc.Clusters[0].Cluster.CA)) {
		tb.Fatal("no CA in the kubeconfig")
	}
	return kc.Clusters[0].Cluster.Server, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{cert}}
}

// keepLogs copies the logs of a failed test to where they survive it.
func (c *cluster) keepLogs(tb testing.TB) {
	keep := filepath.Join(os.TempDir(), "hactl-e2e-logs", strings.ReplaceAll(tb.Name(), "/", "_"))
	_ = os.RemoveAll(keep)
	logs, _ := filepath.Glob(filepath.Join(c.dir, "*", "var", "log", "hactl", "*.log"))
	for _, path := range logs {
		rel, err := filepath.Rel(c.dir, path)
		if err != nil {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		to := filepath.Join(keep, rel)
		if os.MkdirAll(filepath.Dir(to), 0o700) == nil {
			_ = os.WriteFile(to, data, 0o600)
		}
	}
	tb.Logf("logs of the failed cluster: %s", keep)
}
