package dataplane

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hactl/hactl/internal/testwait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// inOrder is a Router that offers its targets in order.
type inOrder struct {
	mu       sync.Mutex
	targets  []*Target
	troubles map[string][]Trouble
}

func (r *inOrder) Pick(_ netip.Addr, tried []*Target) *Target {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.targets {
		if !slices.Contains(tried, t) {
			return t
		}
	}
	return nil
}

func (r *inOrder) Competitor(a netip.Addr, tried []*Target) *Target { return r.Pick(a, tried) }

func (r *inOrder) Trouble(t *Target, kind Trouble) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.troubles == nil {
		r.troubles = map[string][]Trouble{}
	}
	r.troubles[t.Name] = append(r.troubles[t.Name], kind)
}

func (r *inOrder) had(name string, kind Trouble) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.troubles[name], kind)
}

func (r *inOrder) set(ts ...*Target) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.targets = ts
}

func listenTCP(tb testing.TB) *net.TCPListener {
	tb.Helper()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = ln.Close() })
	return ln.(*net.TCPListener)
}

func targetOf(tb testing.TB, name string, ln net.Listener) *Target {
	tb.Helper()
	t, err := NewTarget(name, ln.Addr().(*net.TCPAddr).AddrPort())
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// server answers each connection by handle until the test ends.
func server(tb testing.TB, name string, handle func(*net.TCPConn)) *Target {
	tb.Helper()
	ln := listenTCP(tb)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns = map[net.Conn]bool{}
	)
	wg.Go(func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer func() {
					_ = c.Close()
					mu.Lock()
					delete(conns, c)
					mu.Unlock()
				}()
				handle(c)
			})
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return targetOf(tb, name, ln)
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

// named writes its name, then echoes.
func named(name string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		hello := make([]byte, len(testHello))
		if _, err := io.ReadFull(c, hello); err != nil || !bytes.Equal(hello, testHello) {
			return
		}
		_, _ = c.Write([]byte(name))
		echo(c)
	}
}

// testHello is what readHello takes for a whole ClientHello.
var testHello = helloOf(100)

func helloOf(body int) []byte {
	msg := append([]byte{typeClientHello, byte(body >> 16), byte(body >> 8), byte(body)}, bytes.Repeat([]byte{7}, body)...)
	return append([]byte{recordHandshake, 3, 1, byte(len(msg) >> 8), byte(len(msg))}, msg...)
}

type plane struct {
	*Engine
	addr string
	halt func() // ends it before the test does
}

// start runs an engine with a listener of its own until the test ends.
func start(tb testing.TB, cfg Config) *plane {
	tb.Helper()
	if cfg.Loops == 0 {
		cfg.Loops = 2
	}
	e, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ln := listenTCP(tb)
	f, err := ln.File()
	if err != nil {
		tb.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	fd, err := dupFD(f)
	if err != nil {
		tb.Fatal(err)
	}
	if err := e.Listen(fd); err != nil {
		tb.Fatal(err)
	}
	return &plane{e, addr, runUntilEnd(tb, e)}
}

// runUntilEnd runs e until the returned function is called, or the test ends.
func runUntilEnd(tb testing.TB, e *Engine) (halt func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	halt = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
		if n := e.Open(); n != 0 {
			tb.Errorf("%d connections open after the end", n)
		}
	})
	tb.Cleanup(halt)
	return halt
}

func (p *plane) dial(tb testing.TB) *net.TCPConn {
	tb.Helper()
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// ask sends the hello and returns the name that answers.
func (p *plane) ask(tb testing.TB, c net.Conn, n int) string {
	tb.Helper()
	if _, err := c.Write(testHello); err != nil {
		tb.Fatal(err)
	}
	return read(tb, c, n)
}

func read(tb testing.TB, c net.Conn, n int) string {
	tb.Helper()
	buf := make([]byte, n)
	if _, err := io.ReadFull(c, buf); err != nil {
		tb.Fatalf("read %d bytes: %v", n, err)
	}
	return string(buf)
}

// ended waits for the connection's end and returns its error (nil for EOF).
func ended(tb testing.TB, c net.Conn) error {
	tb.Helper()
	_, err := io.Copy(io.Discard, c)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		tb.Fatal("the connection has not ended")
	}
	return err
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	testwait.For(tb, what, patience, func() error {
		if !ok() {
			return errors.New("not yet")
		}
		return nil
	})
}

func mustTarget(tb testing.TB, name, addr string) *Target {
	tb.Helper()
	t, err := NewTarget(name, netip.MustParseAddrPort(addr))
	if err != nil {
		tb.Fatal(err)
	}
	return t
}
