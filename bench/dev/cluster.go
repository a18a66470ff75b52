package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/procfs"

	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/test/load"
)

// cluster is the dev cluster that is measured.
type cluster struct{ bin, dir, network, frontDoor string }

// hactl runs a command and returns its standard output.
func (c *cluster) hactl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "hactl"), args...)
	cmd.Env = append(os.Environ(), "HACTL_DEV_DIR="+c.dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("hactl %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

func (c *cluster) up(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	_, err := c.hactl(ctx, "dev", "up", "--network", c.network, "--front-door", c.frontDoor)
	return time.Since(began), err
}

func (c *cluster) healthy(ctx context.Context) error {
	return waitUntil(ctx, "a healthy cluster", func() error {
		_, err := c.hactl(ctx, "dev", "status")
		return err
	})
}

func waitUntil(ctx context.Context, what string, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func listening(c *cluster, port int) error {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("%s.100:%d", strings.TrimSuffix(c.network, ".0"), port), time.Second)
	if err == nil {
		conn.Close()
	}
	return err
}

// report is what is read of `dev status -o json`.
type report struct {
	Etcd       struct{ Leader string }
	Singletons []struct{ Name, Holder string }
}

func (c *cluster) report(ctx context.Context) (report, error) {
	var r report
	out, err := c.hactl(ctx, "dev", "status", "-o", "json")
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(out), &r)
}

func (c *cluster) etcdLeader(ctx context.Context) (string, error) {
	r, err := c.report(ctx)
	return r.Etcd.Leader, err
}

func (c *cluster) holder(ctx context.Context, singleton string) (string, error) {
	r, err := c.report(ctx)
	for _, s := range r.Singletons {
		if s.Name == singleton && s.Holder != "" {
			return s.Holder, nil
		}
	}
	return "", errors.Join(err, fmt.Errorf("nobody holds %s", singleton))
}

type process struct {
	kind string
	rss  float64 // MiB
}

// processes lists the cluster's processes by what they run.
func (c *cluster) processes() ([]process, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, err
	}
	var out []process
	for _, p := range all {
		args, err := p.CmdLine()
		if err != nil || len(args) == 0 || !strings.Contains(strings.Join(args, " "), c.dir) {
			continue
		}
		st, err := p.Stat()
		if err != nil {
			continue
		}
		kind := filepath.Base(args[0])
		if kind == "hactl" && len(args) > 2 {
			kind += " " + strings.Join(args[1:3], " ")
			kind, _, _ = strings.Cut(kind, " --")
		}
		out = append(out, process{kind, float64(st.ResidentMemory()) / (1 << 20)})
	}
	return out, nil
}

// client is a client of the API, through the front door.
type client struct {
	server string
	tls    *tls.Config
	http   *http.Client
	pods   int
}

func (c *cluster) client() (*client, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, "kubeconfig"))
	if err != nil {
		return nil, err
	}
	k, err := pki.ParseKubeconfig(text)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(k.Cert, k.Key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(k.CA)
	t := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{cert}}
	return &client{
		server: k.Server, tls: t,
		http: &http.Client{Transport: &http.Transport{TLSClientConfig: t, DisableKeepAlives: true}, Timeout: 20 * time.Second},
	}, nil
}

func (cl *client) do(ctx context.Context, method, path, body string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, cl.server+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := cl.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %.300s", method, path, resp.Status, b)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// makeNode makes a node with room, which nobody runs.
func (cl *client) makeNode(ctx context.Context) error {
	if err := cl.do(ctx, "POST", "/api/v1/nodes", `{"metadata":{"name":"bench"}}`, nil); err != nil {
		return err
	}
	return cl.do(ctx, "PUT", "/api/v1/nodes/bench/status",
		`{"metadata":{"name":"bench"},"status":{"allocatable":{"cpu":"64","memory":"64Gi","pods":"10000"},"capacity":{"cpu":"64","memory":"64Gi","pods":"10000"}}}`, nil)
}

// needNode makes the node unless it is there.
func (cl *client) needNode(ctx context.Context) error {
	if cl.do(ctx, "GET", "/api/v1/nodes/bench", "", nil) == nil {
		return nil
	}
	return cl.makeNode(ctx)
}

// bindPod creates a pod that any node will do for, and waits until it is bound.
func (cl *client) bindPod(ctx context.Context) (time.Duration, error) {
	if cl.pods == 0 {
		if err := cl.needNode(ctx); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	cl.pods++
	name := fmt.Sprintf("bench-%d-%d", os.Getpid(), time.Now().UnixNano())
	pod := fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"automountServiceAccountToken":false,"tolerations":[{"operator":"Exists"}],"containers":[{"name":"c","image":"none"}]}}`, name)
	const pods = "/api/v1/namespaces/default/pods"
	if err := waitUntil(ctx, "the pod "+name, func() error { return cl.do(ctx, "POST", pods, pod, nil) }); err != nil {
		return 0, err
	}
	err := waitUntil(ctx, name+" to be bound", func() error {
		var p struct{ Spec struct{ NodeName string } }
		if err := cl.do(ctx, "GET", pods+"/"+name, "", &p); err != nil {
			return err
		}
		if p.Spec.NodeName == "" {
			return errors.New("not yet")
		}
		return nil
	})
	took := time.Since(began)
	return took, errors.Join(err, cl.do(ctx, "DELETE", pods+"/"+name+"?gracePeriodSeconds=0", "", nil))
}

// gap does fault while a client reads, repeats times, and prints what it saw.
func gap(ctx context.Context, c *cluster, cl *client, label string, repeats int, fault func(context.Context) error) error {
	var seen []time.Duration
	failed, sent := 0, 0
	for range repeats {
		loadCtx, stop := context.WithCancel(ctx)
		results := make(chan []load.Result, 1)
		go func() {
			results <- load.Run(loadCtx, load.Config{
				TLS: cl.tls, Every: 20 * time.Millisecond,
				Request: func(ctx context.Context, _ int) (*http.Request, error) {
					return http.NewRequestWithContext(ctx, http.MethodGet, cl.server+"/api/v1/namespaces/default", nil)
				},
			})
		}()
		pause(ctx, 500*time.Millisecond)
		at := time.Now()
		err := fault(ctx)
		pause(ctx, 4*time.Second)
		stop()
		all := <-results
		if err != nil {
			return err
		}
		seen = append(seen, load.Gap(all, at, at.Add(4*time.Second)))
		failed += len(load.Failed(all))
		sent += len(all)
		if _, err := c.up(ctx); err != nil { // heals what is stopped
			return err
		}
	}
	show(label, seen)
	fmt.Printf("  %-38s %d of %d requests failed\n", "", failed, sent)
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
