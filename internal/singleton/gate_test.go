package singleton

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/leasetest"
	"github.com/hactl/hactl/internal/process"
	"github.com/hactl/hactl/internal/testwait"
)

// frozenLock renews once and never again.
type frozenLock struct{ *leasetest.Memory }

func (l frozenLock) Take(ctx context.Context, seen lease.Record, c lease.Claim) (lease.Held, error) {
	h, err := l.Memory.Take(ctx, seen, c)
	return frozenHeld{h}, err
}

type frozenHeld struct{ lease.Held }

func (frozenHeld) Renew(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// echoServer answers lines, and counts nothing.
func echoServer(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String()
}

const gateMargin = 100 * time.Millisecond

// mustBeOver fails the test when the gate's time in the term is not.
func mustBeOver(t *testing.T, term *lease.Term) {
	t.Helper()
	if d, _ := term.Deadline(); (lease.Boottime{}).Now() < d-gateMargin {
		t.Error("reset too early")
	}
}

// openGate is a gate that is closed with the test.
func openGate(t *testing.T) *Gate {
	t.Helper()
	g, err := NewGate("127.0.0.1:0", echoServer(t), gateMargin, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// during calls f in a term of ttl that is renewed once and never again, and waits
// until f has returned.
func during(t *testing.T, ttl time.Duration, f func(term *lease.Term)) {
	t.Helper()
	e, err := lease.New(lease.Config{Lock: frozenLock{&leasetest.Memory{}}, Holder: "m1", TTL: ttl, Once: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	led := make(chan struct{}) // Run does not wait for a lead that is stuck
	err = e.Run(ctx, func(_ context.Context, term *lease.Term) error {
		defer close(led)
		defer cancel()
		f(term)
		return nil
	})
	if err != nil && !errors.Is(err, lease.ErrLost) && !errors.Is(err, lease.ErrStuck) {
		t.Errorf("run: %v", err)
	}
	<-led
}

// through opens g and returns a connection that passes it; nil, and a failed test, if
// none does.
func through(t *testing.T, g *Gate, term *lease.Term) net.Conn {
	t.Helper()
	g.Open(term)
	conn, err := echo(g.Addr().String())
	if err != nil {
		t.Errorf("shut during the term: %v", err)
		return nil
	}
	return conn
}

// mustReset waits until conn is reset. What was still echoed is let be: a signal
// takes a moment.
func mustReset(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v, want a reset", err)
	}
}

func TestGate(t *testing.T) {
	g := openGate(t)
	if _, err := echo(g.Addr().String()); err == nil {
		t.Error("open without a term")
	}
	during(t, 3*time.Second, func(term *lease.Term) {
		conn := through(t, g, term)
		if conn == nil {
			return
		}
		defer conn.Close()
		// The work ignores its end; the gate does not: it resets at the deadline.
		mustReset(t, conn)
		mustBeOver(t, term)
		if _, err := echo(g.Addr().String()); err == nil {
			t.Error("open after the deadline")
		}
	})
	g.Shut()
	if _, err := echo(g.Addr().String()); err == nil {
		t.Error("open after it was shut")
	}
}

// A gate that is stopped passes nothing late, not even what it had read in time:
// the kernel ends it. Nobody here continues it.
func TestStoppedGateIsCutAtTheDeadline(t *testing.T) {
	g := openGate(t)
	during(t, 3*time.Second, func(term *lease.Term) {
		conn := through(t, g, term)
		if conn == nil {
			return
		}
		defer conn.Close()
		pid := gateProcess(t)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Error(err)
		}
		if _, err := io.WriteString(conn, "late\n"); err != nil {
			t.Error(err)
		}
		mustReset(t, conn)
		mustBeOver(t, term)
	})
}

// A gate's process that is killed is started again during the term, and its
// connections are reset. What kills all of a lost guard's work spares it.
func TestGateComesBack(t *testing.T) {
	g := openGate(t)
	during(t, time.Minute, func(term *lease.Term) {
		conn := through(t, g, term)
		if conn == nil {
			return
		}
		defer conn.Close()
		pid := gateProcess(t)
		if err := process.KillDescendants(t.Context()); err != nil {
			t.Error(err)
		}
		if now := gateProcess(t); now != pid {
			t.Errorf("gate %d did not survive, now %d", pid, now)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		mustReset(t, conn)
		again, err := echo(g.Addr().String())
		if err != nil {
			t.Errorf("not started again: %v", err)
			return
		}
		_ = again.Close()
	})
}

// A gate whose process cannot be started refuses, and can still be opened, shut and
// closed: the listener's mode survives.
func TestGateThatCannotStart(t *testing.T) {
	g := openGate(t)
	program := filepath.Join(t.TempDir(), "no-program")
	if err := os.WriteFile(program, []byte("\x00"), 0o755); err != nil {
		t.Fatal(err)
	}
	good := g.self
	var said logBuffer
	g.log = slog.New(slog.NewTextHandler(&said, nil))
	during(t, time.Minute, func(term *lease.Term) {
		for round := 1; round <= 2; round++ {
			g.self = []string{program}
			g.Open(term)
			testwait.For(t, "it to have tried twice", 30*time.Second, func() error {
				if n := strings.Count(said.String(), "is started again"); n < 2*round {
					return fmt.Errorf("%d times in round %d", n, round)
				}
				return nil
			})
			g.Shut()
			if _, err := echo(g.Addr().String()); err == nil {
				t.Error("open though nothing could be started")
			}
		}
		g.self = good
		if conn := through(t, g, term); conn != nil {
			_ = conn.Close()
		}
	})
}

// What was said to a target that does not listen yet is taken back at the end of the
// term, also when both sides had already said goodbye.
func TestGateTakesBackWhatIsUnderWay(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	g, err := NewGate("127.0.0.1:0", ln.Addr().String(), gateMargin, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	const sent = 300 << 10 // more than the target takes unread, less than the gate can hold besides
	var got int64
	during(t, 3*time.Second, func(term *lease.Term) {
		g.Open(term)
		in, err := net.Dial("tcp", g.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer in.Close()
		out, err := ln.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer out.Close()
		_ = out.(*net.TCPConn).SetReadBuffer(16 << 10)
		if err := out.(*net.TCPConn).CloseWrite(); err != nil { // "413", and it listens no more for now
			t.Error(err)
		}
		go func() {
			_, _ = in.Write(make([]byte, sent))
			_ = in.(*net.TCPConn).CloseWrite()
		}()
		testwait.For(t, "the gate to end with the term", 20*time.Second, func() error {
			if pids := gates(t); term.Valid() || len(pids) > 0 {
				return fmt.Errorf("%v", pids)
			}
			return nil
		})
		_ = out.SetReadDeadline(time.Now().Add(20 * time.Second))
		var end error
		got, end = io.Copy(io.Discard, out)
		if !errors.Is(end, syscall.ECONNRESET) {
			t.Errorf("the target heard %d bytes and then %v, want a reset", got, end)
		}
	})
}

// gateProcess is the pid of the one gate that this process has.
func gateProcess(t *testing.T) int {
	t.Helper()
	pids := gates(t)
	if len(pids) != 1 {
		t.Fatalf("gates: %v, want one", pids)
	}
	return pids[0]
}

// gates lists the live gates that this process has.
func gates(t *testing.T) []int {
	t.Helper()
	children, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, file := range children {
		data, _ := os.ReadFile(file)
		for _, pid := range strings.Fields(string(data)) {
			if args, _ := os.ReadFile("/proc/" + pid + "/cmdline"); strings.Contains(string(args), GateArg) {
				pids = append(pids, atoi(t, pid))
			}
		}
	}
	return pids
}

// echo connects and has one line echoed.
func echo(addr string) (net.Conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "x\n"); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func TestGateRefuses(t *testing.T) {
	if _, err := NewGate("127.0.0.1:0", "nowhere", 0, nil); err == nil {
		t.Error("a target without a port")
	}
	if _, err := NewGate("127.0.0.1:notaport", "127.0.0.1:1", 0, nil); err == nil {
		t.Error("a bad listen address")
	}
}
