package singleton

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/backoff"
	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/process"
)

// GateArg is the argument by which cmd/podmaster knows that it is a gate.
const GateArg = "__gate"

// Gate forwards TCP connections from an address to a target, but only while the
// term stands. What forwards is a process of its own for each term (GateMain),
// which the kernel kills a margin before the term's deadline, whatever state it is
// in: no byte passes late, not even one that had been looked at in time. Between
// terms the gate resets whoever comes.
type Gate struct {
	target string
	margin time.Duration
	self   []string // the command line that calls GateMain
	ln     *net.TCPListener
	log    *slog.Logger

	mu   sync.Mutex // held while what accepts is exchanged
	stop func()     // ends what accepts now; nil once the gate is closed
}

// gateOrder is what podmaster tells the gate's process, one JSON value after another.
type gateOrder struct {
	Target   string        `json:"target,omitempty"` // in the first one
	Deadline time.Duration `json:"deadline"`         // CLOCK_BOOTTIME: nothing is passed on from then
}

// The gate process' descriptors beside the standard ones.
const (
	gateOrdersFD   = 3
	gateListenerFD = 4
)

// NewGate listens, and refuses, at once, so that an address in use is an error
// before any term. margin is how long before a term's deadline the gate is shut:
// the kernel needs a moment to end a process on a busy machine. Close it.
func NewGate(listen, target string, margin time.Duration, log *slog.Logger) (*Gate, error) {
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
	g := &Gate{target: target, margin: margin, self: []string{"/proc/self/exe", GateArg}, ln: ln.(*net.TCPListener), log: log, stop: func() {}}
	g.exchange(g.refuse)
	return g, nil
}

// Addr is where the gate listens.
func (g *Gate) Addr() net.Addr { return g.ln.Addr() }

// Close ends the gate and frees its address.
func (g *Gate) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stop == nil {
		return nil
	}
	g.stop()
	g.stop = nil
	return g.ln.Close()
}

// Open lets connections through until Shut, as long as term is valid. Whoever
// connects from now on is not refused.
func (g *Gate) Open(term *lease.Term) {
	g.exchange(func(ctx context.Context) {
		g.forward(ctx, term)
		g.refuse(ctx)
	})
}

// Shut resets every connection and refuses new ones.
func (g *Gate) Shut() { g.exchange(g.refuse) }

// exchange ends what accepts, and has next accept from now on.
func (g *Gate) exchange(next func(context.Context)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stop == nil {
		return
	}
	g.stop()
	_ = g.ln.SetDeadline(time.Time{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		next(ctx)
	}()
	g.stop = func() {
		cancel()
		_ = g.ln.SetDeadline(time.Unix(1, 0)) // ends an Accept
		<-done
	}
}

// refuse resets whoever comes until ctx ends.
func (g *Gate) refuse(ctx context.Context) {
	for ctx.Err() == nil {
		c, err := g.ln.AcceptTCP()
		switch {
		case err == nil:
			reset(c)
		case ctx.Err() == nil:
			g.log.Warn("the gate cannot accept", "err", err)
			sleep(ctx, 50*time.Millisecond)
		}
	}
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // RST, and unsent data are dropped
	_ = c.Close()
}

// until is when the gate is shut if no renewal comes, and the news of one.
func (g *Gate) until(term *lease.Term) (time.Duration, <-chan struct{}) {
	deadline, moved := term.Deadline()
	return deadline - g.margin, moved
}

// forward keeps a process that forwards until ctx or the term ends.
func (g *Gate) forward(ctx context.Context, term *lease.Term) {
	pause := backoff.Backoff{Base: 50 * time.Millisecond, Max: 2 * time.Second}
	over := func() bool {
		deadline, _ := g.until(term)
		return ctx.Err() != nil || lease.Boottime{}.Now() >= deadline
	}
	for !over() {
		err := g.process(ctx, term)
		if over() {
			return
		}
		g.log.Warn("the gate's process ended during the term, and is started again", "err", err)
		sleep(ctx, pause.Next())
	}
}

// process starts a process that forwards, keeps its deadline the term's, and
// returns when it has ended: by itself, or killed at ctx's end.
func (g *Gate) process(ctx context.Context, term *lease.Term) error {
	ordersR, orders, err := os.Pipe()
	if err != nil {
		return err
	}
	defer orders.Close()
	p, err := g.start(ordersR)
	_ = ordersR.Close()
	if err != nil {
		return err
	}
	enc := json.NewEncoder(orders)
	for target := g.target; ; target = "" {
		deadline, moved := g.until(term)
		// One that is stopped does not read; then the last deadline it knows stands.
		_ = orders.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		if err := enc.Encode(gateOrder{Target: target, Deadline: deadline}); err != nil {
			g.log.Debug("the gate's process takes no new deadline", "err", err)
		}
		select {
		case <-moved:
		case <-p.Done():
			return p.Err()
		case <-ctx.Done():
			_ = p.Kill()
			p.Wait()
			return nil
		}
	}
}

func (g *Gate) start(orders *os.File) (*process.Process, error) {
	ln, err := g.dup()
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	said, stderr, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	p, err := process.Start(process.Config{
		Path: g.self[0], Args: g.self[1:], Stderr: stderr, ExtraFiles: []*os.File{orders, ln}, Companion: true,
	})
	if err != nil {
		return nil, errors.Join(err, said.Close())
	}
	go g.tell(said)
	return p, nil
}

// dup is the listener for another process. A file of net's making would be set to
// blocking mode when it is handed over, and with it the listener itself: the mode
// is one for all descriptors of a socket.
func (g *Gate) dup() (*os.File, error) {
	raw, err := g.ln.SyscallConn()
	if err != nil {
		return nil, err
	}
	var (
		fd     int
		failed error
	)
	if err := raw.Control(func(p uintptr) { fd, failed = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, failed
	}
	return os.NewFile(uintptr(fd), "listener"), nil
}

// tell passes on what the gate's process has to say.
func (g *Gate) tell(said *os.File) {
	defer said.Close()
	for lines := bufio.NewScanner(said); lines.Scan(); {
		g.log.Warn("the gate's process complains", "reason", lines.Text())
	}
}
