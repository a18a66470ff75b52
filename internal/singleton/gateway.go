package singleton

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/process"
)

// gateBuffer is the largest piece that is passed on after one look at the clock.
const gateBuffer = 32 << 10

// GateMain is the process of a Gate, for one term. cmd/podmaster calls it first
// thing when it was started as one. It does not return before podmaster wants it
// to end; at the deadline the kernel kills it, and resets all its connections.
func GateMain() error {
	unix.CloseOnExec(gateOrdersFD)
	// podmaster ends it, also on the way down from a SIGTERM to all of a unit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	orders := json.NewDecoder(os.NewFile(gateOrdersFD, "orders"))
	var first gateOrder
	if err := orders.Decode(&first); err != nil {
		return fmt.Errorf("gate: first order: %w", err)
	}
	fuse, err := process.NewFuse()
	if err != nil {
		return fmt.Errorf("gate: %w", err)
	}
	w := &gateway{target: first.Target, fuse: fuse}
	if err := w.until(first.Deadline); err != nil {
		return err
	}
	file := os.NewFile(gateListenerFD, "listener")
	ln, err := net.FileListener(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("gate: %w", err)
	}
	ended := make(chan error, 2)
	go func() { ended <- w.follow(orders) }()
	go func() { ended <- w.serve(ln) }()
	return <-ended
}

// gateway is what GateMain runs.
type gateway struct {
	target   string
	fuse     *process.Fuse
	deadline atomic.Int64 // CLOCK_BOOTTIME, ns

	mu   sync.Mutex
	told time.Time // when it last complained
}

// until moves the deadline. The fuse goes first: what it allows is allowed.
func (w *gateway) until(deadline time.Duration) error {
	if err := w.fuse.Light(deadline); err != nil {
		return fmt.Errorf("gate: %w", err)
	}
	w.deadline.Store(int64(deadline))
	return nil
}

func (w *gateway) valid() bool { return int64(lease.Boottime{}.Now()) < w.deadline.Load() }

// follow takes new deadlines until podmaster hangs up.
func (w *gateway) follow(orders *json.Decoder) error {
	for {
		var o gateOrder
		switch err := orders.Decode(&o); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("gate: %w", err)
		}
		if err := w.until(o.Deadline); err != nil {
			return err
		}
	}
}

func (w *gateway) serve(ln net.Listener) error {
	for {
		c, err := ln.Accept()
		switch {
		case err == nil:
			go w.join(c.(*net.TCPConn))
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("gate: %w", err)
		default:
			w.complain(err.Error())
			time.Sleep(50 * time.Millisecond) // out of descriptors, most likely
		}
	}
}

// join connects a client with the target. Both sockets are such that the kernel
// resets them, and drops what was not sent, when the process is killed.
func (w *gateway) join(in *net.TCPConn) {
	_ = in.SetLinger(0)
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.Dial("tcp", w.target)
	if err != nil {
		w.complain("the target does not answer: " + err.Error())
		_ = in.Close()
		return
	}
	out := conn.(*net.TCPConn)
	_ = out.SetLinger(0)
	var both sync.WaitGroup
	both.Go(func() { w.pass(out, in) })
	both.Go(func() { w.pass(in, out) })
	both.Wait()
	// A clean end. What the target has not acknowledged is still ours to take back,
	// should the term end first.
	acknowledged(out)
	_ = in.SetLinger(-1)
	_ = in.Close()
	_ = out.Close()
}

// acknowledged waits until the peer has acknowledged everything, or is gone.
func acknowledged(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		left, failed := 0, 0
		err := raw.Control(func(fd uintptr) {
			left, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
			failed, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		})
		if err != nil || left == 0 || failed != 0 {
			return
		}
		time.Sleep(pause)
	}
}

// complainEvery is the least time between two complaints.
const complainEvery = 10 * time.Second

// complain tells podmaster what is wrong with connections, but not of each.
func (w *gateway) complain(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); w.told.IsZero() || now.Sub(w.told) >= complainEvery {
		w.told = now
		fmt.Fprintln(os.Stderr, what)
	}
}

// pass copies from src to dst while the term stands, and resets both when it does
// not. The look at the clock before each piece is for the moment between the
// deadline and the fuse's signal; the fuse is for the moment after the look.
func (w *gateway) pass(dst, src *net.TCPConn) {
	buf := make([]byte, gateBuffer)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if !w.valid() {
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
