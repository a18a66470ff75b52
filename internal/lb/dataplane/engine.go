package dataplane

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Engine is the data path: listeners, loops and the connections in them. Make
// it with New, give it listeners, and Run it.
type Engine struct {
	cfg     Config
	birth   time.Time
	birthMS int64 // Unix time of birth
	loops   []*loop
	open    atomic.Int64
	limits  clientLimits
	count   counters
	turn    atomic.Uint32 // of CloseQuiet

	stopping  atomic.Bool
	listeners atomic.Pointer[[]int32]
	mu        sync.Mutex // guards changes of listeners
}

// New makes an engine. It starts nothing and listens nowhere.
func New(cfg Config) (*Engine, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("data path: %w", err)
	}
	now := time.Now()
	e := &Engine{cfg: cfg, birth: now, birthMS: now.UnixMilli()}
	e.limits.max = cfg.MaxConnsPerClient
	e.listeners.Store(new([]int32))
	for i := range cfg.Loops {
		l, err := newLoop(i, e)
		if err != nil {
			for _, l := range e.loops {
				l.release()
			}
			return nil, fmt.Errorf("data path: %w", err)
		}
		e.loops = append(e.loops, l)
	}
	return e, nil
}

// Listen accepts connections from the listening socket fd, which becomes the
// engine's. To be called before Run.
func (e *Engine) Listen(fd int) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("make the listener non-blocking: %w", err)
	}
	if err := PrepareListener(fd, e.cfg.DeadAfter); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	fds := append([]int32(nil), e.listenerFDs()...)
	fds = append(fds, int32(fd))
	e.listeners.Store(&fds)
	return nil
}

func (e *Engine) listenerFDs() []int32 { return *e.listeners.Load() }

// Run serves until ctx ends, then resets whatever connections are left and
// returns nil. It runs once.
func (e *Engine) Run(ctx context.Context) error {
	// Loops hold their scheduler slots while they are busy; health checks and
	// the garbage collector need others.
	if want := e.cfg.Loops + 2; runtime.GOMAXPROCS(0) < want {
		runtime.GOMAXPROCS(want)
	}
	stop := context.AfterFunc(ctx, e.stop)
	defer stop()
	errs := make([]error, len(e.loops))
	var wg sync.WaitGroup
	for i, l := range e.loops {
		l.watchListeners()
		wg.Go(func() {
			if errs[i] = l.run(); errs[i] != nil {
				e.stop()
			}
		})
	}
	wg.Wait()
	e.StopAccepting()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.loops {
		l.release()
	}
	return errors.Join(errs...)
}

func (e *Engine) stop() {
	e.stopping.Store(true)
	e.post(func(*loop) {})
}

// Close frees an engine that was never Run.
func (e *Engine) Close() {
	for _, fd := range e.forgetListeners() {
		rawClose(fd)
	}
	for _, l := range e.loops {
		l.release()
	}
}

// StopAccepting takes the newcomers that are waiting and closes the engine's
// listeners. Those that come later wait in the kernel if another process holds the
// sockets too, and are refused otherwise.
func (e *Engine) StopAccepting() {
	fds := e.forgetListeners()
	// The kernel tells one waiter of a newcomer. If that was one of our loops, and
	// it has forgotten the listener since, nobody would come for him before the next.
	// And no loop may be accepting from a descriptor that is closed meanwhile.
	var wg sync.WaitGroup
	for _, l := range e.loops {
		wg.Add(1)
		last := func(l *loop) {
			defer wg.Done()
			l.leaveListeners(fds)
		}
		if !l.post(last) {
			wg.Done()
		}
	}
	wg.Wait()
	for _, fd := range fds {
		rawClose(fd)
	}
}

// forgetListeners has the loops watch the listeners no longer, and returns them.
func (e *Engine) forgetListeners() []int32 {
	e.mu.Lock()
	defer e.mu.Unlock()
	fds := e.listenerFDs()
	e.listeners.Store(new([]int32))
	for _, fd := range fds {
		for _, l := range e.loops {
			// A descriptor that another process holds as well stays in epoll
			// when it is closed here.
			if l.ep >= 0 {
				_ = unix.EpollCtl(l.ep, unix.EPOLL_CTL_DEL, int(fd), nil)
			}
		}
	}
	return fds
}

// Cut resets t's connections. Those that have not had a byte from it yet go to
// another backend instead.
func (e *Engine) Cut(t *Target) {
	e.post(func(l *loop) {
		for _, c := range l.conns {
			if c.state == stFree || c.target != t {
				continue
			}
			if c.state == stStreaming {
				l.eng.count.cut.Add(1)
				l.close(c, true)
			} else {
				l.retry(c, Silent)
			}
		}
	})
}

// CloseQuiet ends up to n connections of t (nil: of any) that have been quiet
// for at least quiet, in an orderly way: first those that have been quiet longest,
// measured by their clients' own rhythm. It returns how many.
func (e *Engine) CloseQuiet(t *Target, n int, quiet time.Duration) int {
	var (
		done atomic.Int64
		wg   sync.WaitGroup
		left = n
	)
	// With fewer connections to end than loops, each loop has its turn.
	first := int(e.turn.Add(1))
	for i := range e.loops {
		l := e.loops[(first+i)%len(e.loops)]
		share := (left + len(e.loops) - i - 1) / (len(e.loops) - i)
		left -= share
		if share == 0 {
			continue
		}
		wg.Add(1)
		ok := l.post(func(l *loop) {
			defer wg.Done()
			for _, c := range l.quietest(t, share, quiet) {
				if rawWaiting(c.client.fd, l.buf) {
					continue // it has just spoken
				}
				l.close(c, false)
				done.Add(1)
			}
		})
		if !ok {
			wg.Done()
		}
	}
	wg.Wait()
	return int(done.Load())
}

// Open is the number of connections now.
func (e *Engine) Open() int64 { return e.open.Load() }

// MaxConns is the bound that is in force.
func (e *Engine) MaxConns() int { return e.cfg.MaxConns }

// Beats returns each loop's number of wake-ups: at least two a second while it
// is well.
func (e *Engine) Beats() []uint64 {
	beats := make([]uint64, len(e.loops))
	for i, l := range e.loops {
		beats[i] = l.beats.Load()
	}
	return beats
}

func (e *Engine) post(f func(*loop)) {
	for _, l := range e.loops {
		l.post(f)
	}
}

// Accepting says whether the engine has listeners.
func (e *Engine) Accepting() bool { return len(e.listenerFDs()) > 0 }
