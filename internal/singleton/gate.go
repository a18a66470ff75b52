package singleton

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/logging"
)

// Gate forwards TCP connections from Listen to Target, but only while the term
// stands: the deadline is looked at right before each piece of data is passed on,
// so that work which woke after its term reaches nothing. When the term ends both
// sides are reset, and what was not yet sent is thrown away.
type Gate struct {
	target string
	ln     net.Listener
	log    *slog.Logger

	mu    sync.Mutex
	term  *lease.Term
	conns map[*net.TCPConn]struct{}
}

// gateBuffer is the largest piece that is passed on after one look at the clock.
const gateBuffer = 32 << 10

// NewGate listens at once, so that an address in use is an error before any term.
func NewGate(listen, target string, log *slog.Logger) (*Gate, error) {
	if _, _, err := net.SplitHostPort(target); err != nil {
		return nil, fmt.Errorf("gate target: %w", err)
	}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("gate: %w", err)
	}
	if log == nil {
		log = logging.Discard()
	}
	return &Gate{target: target, ln: ln, log: log, conns: map[*net.TCPConn]struct{}{}}, nil
}

// Addr is where the gate listens.
func (g *Gate) Addr() net.Addr { return g.ln.Addr() }

// Close frees the address of a gate that is not run.
func (g *Gate) Close() error { return g.ln.Close() }

// Open lets connections through until Shut, as long as term is valid.
func (g *Gate) Open(term *lease.Term) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.term = term
}

// Shut resets every connection and refuses new ones.
func (g *Gate) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.term = nil
	for c := range g.conns {
		reset(c)
	}
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // RST, and unsent data are dropped
	_ = c.Close()
}

// Run accepts until ctx ends, then resets everything.
func (g *Gate) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = g.ln.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer g.Shut()
	for {
		c, err := g.ln.Accept()
		switch {
		case err == nil:
			wg.Go(func() { g.serve(ctx, c.(*net.TCPConn)) })
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("gate: %w", err)
		default:
			g.log.Warn("the gate cannot accept", "err", err)
			if !sleep(ctx, 50*time.Millisecond) {
				return nil
			}
		}
	}
}

// enter registers the connections of a valid term; it returns nil when there is none.
func (g *Gate) enter(conns ...*net.TCPConn) *lease.Term {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.term == nil || !g.term.Valid() {
		return nil
	}
	for _, c := range conns {
		g.conns[c] = struct{}{}
	}
	return g.term
}

func (g *Gate) leave(conns ...*net.TCPConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range conns {
		delete(g.conns, c)
	}
}

func (g *Gate) serve(ctx context.Context, in *net.TCPConn) {
	term := g.enter()
	if term == nil {
		reset(in)
		return
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", g.target)
	if err != nil {
		g.log.Debug("the gate's target does not answer", "backend", g.target, "err", err)
		reset(in)
		return
	}
	out := conn.(*net.TCPConn)
	_ = out.SetLinger(0) // should podmaster die, the kernel drops what was not sent
	if g.enter(in, out) != term {
		reset(in)
		reset(out)
		return
	}
	defer g.leave(in, out)
	ended, cancel := context.WithCancel(ctx)
	defer cancel()
	go g.cut(ended, term, in, out)
	var wg sync.WaitGroup
	wg.Go(func() { pass(term, out, in) })
	wg.Go(func() { pass(term, in, out) })
	wg.Wait()
	_ = out.SetLinger(-1) // a clean end: what was sent still arrives
	_ = in.Close()
	_ = out.Close()
}

// cut resets both sides at the term's deadline, unless renewals move it.
func (g *Gate) cut(ctx context.Context, term *lease.Term, conns ...*net.TCPConn) {
	for {
		d, changed := term.Deadline()
		fired, stop := lease.Boottime{}.At(d)
		select {
		case <-fired:
			if !term.Valid() {
				for _, c := range conns {
					reset(c)
				}
				return
			}
		case <-changed:
		case <-ctx.Done():
			stop()
			return
		}
		stop()
	}
}

// pass copies from src to dst while term is valid, and resets both when it is not.
func pass(term *lease.Term, dst, src *net.TCPConn) {
	buf := make([]byte, gateBuffer)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if !term.Valid() {
				reset(src)
				reset(dst)
				return
			}
			if _, werr := dst.Write(buf[:n]); werr != nil {
				reset(src)
				return
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				_ = dst.CloseWrite()
			} else {
				reset(dst)
			}
			return
		}
	}
}
