//go:build lab

package lbsystemd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/systemd"
	"github.com/hactl/hactl/test/hosts"
)

const (
	patience = 60 * time.Second
	watchdog = 10 * time.Second
	unit     = "hactl-lb"
	front    = "m1:6443"
)

// world is a host with the balancer's units, and echo servers at the observer.
type world struct {
	t    *testing.T
	lab  *hosts.Lab
	host *hosts.Host
}

func newWorld(t *testing.T) *world {
	t.Helper()
	bin, err := filepath.Abs(filepath.Join("..", "..", "..", "bin"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := logging.New(t.Output(), logging.Config{})
	if err != nil {
		t.Fatal(err)
	}
	lab, err := hosts.Up(t.Context(), hosts.Config{Hosts: 1, Dir: labDir(t), Logger: log, Binds: []hosts.Bind{{Source: bin, Target: "/opt/hactl/bin"}}})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, lab: lab, host: lab.Host(1)}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if t.Failed() {
			out, err := w.host.Exec(ctx, "journalctl", "-u", unit+".service", "-u", unit+".socket", "-n", "60", "--no-pager")
			t.Log(out, err)
		}
		if err := lab.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	var backends []string
	for i := range 2 {
		addr := fmt.Sprintf("10.245.1.1:%d", 7000+i)
		w.echo(addr)
		backends = append(backends, "--backend", addr)
	}
	w.install(backends)
	return w
}

// labDir is a short path: sockets lie below it.
func labDir(t *testing.T) string {
	t.Helper()
	return t.TempDir()
}

// echo serves at the observer.
func (w *world) echo(addr string) {
	w.t.Helper()
	ln, err := w.lab.Listen(w.t.Context(), "tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
}

// install renders the units as for a master, but for where the backends are.
func (w *world) install(backends []string) {
	w.t.Helper()
	l := layout.Layout{}
	box := systemd.SandboxOf(l, unit)
	box.SocketUnit = unit + ".socket"
	service, err1 := systemd.Render(workload.Unit{
		Name: unit, Description: "load balancer", Notify: true, WatchdogSec: watchdog, StopTimeout: 30 * time.Second,
		Exec: append([]string{"/opt/hactl/bin/hactl", "lb", "run", "--check", "tcp", "--listen", ":6443", "--drain-timeout", "20s"}, backends...),
	}, box, systemd.Options{Version: 252})
	socket, err2 := systemd.RenderSocket(unit, "front door", ":6443")
	ctx := w.t.Context()
	err3 := w.host.WriteFile(ctx, "/etc/systemd/system/"+systemd.FileName(unit), service, 0o644)
	err4 := w.host.WriteFile(ctx, "/etc/systemd/system/"+box.SocketUnit, socket, 0o644)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		w.t.Fatal(err)
	}
	w.exec("systemctl", "daemon-reload")
	w.exec("systemctl", "start", box.SocketUnit)
	w.exec("systemctl", "start", systemd.FileName(unit))
}

func (w *world) exec(args ...string) string {
	w.t.Helper()
	out, err := w.host.Exec(w.t.Context(), args...)
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

func (w *world) mainPID() string {
	return w.exec("systemctl", "show", "-P", "MainPID", unit)
}

// conn is a client's connection.
type conn struct {
	net.Conn
	r *bufio.Reader
}

func (w *world) dial(ctx context.Context) (*conn, error) {
	c, err := w.lab.DialContext(ctx, "tcp", front)
	if err != nil {
		return nil, err
	}
	return &conn{c, bufio.NewReader(c)}, nil
}

// say sends a line and hears it again.
func (c *conn) say(line string) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(c, line); err != nil {
		return err
	}
	got, err := c.r.ReadString('\n')
	if err == nil && got != line+"\n" {
		err = fmt.Errorf("said %q, heard %q", line, got)
	}
	return err
}

// crowd connects all the time.
type crowd struct {
	stop func()
	made atomic.Int64 // connections that were served

	mu             sync.Mutex
	refused, ended []error
}

// crowd starts four clients, each of which connects, says a line, and begins again.
func (w *world) crowd() *crowd {
	ctx, cancel := context.WithCancel(w.t.Context())
	c := &crowd{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				refused, ended := c.visit(ctx, w)
				if ctx.Err() != nil {
					return
				}
				c.mu.Lock()
				if refused != nil {
					c.refused = append(c.refused, refused)
				}
				if ended != nil {
					c.ended = append(c.ended, ended)
				}
				c.mu.Unlock()
			}
		})
	}
	c.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	w.t.Cleanup(c.stop)
	return c
}

func (c *crowd) visit(ctx context.Context, w *world) (refused, ended error) {
	k, err := w.dial(ctx)
	if err != nil {
		return err, nil
	}
	defer k.Close()
	if err := k.say("hello"); err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) {
			return err, nil
		}
		return nil, err
	}
	c.made.Add(1)
	return nil, nil
}

// goesOn waits until more clients have been served.
func (c *crowd) goesOn(t *testing.T) {
	t.Helper()
	before := c.made.Load()
	testwait.For(t, "clients to be served", patience, func() error {
		if n := c.made.Load(); n < before+20 {
			return fmt.Errorf("%d since then", n-before)
		}
		return nil
	})
}

// TestRestarts restarts the unit, kills it and has it upgrade itself.
func TestRestarts(t *testing.T) {
	w := newWorld(t)
	c := w.crowd()
	c.goesOn(t)

	for range 3 {
		pid := w.mainPID()
		w.exec("systemctl", "restart", unit)
		if w.mainPID() == pid {
			t.Error("it was not restarted")
		}
		c.goesOn(t)
	}
	c.mu.Lock()
	t.Logf("three restarts: %d served, %d refused, %d failed", c.made.Load(), len(c.refused), len(c.ended))
	if n := len(c.refused) + len(c.ended); n > 0 {
		t.Errorf("%d newcomers failed: refused %v, ended %v", n, c.refused, c.ended)
	}
	c.ended = nil
	c.mu.Unlock()

	// SIGKILL: those that were inside are lost; nobody is refused.
	for range 3 {
		pid := w.mainPID()
		w.exec("systemctl", "kill", "-s", "KILL", unit)
		testwait.For(t, "systemd to start it again", patience, func() error {
			if now := w.mainPID(); now == pid || now == "0" {
				return fmt.Errorf("main process is %s", now)
			}
			return nil
		})
		c.goesOn(t)
	}
	c.mu.Lock()
	t.Logf("three kills: %d served, %d refused, %d cut", c.made.Load(), len(c.refused), len(c.ended))
	if n := len(c.refused); n > 0 {
		t.Errorf("%d newcomers were refused: %v", n, c.refused)
	}
	if n := len(c.ended); n > 3*4 {
		t.Errorf("%d were cut by three kills, and there are four clients", n)
	}
	c.ended = nil
	c.mu.Unlock()

	w.upgrade(c)
}

// outlivesTheWatchdog waits until the main process has been one for clearly longer
// than systemd waits for a sign of life, with a connection that must not be cut.
func (w *world) outlivesTheWatchdog() {
	t := w.t
	pid := w.mainPID()
	k, err := w.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	over := time.Now().Add(2 * watchdog)
	testwait.For(t, "the watchdog's time to pass twice", patience, func() error {
		if now := w.mainPID(); now != pid {
			t.Fatalf("the main process is %s, it was %s: systemd killed a successor that did not answer its watchdog", now, pid)
		}
		if left := time.Until(over); left > 0 {
			return fmt.Errorf("%v left", left)
		}
		return nil
	})
	if err := k.say("still here"); err != nil {
		t.Errorf("a connection to the successor was cut: %v", err)
	}
}

// upgrade: systemd knows the successor as the unit's main process, old
// connections stay, nobody is refused.
func (w *world) upgrade(c *crowd) {
	t := w.t
	var old []*conn
	for range 10 {
		k, err := w.dial(t.Context())
		if err == nil {
			err = k.say("before")
		}
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		old = append(old, k)
	}
	restarts := w.exec("systemctl", "show", "-P", "NRestarts", unit)
	for range 2 {
		pid := w.mainPID()
		w.exec("systemctl", "reload", unit)
		testwait.For(t, "systemd to know the successor", patience, func() error {
			if w.mainPID() == pid {
				return errors.New("the main process is the old one")
			}
			return nil
		})
		c.goesOn(t)
		for _, k := range old {
			if err := k.say("after"); err != nil {
				t.Errorf("an old connection was cut: %v", err)
			}
		}
	}
	w.outlivesTheWatchdog()
	for _, k := range old {
		// The one before is gone after its drain time; what it held has ended with it.
		_ = k.Close()
	}
	if state := w.exec("systemctl", "is-active", unit); state != "active" {
		t.Errorf("the unit is %s", state)
	}
	if now := w.exec("systemctl", "show", "-P", "NRestarts", unit); now != restarts {
		t.Errorf("systemd restarted it: %s restarts, before %s", now, restarts)
	}
	// And the successor can be restarted like any other.
	w.exec("systemctl", "restart", unit)
	c.goesOn(t)
	c.stop()
	t.Logf("two upgrades and a restart: %d served, %d refused, %d failed", c.made.Load(), len(c.refused), len(c.ended))
	if n := len(c.refused) + len(c.ended); n > 0 {
		t.Errorf("%d newcomers failed: refused %v, ended %v", n, c.refused, c.ended)
	}
}
