package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/process"
)

const (
	kubePort  = 16444
	kubeToken = "bench-lease-token"
	// kubeGroups is how many times three kube-schedulers there are, each three with a
	// lease of their own.
	kubeGroups = 4
)

// kube is client-go's leader election as kube-scheduler runs it: kube-schedulers in
// front of one kube-apiserver, which nothing ever happens to, with their default
// 15/10/2 s.
type kube struct {
	s      *scene
	dir    string
	api    *process.Process
	groups []*kubeGroup
}

// kubeGroup is three schedulers with one lease.
type kubeGroup struct {
	k     *kube
	lease string
	sched [hosts]*process.Process
}

func kubeAPI() string { return fmt.Sprintf("https://127.210.0.9:%d", kubePort) }

// startKube starts the API server on the scene's etcd, and the schedulers.
func (s *scene) startKube(ctx context.Context) (*kube, error) {
	k := &kube{s: s, dir: filepath.Join(s.dir, "kube")}
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
	for n := range kubeGroups {
		g := &kubeGroup{k: k, lease: fmt.Sprintf("bench%d", n)}
		k.groups = append(k.groups, g)
		for i := range g.sched {
			if err := g.start(i); err != nil {
				return k, err
			}
		}
		if err := until(ctx, g.lease+" to be held", func() error { _, _, err := g.holder(ctx); return err }); err != nil {
			return k, err
		}
	}
	return k, pause(ctx, settle)
}

// settle is what a scheduler that has just been started gets to become a candidate.
const settle = 6 * time.Second

func (k *kube) file(name string) string { return filepath.Join(k.dir, name) }

func (k *kube) startAPI() error {
	log, err := os.Create(k.file("apiserver.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	k.api, err = process.Start(process.Config{Path: filepath.Join(k.s.o.kube, "kube-apiserver"), Stdout: log, Stderr: log, Args: []string{
		"--etcd-servers", strings.Join(endpoints(0), ","), "--etcd-prefix", "/registry", "--bind-address", "127.210.0.9", "--advertise-address", "10.99.0.1",
		"--endpoint-reconciler-type", "none", "--secure-port", fmt.Sprint(kubePort), "--cert-dir", k.file("certs"),
		"--token-auth-file", k.file("tokens.csv"), "--authorization-mode", "AlwaysAllow", "--service-cluster-ip-range", "10.98.0.0/24",
		"--service-account-issuer", "https://bench", "--service-account-key-file", k.file("sa.key"), "--service-account-signing-key-file", k.file("sa.key"),
		"--anonymous-auth=false",
	}})
	return err
}

// start starts one scheduler with a host name of its own, by which its lease tells
// it from the others.
func (g *kubeGroup) start(i int) error {
	log, err := os.OpenFile(g.k.file("scheduler.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	g.sched[i], err = process.Start(process.Config{Path: "unshare", Stdout: log, Stderr: log, Args: []string{
		"--uts", "sh", "-c", `hostname "$0" && exec "$@"`, schedName(i), filepath.Join(g.k.s.o.kube, "kube-scheduler"),
		"--kubeconfig", g.k.file("kubeconfig"), "--authentication-kubeconfig", g.k.file("kubeconfig"), "--authorization-kubeconfig", g.k.file("kubeconfig"),
		"--secure-port=0", "--leader-elect=true", "--leader-elect-resource-name", g.lease,
	}})
	return err
}

func schedName(i int) string { return fmt.Sprintf("sched%d", i) }

func (k *kube) processes() []*process.Process {
	all := []*process.Process{k.api}
	for _, g := range k.groups {
		all = append(all, g.sched[:]...)
	}
	return all
}

func (k *kube) end() {
	for _, p := range k.processes() {
		if p != nil {
			_ = p.Kill()
			p.Wait()
		}
	}
}

var identity = regexp.MustCompile(`sched(\d)_[0-9a-f-]{36}`)

// holder is who leads, by the lease as it lies in etcd: asking the API server so often
// would be a load of its own.
func (g *kubeGroup) holder(ctx context.Context) (id string, i int, err error) {
	call, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	resp, err := g.k.s.client.Get(call, "/registry/leases/kube-system/"+g.lease, clientv3.WithSerializable())
	if err != nil {
		return "", 0, err
	}
	for _, kv := range resp.Kvs {
		if m := identity.FindSubmatch(kv.Value); m != nil && int(m[1][0]-'0') < hosts {
			return string(m[0]), int(m[1][0] - '0'), nil
		}
	}
	return "", 0, errors.New("nobody holds the lease " + g.lease)
}

// holders are all groups'.
func (k *kube) holders(ctx context.Context) ([]string, error) {
	var all []string
	for _, g := range k.groups {
		err := until(ctx, g.lease+" to be held", func() error {
			id, _, err := g.holder(ctx)
			if err == nil {
				all = append(all, id)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// side sends sig to the holders of all groups, side by side, until r has want repeats.
func (k *kube) side(ctx context.Context, want int, sig syscall.Signal, r *result) error {
	return side(ctx, k.s, k.groups, want, r, func(ctx context.Context, g *kubeGroup) error { return g.suffer(ctx, sig, r) })
}

// suffer lets an event happen once. The time is from the event until another
// holder's claim is committed: without the start of its work, which favours it.
func (g *kubeGroup) suffer(ctx context.Context, sig syscall.Signal, r *result) error {
	if err := phase(ctx); err != nil {
		return err
	}
	was, i, err := g.holder(ctx)
	if err != nil {
		return err
	}
	hit := lease.Boottime{}.Now()
	if err := g.sched[i].Signal(sig); err != nil {
		return err
	}
	if err := g.succession(ctx, was, hit, r); err != nil {
		return err
	}
	return g.mend(ctx)
}

// succession waits until the lease is another one's.
func (g *kubeGroup) succession(ctx context.Context, was string, hit time.Duration, r *result) error {
	err := until(ctx, "another holder of "+g.lease, func() error {
		now, _, err := g.holder(ctx)
		if err == nil && now == was {
			err = errors.New("the same one holds")
		}
		return err
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.note(func(r *result) { r.stuck++ })
	}
	return r.add(lease.Boottime{}.Now() - hit)
}

// mend starts the schedulers that have ended.
func (g *kubeGroup) mend(ctx context.Context) error {
	for i, p := range g.sched {
		select {
		case <-p.Done():
			if err := g.start(i); err != nil {
				return err
			}
		default:
		}
	}
	return pause(ctx, settle)
}

// kubeStanding measures the schedulers that wait.
func kubeStanding(ctx context.Context, s *scene, t *table) error {
	if s.kube == nil {
		return nil
	}
	var waiting []*process.Process
	for _, g := range s.kube.groups {
		_, holds, err := g.holder(ctx)
		if err != nil {
			return err
		}
		for i, p := range g.sched {
			if i != holds {
				waiting = append(waiting, p)
			}
		}
	}
	return s.cost(ctx, t, kubePeer, waiting, 30*time.Second, "", "")
}
