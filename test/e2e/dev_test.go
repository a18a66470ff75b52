//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/testwait"
)

// TestDev tells the life of a dev cluster: up, up again, heal, each refusal,
// down.
func TestDev(t *testing.T) {
	c := newCluster(t, "127.0.22.0")

	t.Run("an interrupted up leaves nothing running", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // killed, it would leave all behind
		defer cancel()
		cmd := c.command(ctx, "dev", "up", "--network", c.network, "--front-door", c.frontDoor)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		testwait.For(t, "the first process of a master", time.Minute, func() error {
			if len(processes(c.dir, "kube-apiserver")) == 0 {
				return fmt.Errorf("no kube-apiserver yet")
			}
			return nil
		})
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Error("an interrupted up exits 0")
		}
		c.nothingRuns(t)
	})

	c.up(t)
	before := c.pids()
	if len(before) < 20 {
		t.Fatalf("only %d processes after up: %v", len(before), before)
	}

	t.Run("a second up changes nothing", func(t *testing.T) {
		r := c.must(t, "dev", "up")
		if after := c.pids(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("processes changed\nbefore %v\nafter  %v\n%v", before, after, r)
		}
		for _, want := range []string{"kubeconfig: " + c.kubeconfig(), "get --raw /readyz", "dev stop m2"} {
			if !strings.Contains(r.stdout, want) {
				t.Errorf("output lacks %q:\n%s", want, r.stdout)
			}
		}
	})

	t.Run("refusals", func(t *testing.T) {
		for _, k := range []struct {
			name string
			args []string
			code int
			want []string
		}{
			{"another number of masters", []string{"dev", "up", "--masters", "5"}, 3, []string{"--masters 3, not 5", "down --purge"}},
			{"an even number", []string{"dev", "up", "--dir", t.TempDir(), "--masters", "2"}, 2, []string{"--masters 2"}},
			{"a missing program", []string{"dev", "up", "--kube-bin", "/nowhere"}, 1, []string{"/nowhere/kube-apiserver", "make build kube"}},
			{"a port that is taken", []string{"dev", "up", "--dir", filepath.Join(t.TempDir(), "x"), "--network", c.network, "--front-door", c.frontDoor}, 1, []string{c.frontDoor + " is taken by process", "hactl"}},
			{"no such master", []string{"dev", "stop", "m9"}, 2, []string{`no master "m9"`}},
			{"no such process", []string{"dev", "kill", "m1", "nginx"}, 1, []string{"nginx", "kube-apiserver"}},
			{"a folder with something else in it", []string{"dev", "up", "--dir", "/etc"}, 3, []string{"not empty"}},
			{"start of what runs", []string{"dev", "start", "m1"}, 1, []string{"running already"}},
			{"no folder", []string{"dev", "status", "--dir", "/nowhere"}, 1, []string{"no dev cluster", "hactl dev up"}},
			{"a missing argument", []string{"dev", "kill", "m1"}, 2, []string{"MASTER PROCESS"}},
		} {
			t.Run(k.name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				r := c.run(ctx, k.args...)
				if r.code != k.code {
					t.Errorf("exit %d, want %d: %v", r.code, k.code, r)
				}
				for _, want := range k.want {
					if !strings.Contains(r.stderr, want) {
						t.Errorf("no %q in: %v", want, r)
					}
				}
			})
		}
		if after := c.pids(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("a refused command changed the processes\nbefore %v\nafter  %v", before, after)
		}
	})

	t.Run("every daemon tells of itself", func(t *testing.T) { c.daemonsTell(t) })

	t.Run("status tells", func(t *testing.T) { c.statusTells(t) })

	t.Run("up heals a master that is gone", func(t *testing.T) {
		c.must(t, "dev", "stop", "m3")
		keep := processes(filepath.Join(c.dir, "m1"), "kube-apiserver")
		c.must(t, "dev", "up")
		c.waitHealthy(t)
		if now := processes(filepath.Join(c.dir, "m1"), "kube-apiserver"); fmt.Sprint(now) != fmt.Sprint(keep) {
			t.Errorf("m1 was touched: %v, before %v", now, keep)
		}
	})

	t.Run("logs", func(t *testing.T) {
		if r := c.must(t, "dev", "logs", "m1", "etcd", "-n", "5"); strings.Count(r.stdout, "\n") != 5 {
			t.Errorf("want 5 lines: %v", r)
		}
		if r := c.must(t, "dev", "logs", "m1"); !strings.Contains(r.stdout, "kube-apiserver | ") || !strings.Contains(r.stdout, "hactl-lb | ") {
			t.Errorf("not all processes: %.2000s", r.stdout)
		}
	})

	t.Run("keys are private", func(t *testing.T) { keysArePrivate(t, c.dir) })

	t.Run("down stops everything and keeps the data", func(t *testing.T) {
		c.must(t, "dev", "down")
		c.nothingRuns(t)
		c.up(t)
		c.waitHealthy(t)
	})

	t.Run("down --purge leaves nothing", func(t *testing.T) {
		c.must(t, "dev", "down", "--purge", "--yes")
		c.nothingRuns(t)
		if _, err := os.Stat(c.dir); !os.IsNotExist(err) {
			t.Errorf("the folder is still there: %v", err)
		}
	})
}

// daemonsTell asks each daemon of each host for its health and metrics.
func (c *cluster) daemonsTell(t *testing.T) {
	base := strings.TrimSuffix(c.network, "0")
	for i := range c.masters(t) {
		host := fmt.Sprintf("%s%d", base, i+1)
		for what, port := range map[string]int{"etcd": 2381, "balancer": 9445, "agent": 9446, "podmaster of the scheduler": 9450, "podmaster of the controllers": 9451} {
			tells(t, host+" "+what, fmt.Sprintf("http://%s:%d", host, port))
		}
	}
	tells(t, "front door", "http://"+base+"100:9445")
	for _, args := range [][]string{{"--version"}, {"version"}, {"agent", "--version"}, {"etcd", "run", "--version"}, {"lb", "run", "--version"}} {
		if r := c.must(t, args...); !strings.HasPrefix(r.stdout, "hactl") {
			t.Errorf("%v", r)
		}
	}
}

func tells(t *testing.T, what, url string) {
	t.Helper()
	for path, want := range map[string]string{"/livez": "", "/readyz": "", "/metrics": "# HELP "} {
		testwait.For(t, what+path, 20*time.Second, func() error {
			resp, err := http.Get(url + path)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
				return fmt.Errorf("%s: %.300s", resp.Status, body)
			}
			return nil
		})
	}
}

// pids lists all processes of the cluster, by what they run.
func (c *cluster) pids() []string {
	var all []string
	for _, p := range []string{"hactl", "podmaster", "kube-apiserver", "kube-scheduler", "kube-controller-manager"} {
		for _, pid := range processes(c.dir, p) {
			all = append(all, fmt.Sprintf("%s:%d", p, pid))
		}
	}
	return all
}

// nothingRuns checks that no process of the cluster is left and that its ports
// are free.
func (c *cluster) nothingRuns(t *testing.T) {
	t.Helper()
	if left := c.pids(); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
	ln, err := net.Listen("tcp", c.frontDoor)
	if err != nil {
		t.Errorf("the front door's port is not free: %v", err)
		return
	}
	ln.Close()
}

// keysArePrivate checks every file that must not be read by others.
func keysArePrivate(t *testing.T, dir string) {
	t.Helper()
	seen := 0
	err := filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		name := fi.Name()
		secret := strings.HasSuffix(name, ".key") || strings.HasSuffix(name, ".conf") || name == "token" || name == "kubeconfig" || name == "encryption.yaml"
		if fi.Mode().IsRegular() && secret {
			seen++
			if fi.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v, want 0600", path, fi.Mode().Perm())
			}
		}
		if fi.IsDir() && (name == "pki" || path == dir) && fi.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v, want 0700", path, fi.Mode().Perm())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 20 {
		t.Errorf("only %d secret files seen", seen)
	}
}
