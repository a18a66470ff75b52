package dataplane

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"syscall"
	"time"
)

// Router says where connections go. Its methods are called by the
// loops, by several at once, and must not block.
type Router interface {
	// Pick returns the target for a connection of client (not valid for a unix
	// client), never one of tried; nil if there is none left.
	Pick(client netip.Addr, tried []*Target) *Target
	// Competitor returns a target that is worth trying instead of the last of
	// tried, which has not answered in time; nil if that one should have more time.
	Competitor(client netip.Addr, tried []*Target) *Target
	// Trouble tells that a try at t has just failed, as a hint to look at it.
	Trouble(t *Target, kind Trouble)
}

// Trouble is what went wrong with a try before the first byte.
type Trouble int

// The kinds of Trouble.
const (
	Refused Trouble = iota // connect failed
	Broken                 // reset or end of stream before the first byte
	Silent                 // no first byte in time
)

func (t Trouble) String() string {
	return [...]string{"refused", "broken before the first byte", "silent"}[t]
}

// Config configures an Engine. Router is required.
type Config struct {
	Router Router
	Logger *slog.Logger // nil: nothing is logged

	// Hello waits for a whole TLS ClientHello before a backend is chosen, and
	// replays it to another backend when the first does not answer it. Without
	// it a backend is connected at once, and only a failed connect is tried
	// elsewhere. Clients that do not speak TLS are passed on without replay.
	Hello bool
	// ReplayPlain replays the first bytes of clients that do not speak TLS too
	// (Hello must be set). Only for protocols whose first message may be
	// received twice and in which the client speaks first.
	ReplayPlain bool

	// HelloTimeout is how long a client may take for its ClientHello; default 5s.
	HelloTimeout time.Duration
	// ReplayAfter is how long a backend may take from the connect to its first
	// byte before another is tried; default 300ms, which is two orders above a
	// handshake in one data centre. Less costs double handshakes on a busy
	// backend, more is waited for by clients while a backend is frozen.
	ReplayAfter time.Duration
	// AnswerTimeout is the same limit for the last backend there is; default
	// 10s, client-go's own limit for a TLS handshake.
	AnswerTimeout time.Duration
	// ReplayBudget is the share of new connections that may be replayed because
	// of silence, beyond a burst of 128 for each loop; default 0.2. It keeps
	// backends that are slow together from getting every handshake twice.
	ReplayBudget float64

	// DeadAfter is after how long of silence of the peer's machine (bytes
	// unacknowledged, or keep-alive probes unanswered) a backend's side is taken
	// for dead; default 5s, negative: never. A client's side has six times as long.
	DeadAfter time.Duration

	// MaxConns bounds the connections; default: what RLIMIT_NOFILE carries with
	// ReservedFDs left. Beyond it, a client that has said nothing for 100ms is
	// dropped, or else the newcomer.
	MaxConns int
	// MaxConnsPerClient bounds the connections from one IP address; 0: no bound.
	MaxConnsPerClient int
	// ReservedFDs are kept for health checks, admin and logs; default 256.
	ReservedFDs int

	// HelloMemory is how many bytes of unfinished ClientHellos may be kept in all before
	// clients whose own is larger than ordinary ones (4 KiB) are dropped; default 16 MiB.
	// A crowd that sends almost a whole large one each takes 16 KiB a connection else.
	HelloMemory int

	// Loops is the number of loops; default GOMAXPROCS at New.
	Loops int
	// MaxPipes bounds the pipes (1 MiB each) used for bulk transfers; default
	// 128. When they are all in use, bytes are copied instead.
	MaxPipes int
}

func (c Config) withDefaults() (Config, error) {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.HelloTimeout, 5*time.Second)
	def(&c.ReplayAfter, 300*time.Millisecond)
	def(&c.AnswerTimeout, 10*time.Second)
	def(&c.DeadAfter, 5*time.Second)
	if c.ReplayBudget == 0 {
		c.ReplayBudget = 0.2
	}
	if c.Loops == 0 {
		c.Loops = min(runtime.GOMAXPROCS(0), maxLoops)
	}
	if c.ReservedFDs == 0 {
		c.ReservedFDs = 256
	}
	if c.MaxPipes == 0 {
		c.MaxPipes = 128
	}
	if c.HelloMemory == 0 {
		c.HelloMemory = 16 << 20
	}
	if c.MaxConns == 0 {
		n, err := fdConns(c.ReservedFDs + 2*c.MaxPipes)
		if err != nil {
			return c, err
		}
		c.MaxConns = n
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, c.validate()
}

func (c Config) validate() error {
	var errs []error
	bad := func(cond bool, format string, args ...any) {
		if cond {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(c.Router == nil, "router: missing")
	bad(c.HelloTimeout < time.Millisecond, "hello timeout %v: want at least 1ms", c.HelloTimeout)
	bad(c.ReplayAfter < time.Millisecond, "replay after %v: want at least 1ms", c.ReplayAfter)
	bad(c.AnswerTimeout < c.ReplayAfter, "answer timeout %v: want at least the replay time, %v", c.AnswerTimeout, c.ReplayAfter)
	bad(c.DeadAfter > 0 && c.DeadAfter < 2*time.Second, "dead after %v: want at least 2s, or a negative value for never", c.DeadAfter)
	bad(c.ReplayBudget < 0 || c.ReplayBudget > 1, "replay budget %v: want 0 to 1", c.ReplayBudget)
	bad(c.Loops < 1 || c.Loops > maxLoops, "loops %d: want 1 to %d", c.Loops, maxLoops)
	bad(c.MaxConns < 1, "max conns %d: want at least 1", c.MaxConns)
	bad(c.MaxConnsPerClient < 0, "max conns per client %d: want 0 (no bound) or more", c.MaxConnsPerClient)
	bad(c.HelloMemory < c.Loops*(MaxHello+1), "hello memory %d: want at least %d for each of %d loops", c.HelloMemory, MaxHello+1, c.Loops)
	bad(c.MaxPipes < 1, "max pipes %d: want at least 1", c.MaxPipes)
	bad(c.ReplayPlain && !c.Hello, "replay of plain clients needs hello mode")
	return errors.Join(errs...)
}

// fdConns returns how many connections (two descriptors each) the process's
// limit carries beside reserved descriptors.
func fdConns(reserved int) (int, error) {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	n := (int64(min(lim.Cur, 1<<30)) - int64(reserved)) / 2
	if n < 1 {
		return 0, fmt.Errorf("limit of open files is %d: want more than %d", lim.Cur, reserved+2)
	}
	return int(n), nil
}
