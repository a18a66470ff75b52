//go:build faults

package lb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lb"
	"github.com/hactl/hactl/internal/lb/pool"
	"github.com/hactl/hactl/internal/process"
	"github.com/hactl/hactl/internal/testwait"
)

// balancer is a running load balancer, ours or HAProxy.
type balancer struct {
	name string // for reports
	addr string
	proc *process.Process
	log  *os.File
	root string // of ours; empty: HAProxy
	heir int    // the process that it has handed over to

	statsSocket string // of HAProxy
}

// startOurs runs `hactl lb run` on 127.0.5.1 before the backends.
func startOurs(t *testing.T, backends []string, more ...string) *balancer {
	t.Helper()
	return startOursAt(t, "127.0.5.1:6443", backends, more...)
}

func startOursAt(t *testing.T, addr string, backends []string, more ...string) *balancer {
	t.Helper()
	root := t.TempDir()
	b := &balancer{name: "hactl", addr: addr, root: root}
	args := []string{"lb", "run", "--root", root, "--listen", b.addr}
	for _, a := range backends {
		args = append(args, "--backend", a)
	}
	b.run(t, hactl(t), append(args, more...)...)
	testwait.For(t, "all backends to be ready", patience, func() error {
		s, err := b.status(t)
		if err != nil {
			return err
		}
		for _, m := range s.Backends {
			if m.State != pool.Ready {
				return fmt.Errorf("%s is %v: %s", m.Name, m.State, m.Why)
			}
		}
		return nil
	})
	return b
}

func (b *balancer) run(t *testing.T, path string, args ...string) {
	t.Helper()
	var err error
	if b.log, err = os.Create(filepath.Join(t.TempDir(), "balancer.log")); err != nil {
		t.Fatal(err)
	}
	b.proc, err = process.Start(process.Config{Path: path, Args: args, Stdout: b.log, Stderr: b.log, KeepGroup: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = b.proc.SignalTree(syscall.SIGKILL)
		b.proc.Wait()
		if b.heir != 0 {
			_ = syscall.Kill(b.heir, syscall.SIGKILL)
		}
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", b.name, tail(b.log.Name(), 6<<10))
		}
		b.log.Close()
	})
	testwait.For(t, b.name+" to accept", patience, func() error {
		if err := b.proc.Err(); err != nil {
			t.Fatalf("%s ended: %v\n%s", b.name, err, tail(b.log.Name(), 2<<10))
		}
		c, err := net.Dial("tcp", b.addr)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

func (b *balancer) status(t *testing.T) (lb.Status, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return lb.NewClient(filepath.Join(b.root, "run", "hactl", "lb.sock")).Status(ctx)
}

func (b *balancer) mustStatus(t *testing.T) lb.Status {
	t.Helper()
	s, err := b.status(t)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// backend is what it says of the one at address.
func (b *balancer) backend(t *testing.T, address string) lb.BackendStatus {
	t.Helper()
	for _, m := range b.mustStatus(t).Backends {
		if m.Address == address {
			return m
		}
	}
	t.Fatalf("no backend at %s", address)
	return lb.BackendStatus{}
}

// until waits for the state of the backend at address.
func (b *balancer) until(t *testing.T, address string, want pool.State) {
	t.Helper()
	testwait.For(t, fmt.Sprintf("%s to be %v", address, want), patience, func() error {
		s, err := b.status(t)
		if err != nil {
			return err
		}
		for _, m := range s.Backends {
			if m.Address == address {
				if m.State != want {
					return fmt.Errorf("it is %v: %s", m.State, m.Why)
				}
				return nil
			}
		}
		return errors.New("no such backend")
	})
}

// rss is the resident memory of the balancer's own pages, in bytes.
func (b *balancer) rss(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.proc.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no RssAnon in the balancer's status")
	return 0
}

// guide is HAProxy as kubeadm's guide to a highly available control plane sets it up.
const guide = `global
 maxconn 4000
 stats socket %[3]s
defaults
 mode tcp
 option redispatch
 retries 1
 timeout queue 20s
 timeout connect 5s
 timeout client 35s
 timeout server 35s
 timeout check 10s
listen apiserver
 bind %[1]s
 option httpchk GET /healthz
 http-check expect status 200
 balance roundrobin
 default-server inter 10s downinter 5s rise 2 fall 2 slowstart 60s maxconn 250 maxqueue 256 weight 100 check check-ssl verify none
%[2]s`

// startHAProxy runs it on 127.0.5.2 before the backends.
func startHAProxy(t *testing.T, backends []string) *balancer {
	t.Helper()
	path, err := exec.LookPath("haproxy")
	if err != nil {
		t.Fatalf("the comparison needs HAProxy: %v (apt-get install haproxy)", err)
	}
	b := &balancer{name: "HAProxy", addr: "127.0.5.2:6443", statsSocket: filepath.Join(t.TempDir(), "stats")}
	var servers strings.Builder
	for i, a := range backends {
		fmt.Fprintf(&servers, " server s%d %s\n", i+1, a)
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, fmt.Appendf(nil, guide, b.addr, servers.String(), b.statsSocket), 0o600); err != nil {
		t.Fatal(err)
	}
	b.run(t, path, "-db", "-q", "-f", file)
	return b
}
