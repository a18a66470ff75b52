package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/process"
)

// kubeWho is client-go's leader election as kube-scheduler runs it: three
// kube-schedulers in front of one kube-apiserver, with their default 15/10/2 s.
const kubeWho = "kube-scheduler"

const (
	kubePort  = 16444
	kubeToken = "bench-lease-token"
)

// kube is the peer's side of the scene.
type kube struct {
	s         *scene
	dir       string
	api       *process.Process
	sched     [3]*process.Process
	transport *http.Client
}

func kubeAPI() string { return fmt.Sprintf("https://127.210.0.9:%d", kubePort) }

// startKube starts the API server on the scene's etcd, and three schedulers.
func (s *scene) startKube(ctx context.Context) (*kube, error) {
	k := &kube{s: s, dir: filepath.Join(s.dir, "kube"), transport: &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // our own server, on loopback, made for this run
	}}}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return nil, err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	kubeconfig := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: %s}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, kubeAPI(), kubeToken)
	for name, content := range map[string]string{
		"sa.key": string(text), "tokens.csv": kubeToken + ",bench,bench,system:masters\n", "kubeconfig": kubeconfig,
	} {
		if err := os.WriteFile(filepath.Join(k.dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	if err := k.startAPI(); err != nil {
		return nil, err
	}
	for i := range k.sched {
		if err := k.start(i); err != nil {
			return nil, err
		}
	}
	return k, s.until(ctx, "kube-scheduler to have a leader", func() error { _, err := k.holder(ctx); return err })
}

func (k *kube) file(name string) string { return filepath.Join(k.dir, name) }

func (k *kube) startAPI() error {
	log, err := os.Create(k.file("apiserver.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	k.api, err = process.Start(process.Config{Path: filepath.Join(k.s.o.kube, "kube-apiserver"), Stdout: log, Stderr: log, Args: []string{
		"--etcd-servers", endpoints(), "--etcd-prefix", "/registry", "--bind-address", "127.210.0.9", "--advertise-address", "10.99.0.1",
		"--endpoint-reconciler-type", "none", "--secure-port", fmt.Sprint(kubePort), "--cert-dir", k.file("certs"),
		"--token-auth-file", k.file("tokens.csv"), "--authorization-mode", "AlwaysAllow", "--service-cluster-ip-range", "10.98.0.0/24",
		"--service-account-issuer", "https://bench", "--service-account-key-file", k.file("sa.key"), "--service-account-signing-key-file", k.file("sa.key"),
		"--anonymous-auth=false",
	}})
	return err
}

// start starts one scheduler with a host name of its own, by which its lease tells
// it from the others.
func (k *kube) start(i int) error {
	log, err := os.OpenFile(k.file(fmt.Sprintf("scheduler%d.log", i)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	k.sched[i], err = process.Start(process.Config{Path: "unshare", Stdout: log, Stderr: log, Args: []string{
		"--uts", "sh", "-c", `hostname "$0" && exec "$@"`, kubeName(i), filepath.Join(k.s.o.kube, "kube-scheduler"),
		"--kubeconfig", k.file("kubeconfig"), "--authentication-kubeconfig", k.file("kubeconfig"), "--authorization-kubeconfig", k.file("kubeconfig"),
		"--secure-port=0", "--leader-elect=true",
	}})
	return err
}

func kubeName(i int) string { return fmt.Sprintf("sched%d", i) }

func (k *kube) end() {
	for _, p := range append(k.sched[:], k.api) {
		if p != nil {
			_ = p.Kill()
			p.Wait()
		}
	}
}

// identity is who holds kube-scheduler's lease.
func (k *kube) identity(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, kubeAPI()+"/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+kubeToken)
	resp, err := k.transport.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", errors.New(resp.Status)
	}
	var l struct {
		Spec struct{ HolderIdentity string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&l); err != nil {
		return "", err
	}
	return l.Spec.HolderIdentity, nil
}

// holder is the scheduler that leads.
func (k *kube) holder(ctx context.Context) (int, error) {
	id, err := k.identity(ctx)
	if err != nil {
		return 0, err
	}
	for i := range k.sched {
		if strings.HasPrefix(id, kubeName(i)+"_") {
			return i, nil
		}
	}
	return 0, fmt.Errorf("the lease is %q's", id)
}

// kubeHits are the events that a scheduler can suffer.
func (k *kube) hit(ctx context.Context, ev event, i int) error {
	if ev.leader {
		if err := killLeader(ctx, k.s); err != nil {
			return err
		}
	}
	if ev.stays {
		return nil
	}
	sig := syscall.SIGKILL
	if ev.planned {
		sig = syscall.SIGTERM
	}
	if err := k.sched[i].Signal(sig); err != nil {
		return err
	}
	return nil
}

// measure repeats one event. The gap is from the event until another holder's claim
// is committed: without the start of its work, which favours it.
func (k *kube) measure(ctx context.Context, ev event, r *row) error {
	for range k.s.o.repeats {
		if err := phase(ctx); err != nil {
			return err
		}
		var i int
		if err := k.s.until(ctx, "a leading kube-scheduler", func() (err error) { i, err = k.holder(ctx); return err }); err != nil {
			return err
		}
		before, err := k.identity(ctx)
		if err != nil {
			return err
		}
		began := lease.Boottime{}.Now()
		if err := k.hit(ctx, ev, i); err != nil {
			return err
		}
		err = k.succession(ctx, ev, before)
		gap := lease.Boottime{}.Now() - began
		switch {
		case ev.stays && err != nil:
			r.kept++
			gap = time.Microsecond
		case err != nil:
			r.stuck++
		}
		if err := r.hist.RecordValue(max(1, gap.Microseconds())); err != nil {
			return err
		}
		if err := k.mend(ctx, ev); err != nil {
			return err
		}
	}
	return nil
}

// succession waits until the lease is another one's.
func (k *kube) succession(ctx context.Context, ev event, before string) error {
	deadline := time.Now().Add(time.Minute)
	if ev.stays {
		deadline = time.Now().Add(20 * time.Second)
	}
	for time.Now().Before(deadline) {
		if now, err := k.identity(ctx); err == nil && now != "" && now != before {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("the same one holds")
}

func (k *kube) mend(ctx context.Context, ev event) error {
	if ev.leader {
		if err := members(ctx, k.s, 0); err != nil {
			return err
		}
	}
	for i, p := range k.sched {
		select {
		case <-p.Done():
			if err := k.start(i); err != nil {
				return err
			}
		default:
		}
	}
	// A scheduler that has just started is no candidate yet.
	return pause(ctx, 8*time.Second)
}
