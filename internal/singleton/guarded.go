package singleton

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/process"
)

// guarded is a command under its guard, as podmaster sees it.
type guarded struct {
	guard  *process.Process // nil: it runs in a unit of its own
	gone   <-chan struct{}  // closed when the guard has ended
	orders *os.File
	mu     sync.Mutex // of orders
	ended  chan guardReport
	pid    int
}

// startGuarded starts the guard as our child, arms it with the deadline, and gives
// it its first order: to start the command, or to watch over a file. The error is
// the command's own when that could not be started.
func startGuarded(ctx context.Context, self []string, first guardOrder, deadline time.Duration, stdin *os.File) (*guarded, error) {
	tetherR, tetherW, err := os.Pipe() // see tether
	if err != nil {
		return nil, err
	}
	g, err := armGuard(ctx, first, deadline, func(orders, reports *os.File) (*process.Process, error) {
		return process.Start(process.Config{
			Path: self[0], Args: self[1:], Env: os.Environ(),
			Stdin: stdin, Stdout: os.Stdout, Stderr: os.Stderr,
			ExtraFiles: []*os.File{orders, reports, tetherR, tetherW},
			// When podmaster dies the guard must act, not die: the end of the pipe
			// tells it, and SIGCONT wakes it should it have been stopped.
			DeathSignal: syscall.SIGCONT,
			KeepGroup:   true,
		})
	})
	_ = tetherW.Close()
	if err != nil {
		return nil, errors.Join(err, tetherR.Close())
	}
	go func() {
		<-g.gone
		_ = tetherR.Close()
	}()
	return g, nil
}

// armGuard lets start start a guard, which may be no child of ours, and arms it.
func armGuard(ctx context.Context, first guardOrder, deadline time.Duration, start func(orders, reports *os.File) (*process.Process, error)) (*guarded, error) {
	ordersR, ordersW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	reportsR, reportsW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, ordersR.Close(), ordersW.Close())
	}
	p, err := start(ordersR, reportsW)
	_ = ordersR.Close()
	_ = reportsW.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("guard: %w", err), ordersW.Close(), reportsR.Close())
	}
	g := &guarded{guard: p, orders: ordersW, ended: make(chan guardReport, 1)}
	silent := make(chan struct{})
	if g.gone = silent; p != nil {
		g.gone = p.Done()
	}
	started := make(chan guardReport, 1)
	go func() {
		defer close(silent)
		g.read(reportsR, started)
	}()
	first.Deadline = deadline
	if err := g.send(first); err != nil {
		return nil, errors.Join(err, g.kill())
	}
	select {
	case r, ok := <-started:
		switch {
		case !ok:
			return nil, errors.Join(errors.New("the guard ended before the command started"), g.kill())
		case r.Err != "":
			return nil, errors.Join(errors.New(r.Err), g.kill())
		}
		g.pid = r.PID
		if p == nil {
			go hangUp(reportsR, r.PID)
		}
		return g, nil
	case <-ctx.Done():
		return nil, errors.Join(errors.New("the term ended while the command was started"), g.kill())
	}
}

// hangUp ends the reading when the guard has died: its end of the pipe is also
// systemd's.
func hangUp(reports *os.File, pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		defer unix.Close(fd)
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
	_ = reports.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // what it has said is still read
}

// read takes the guard's reports: the first one is about the start.
func (g *guarded) read(reports *os.File, started chan<- guardReport) {
	defer reports.Close()
	defer close(g.ended)
	defer close(started)
	dec := json.NewDecoder(reports)
	for {
		var r guardReport
		if err := dec.Decode(&r); err != nil {
			return
		}
		if r.Ended {
			g.ended <- r
			return
		}
		select {
		case started <- r:
		default: // the guard reports one start
		}
	}
}

func (g *guarded) send(o guardOrder) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	// A guard that is stopped does not read; the pipe holds some thousand orders.
	_ = g.orders.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := g.orders.Write(b); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	return nil
}

// follow tells the guard every new deadline, less margin, until ctx ends.
func (g *guarded) follow(ctx context.Context, term *lease.Term, margin time.Duration) {
	for {
		d, changed := term.Deadline()
		if err := g.send(guardOrder{Deadline: d - margin}); err != nil {
			return // it has ended, or is stuck: then its last deadline stands
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// killPatience is how long a SIGKILL may take to be confirmed: it waits only for
// processes that the kernel holds in an uninterruptible sleep.
const killPatience = 10 * time.Second

// kill ends the guard, the command and all their descendants, whatever state
// they are in, and returns nil when none is left; else an ErrUnconfirmed.
func (g *guarded) kill() error {
	defer g.close()
	if g.guard == nil { // it is no descendant: the pipe's end tells it to act
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	if err := process.KillDescendants(ctx); err != nil {
		return fmt.Errorf("%w: %w", lease.ErrUnconfirmed, err)
	}
	g.guard.Wait()
	process.ReapOrphans(g.guard)
	return nil
}

// finish cleans up after the guard reported that everything is dead.
func (g *guarded) finish(patience time.Duration) error {
	g.close()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-g.gone:
		return nil
	case <-timer.C:
		return g.kill()
	}
}

func (g *guarded) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	_ = g.orders.Close()
}
