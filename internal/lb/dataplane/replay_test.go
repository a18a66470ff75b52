package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestHelloIsReplayedAfter(t *testing.T) {
	refused := targetOf(t, "bad", listenAndClose(t))
	for name, bad := range map[string]*Target{
		"refusal":                       refused,
		"reset":                         server(t, "bad", func(c *net.TCPConn) { _ = c.SetLinger(0) }),
		"end":                           server(t, "bad", func(c *net.TCPConn) {}),
		"reset after the hello":         server(t, "bad", func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 10)); _ = c.SetLinger(0) }),
		"silence":                       server(t, "bad", func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }),
		"a full backlog":                fullBacklog(t),
		"an address that answers never": mustTarget(t, "bad", "192.0.2.1:9"),
	} {
		t.Run(name, func(t *testing.T) {
			r := &inOrder{targets: []*Target{bad, server(t, "good", named("good"))}}
			p := start(t, Config{Router: r, Hello: true, ReplayAfter: 50 * time.Millisecond})
			for range 5 {
				c := p.dial(t)
				if got := p.ask(t, c, 4); got != "good" {
					t.Fatalf("answered by %q", got)
				}
				// Everything after the hello reaches the good one once.
				_, _ = c.Write([]byte("more"))
				if got := read(t, c, 4); got != "more" {
					t.Fatalf("echo: %q", got)
				}
			}
			if s := bad.Stats(); s.Active != 0 || s.Failed+s.Replayed == 0 {
				t.Errorf("stats of the bad one: %+v", s)
			}
			if len(r.troubles["bad"]) == 0 {
				t.Error("no trouble told")
			}
		})
	}
}

func listenAndClose(t *testing.T) net.Listener {
	ln := listenTCP(t)
	_ = ln.Close()
	return ln
}

// fullBacklog is a target whose kernel drops SYNs: its queue is full and nobody
// accepts.
func fullBacklog(t *testing.T) *Target {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, _ := unix.Getsockname(fd)
	addr := fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
	for range 2 {
		c, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
	}
	return mustTarget(t, "bad", addr)
}

func TestPlainIsNotReplayed(t *testing.T) {
	silent := server(t, "silent", func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	good := server(t, "good", echo)
	p := start(t, Config{Router: &inOrder{targets: []*Target{silent, good}}, Hello: true, ReplayAfter: 10 * time.Millisecond})
	c := p.dial(t)
	_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	eventually(t, "the silent one to get it", func() bool { return silent.Stats().BytesUp > 0 || p.Stats().NotTLS > 0 })
	_ = c.CloseWrite()
	if err := ended(t, c); err != nil {
		t.Fatal(err)
	}
	if n := good.Stats().Total; n != 0 {
		t.Errorf("the other backend got %d connections", n)
	}
}

func TestReplayPlain(t *testing.T) {
	silent := server(t, "silent", func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	p := start(t, Config{
		Router: &inOrder{targets: []*Target{silent, server(t, "good", echo)}},
		Hello:  true, ReplayPlain: true, ReplayAfter: 10 * time.Millisecond,
	})
	c := p.dial(t)
	_, _ = c.Write([]byte("PING"))
	if got := read(t, c, 4); got != "PING" {
		t.Fatalf("got %q", got)
	}
}

// Bytes behind the ClientHello (early data) reach only the backend that answered.
// The silent one is given up after it has read everything that was sent to it: a
// reset takes with it what its receiver has not read, so that a slow reader
// would be found with less than the hello whatever was sent.
func TestEarlyDataIsNotReplayed(t *testing.T) {
	var mu sync.Mutex
	var got []byte
	bad := server(t, "bad", func(c *net.TCPConn) {
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			mu.Lock()
			got = append(got, buf[:n]...)
			mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	good := server(t, "good", named("good"))
	r := &inOrder{targets: []*Target{bad, good}}
	p := start(t, Config{Router: r, Hello: true, ReplayAfter: time.Hour, AnswerTimeout: time.Hour})
	c := p.dial(t)
	_, _ = c.Write(append(append([]byte{}, testHello...), "early"...))
	arrived := func() int { mu.Lock(); defer mu.Unlock(); return len(got) }
	eventually(t, "the silent one to get the hello", func() bool { return arrived() >= len(testHello) })
	// More that a client might send before it has an answer. It stays where it is:
	// the loop reads a client no further than its hello.
	_, _ = c.Write([]byte(" birds"))
	passed := func() uint64 { return p.loops[0].beats.Load() + p.loops[1].beats.Load() }
	begin := passed()
	eventually(t, "the loops to have turned", func() bool { return passed() > begin+4 })
	r.set(good)
	p.Cut(bad)
	if name := read(t, c, 4); name != "good" {
		t.Fatal(name)
	}
	if early := read(t, c, 11); early != "early birds" {
		t.Fatalf("the good one echoes %q", early)
	}
	mu.Lock()
	defer mu.Unlock()
	if !bytes.Equal(got, testHello) {
		t.Errorf("the silent one got %d bytes, want the %d of the hello: %.200q", len(got), len(testHello), got)
	}
}

// The same when the silence itself moves the client on, at any moment.
func TestEarlyDataIsNotReplayedAfterSilence(t *testing.T) {
	var mu sync.Mutex
	var heard [][]byte
	bad := server(t, "bad", func(c *net.TCPConn) {
		all, _ := io.ReadAll(c)
		mu.Lock()
		heard = append(heard, all)
		mu.Unlock()
	})
	p := start(t, Config{Router: &inOrder{targets: []*Target{bad, server(t, "good", named("good"))}}, Hello: true, ReplayAfter: 5 * time.Millisecond})
	const n = 50
	for range n {
		c := p.dial(t)
		_, _ = c.Write(append(append([]byte{}, testHello...), "early"...))
		if name := read(t, c, 4); name != "good" {
			t.Fatal(name)
		}
		if early := read(t, c, 5); early != "early" {
			t.Fatalf("the good one echoes %q", early)
		}
	}
	if s := bad.Stats(); s.Replayed != n || s.BytesUp > n*int64(len(testHello)) {
		t.Errorf("sent to the silent one: %+v", s)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, h := range heard {
		if !bytes.HasPrefix(testHello, h) {
			t.Errorf("the silent one got %.200q", h)
		}
	}
}

// However much a client sends before it has an answer, at most MaxHello bytes of it
// are kept, and none when the answer is there.
func TestWhatIsKeptIsBounded(t *testing.T) {
	answer := make(chan struct{})
	slow := server(t, "slow", func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, len(testHello)))
		<-answer
		_, _ = c.Write([]byte("slow"))
		_, _ = io.Copy(io.Discard, c)
	})
	p := start(t, Config{Router: &inOrder{targets: []*Target{slow}}, Hello: true, Loops: 1, AnswerTimeout: time.Hour})
	kept := func() (n int) {
		got := make(chan int, 1)
		p.loops[0].post(func(l *loop) {
			sum := 0
			for _, c := range l.conns {
				sum = max(sum, cap(c.hello)+cap(c.up.pending)+cap(c.down.pending))
			}
			got <- sum
		})
		return <-got
	}
	c := p.dial(t)
	_, _ = c.Write(append(append([]byte{}, testHello...), make([]byte, 128<<10)...))
	eventually(t, "the hello to have passed", func() bool { return slow.Stats().BytesUp == int64(len(testHello)) })
	if n := kept(); n < len(testHello) || n > MaxHello+1 {
		t.Errorf("%d bytes are kept, want at most %d", n, MaxHello+1)
	}
	close(answer)
	if got := read(t, c, 4); got != "slow" {
		t.Fatal(got)
	}
	eventually(t, "the rest to have passed", func() bool { return slow.Stats().BytesUp == int64(len(testHello)+128<<10) })
	if n := kept(); n != 0 {
		t.Errorf("%d bytes are kept after the answer", n)
	}
}

func TestNoBackendLeft(t *testing.T) {
	p := start(t, Config{Router: &inOrder{targets: []*Target{targetOf(t, "x", listenAndClose(t))}}, Hello: true})
	c := p.dial(t)
	_, _ = c.Write(testHello)
	if err := ended(t, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	if s := p.Stats(); s.NoBackend != 1 {
		t.Errorf("stats: %+v", s)
	}
}

func TestLastBackendMayTakeLonger(t *testing.T) {
	wait := make(chan struct{})
	slow := server(t, "slow", func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, len(testHello)))
		<-wait
		_, _ = c.Write([]byte("slow"))
	})
	r := &inOrder{targets: []*Target{slow}}
	p := start(t, Config{Router: r, Hello: true, ReplayAfter: 10 * time.Millisecond})
	c := p.dial(t)
	_, _ = c.Write(testHello)
	eventually(t, "the trouble to be told", func() bool { return r.had("slow", Silent) })
	close(wait)
	if got := read(t, c, 4); got != "slow" {
		t.Fatal(got)
	}
}

// A slow backend is given up for others, but when they all fail it gets the time
// it needs.
func TestSlowOneIsBetterThanNone(t *testing.T) {
	var mu sync.Mutex
	n := 0
	slow := server(t, "slow", func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, len(testHello)))
		mu.Lock()
		n++
		mine := n
		mu.Unlock()
		if mine == 2 {
			_, _ = c.Write([]byte("slow"))
		}
		_, _ = io.Copy(io.Discard, c)
	})
	r := &inOrder{targets: []*Target{slow, targetOf(t, "x", listenAndClose(t)), targetOf(t, "y", listenAndClose(t))}}
	p := start(t, Config{Router: r, Hello: true, ReplayAfter: 50 * time.Millisecond})
	if got := p.ask(t, p.dial(t), 4); got != "slow" {
		t.Fatal(got)
	}
	if s := p.Stats(); s.NoBackend != 0 || s.Replays != 1 || s.Retries != 2 {
		t.Errorf("stats %+v", s)
	}
}

func TestReplayBudget(t *testing.T) {
	bad := server(t, "bad", func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	good := server(t, "good", named("good"))
	r := &inOrder{targets: []*Target{bad, good}}
	p := start(t, Config{Router: r, Hello: true, Loops: 1, ReplayAfter: 20 * time.Millisecond, ReplayBudget: 0.01})
	const n = 200 // beyond the burst
	for range n {
		_, _ = p.dial(t).Write(testHello)
	}
	eventually(t, "the budget to end", func() bool { return p.Stats().ReplayDenied > 0 })
	if got := p.Stats().Replays; got < replayBurst {
		t.Errorf("%d replays, want the burst", got)
	}
	// Ejection needs no budget.
	r.set(good)
	p.Cut(bad)
	eventually(t, "all to be answered by the good one", func() bool { return good.Stats().BytesDown == 4*n })
}
