package singleton

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/leasetest"
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

func TestGate(t *testing.T) {
	g, err := NewGate("127.0.0.1:0", echoServer(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	gateDone := make(chan error, 1)
	go func() { gateDone <- g.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-gateDone; err != nil {
			t.Error(err)
		}
	}()

	if _, err := echo(g.Addr().String()); err == nil {
		t.Error("open without a term")
	}
	e, err := lease.New(lease.Config{Lock: frozenLock{&leasetest.Memory{}}, Holder: "m1", TTL: time.Second, Once: true})
	if err != nil {
		t.Fatal(err)
	}
	var conn net.Conn
	led := make(chan struct{}) // Run does not wait for a lead that is stuck
	err = e.Run(ctx, func(_ context.Context, term *lease.Term) error {
		defer close(led)
		g.Open(term)
		var err error
		if conn, err = echo(g.Addr().String()); err != nil {
			t.Errorf("shut during the term: %v", err)
			return nil
		}
		// The work ignores its end; the gate does not: it resets at the deadline.
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("at the deadline: %v, want a reset", err)
		}
		if term.Valid() {
			t.Error("reset before the deadline")
		}
		if _, err := echo(g.Addr().String()); err == nil {
			t.Error("open after the deadline")
		}
		return nil
	})
	if !errors.Is(err, lease.ErrLost) && !errors.Is(err, lease.ErrStuck) {
		t.Errorf("run: %v", err)
	}
	<-led
	g.Shut()
	testwait.For(t, "the gate to forget its connections", 10*time.Second, func() error {
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.conns) > 0 {
			return errors.New("some are left")
		}
		return nil
	})
	_ = conn.Close()
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
	if _, err := NewGate("127.0.0.1:0", "nowhere", nil); err == nil {
		t.Error("a target without a port")
	}
	if _, err := NewGate("127.0.0.1:notaport", "127.0.0.1:1", nil); err == nil {
		t.Error("a bad listen address")
	}
}
