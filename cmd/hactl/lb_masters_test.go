package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/lb"
	"github.com/hactl/hactl/internal/lb/pool"
	"github.com/hactl/hactl/internal/testwait"
)

// namedServer stands for a master's API server: it says its name and echoes.
func namedServer(t *testing.T, name string) (address string) {
	t.Helper()
	address = etcdtest.Address(t)
	ln, err := net.Listen("tcp", net.JoinHostPort(address, "6444"))
	if err != nil {
		t.Fatal(err)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				fmt.Fprint(c, name)
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return address
}

// masterClient is a connection through the balancer, and the master it led to.
type masterClient struct {
	net.Conn
	master string
}

func dialFront(t *testing.T, front string) masterClient {
	t.Helper()
	c, err := net.Dial("unix", front)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	name := make([]byte, 2)
	if _, err := io.ReadFull(c, name); err != nil {
		t.Fatal(err)
	}
	return masterClient{c, string(name)}
}

// lives says something over the old connection and hears it again.
func (c masterClient) lives(t *testing.T) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(c, "hello")
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Errorf("the connection to %s was cut: %v", c.master, err)
	}
}

// startLB runs `hactl lb run` in this process until the returned function is called.
func startLB(t *testing.T, dir string, args ...string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	// Two commands in one process must not read their flags at the same time; see
	// TestLBRunStatusDrain.
	spoke := &firstWrite{at: make(chan struct{})}
	go func() {
		e := &env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: spoke, getenv: os.Getenv}
		done <- newApp(e).RunContext(ctx, append([]string{"hactl", "lb", "run", "--root", dir}, args...))
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-spoke.at:
	case err := <-done:
		done <- err
		t.Fatalf("it ended: %v", err)
	}
	return stop
}

// The balancer follows cluster.yaml and its drop-ins while it runs: nobody else
// is cut, a bad file changes nothing and is told with its line, and when there is
// no good one at all the last good list serves.
func TestLBFollowsTheMasters(t *testing.T) {
	dir := t.TempDir()
	front := filepath.Join(dir, "front.sock")
	file := filepath.Join(dir, "etc", "hactl", "cluster.yaml")
	dropIn := filepath.Join(dir, "etc", "hactl", "cluster.yaml.d", "masters.yaml")
	if err := os.MkdirAll(filepath.Dir(dropIn), 0o755); err != nil {
		t.Fatal(err)
	}
	addr := map[string]string{}
	for _, m := range []string{"m1", "m2", "m3"} {
		addr[m] = namedServer(t, m)
	}
	masters := func(names ...string) string {
		var b strings.Builder
		b.WriteString("masters:\n")
		for _, m := range names {
			fmt.Fprintf(&b, "  - {name: %s, address: %s}\n", m, addr[m])
		}
		return b.String()
	}
	const head = "apiVersion: hactl/v1alpha1\nkind: Cluster\nname: test\n"
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	status := func() (s lb.Status, err error) {
		out, _, err := hactlLB(t.Context(), "status", "--root", dir, "-o", "json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &s)
		}
		return s, err
	}
	ready := func(want ...string) {
		t.Helper()
		testwait.For(t, strings.Join(want, ", ")+" to be ready", 20*time.Second, func() error {
			s, err := status()
			if err != nil {
				return err
			}
			var have []string
			for _, b := range s.Backends {
				if !b.Removed && b.State == pool.Ready {
					have = append(have, b.Name)
				}
			}
			if !slices.Equal(have, want) {
				return fmt.Errorf("ready are %v; %s", have, s.ListErr)
			}
			return nil
		})
	}
	lead := func(want ...string) { // where new connections lead
		t.Helper()
		var have []string
		for range 6 {
			c := dialFront(t, front)
			have = append(have, c.master)
			_ = c.Close()
		}
		slices.Sort(have)
		if have = slices.Compact(have); !slices.Equal(have, want) {
			t.Errorf("new connections lead to %v, want %v", have, want)
		}
	}
	args := []string{"--from-masters", "--check", "tcp", "--listen", "unix:" + front, "--algorithm", "round-robin", "--slow-start", "-1s", "--rebalance", "0", "--drain-timeout", "1s"}

	write(file, head+masters("m1", "m2"))
	stop := startLB(t, dir, args...)
	ready("m1", "m2")
	old := []masterClient{dialFront(t, front), dialFront(t, front)}
	if old[0].master == old[1].master {
		t.Fatalf("both lead to %s", old[0].master)
	}
	write(file, head+masters("m1", "m3"))
	ready("m1", "m3")
	lead("m1", "m3")
	for _, c := range old {
		if c.master == "m1" { // a removed one's may be ended when --drain-timeout is over
			c.lives(t)
		}
	}

	write(dropIn, masters("m3"))
	ready("m3")
	write(dropIn, masters("m3", "m2")) // in place: the folder's own time stays
	ready("m2", "m3")
	lead("m2", "m3")
	kept := dialFront(t, front)

	for bad, want := range map[string]string{
		"masters:\n  - {name: m3, address: nonsense}\n":    "masters.yaml:2: masters[0].address",
		"masters:\n  - {name: m3, adress: 10.0.0.1}\n":     "masters.yaml:2: masters[0].adress",
		"masters:\n  - {name: m3, address: 10.0.0.1}\n[\n": "masters.yaml:",
	} {
		write(dropIn, bad)
		testwait.For(t, "the bad file to be refused", 20*time.Second, func() error {
			s, err := status()
			if err == nil && !strings.Contains(s.ListErr, want) {
				err = fmt.Errorf("refused for %q, want %q", s.ListErr, want)
			}
			return err
		})
		lead("m2", "m3")
		kept.lives(t)
	}
	_ = kept.Close()
	stop()

	// It starts again with a file that is bad, and with none at all.
	for range 2 {
		stop := startLB(t, dir, args...)
		ready("m2", "m3")
		lead("m2", "m3")
		if s, err := status(); err != nil || s.ListFrom != "disk" || s.ListErr == "" {
			t.Errorf("status: %+v, %v", s, err)
		}
		stop()
		if err := os.RemoveAll(filepath.Dir(file)); err != nil {
			t.Fatal(err)
		}
	}
}
