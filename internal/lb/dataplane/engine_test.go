package dataplane

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func dupFD(f *os.File) (int, error) {
	defer f.Close()
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
}

func TestPlainEcho(t *testing.T) {
	p := start(t, Config{Router: &inOrder{targets: []*Target{server(t, "a", echo)}}})
	c := p.dial(t)
	for _, msg := range []string{"x", "hello", string(bytes.Repeat([]byte("y"), 200_000))} {
		go func() { _, _ = io.WriteString(c, msg) }()
		if got := read(t, c, len(msg)); got != msg {
			t.Fatalf("got %d bytes that differ", len(got))
		}
	}
}

// A server that answers with the digest of everything it got, after the
// client's half-close.
func TestHalfCloseBothSizes(t *testing.T) {
	digest := server(t, "digest", func(c *net.TCPConn) {
		h := sha256.New()
		_, _ = io.Copy(h, c)
		_, _ = c.Write(h.Sum(nil))
	})
	for _, hello := range []bool{false, true} {
		p := start(t, Config{Router: &inOrder{targets: []*Target{digest}}, Hello: hello})
		for _, n := range []int{1, 1000, 65536, 300_000, 8 << 20} {
			data := make([]byte, n)
			for i := range data {
				data[i] = byte(rand.Uint32())
			}
			data[0] = 'G' // not TLS
			c := p.dial(t)
			go func() {
				_, _ = c.Write(data)
				_ = c.CloseWrite()
			}()
			want := sha256.Sum256(data)
			if got := read(t, c, sha256.Size); got != string(want[:]) {
				t.Fatalf("hello mode %v, %d bytes: wrong digest", hello, n)
			}
			if err := ended(t, c); err != nil {
				t.Fatalf("hello mode %v, %d bytes: end: %v", hello, n, err)
			}
		}
		eventually(t, "all connections to end", func() bool { return p.Open() == 0 })
	}
}

// A server that speaks first and sends much: down by splice.
func TestServerFirstBulk(t *testing.T) {
	const n = 32 << 20
	source := server(t, "source", func(c *net.TCPConn) {
		block := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
		for sent := 0; sent < n; sent += len(block) {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	})
	p := start(t, Config{Router: &inOrder{targets: []*Target{source}}, MaxPipes: 2})
	var wg sync.WaitGroup
	for range 4 { // more than there are pipes
		c := p.dial(t)
		wg.Go(func() {
			h := sha256.New()
			got, err := io.Copy(h, c)
			want := sha256.Sum256(bytes.Repeat([]byte("0123456789abcdef"), n/16))
			if err != nil || got != n || !bytes.Equal(h.Sum(nil), want[:]) {
				t.Errorf("got %d bytes, %v", got, err)
			}
		})
	}
	wg.Wait()
	if s := source.Stats(); s.BytesDown != 4*n {
		t.Errorf("counted %d bytes down, want %d", s.BytesDown, 4*n)
	}
}

func TestSlowReaderIsBounded(t *testing.T) {
	var mu sync.Mutex
	sent := 0
	flood := server(t, "flood", func(c *net.TCPConn) {
		block := make([]byte, 1<<16)
		for {
			n, err := c.Write(block)
			mu.Lock()
			sent += n
			mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	p := start(t, Config{Router: &inOrder{targets: []*Target{flood}}})
	c := p.dial(t)
	read(t, c, 1)
	last := -1
	eventually(t, "the flood to stand still", func() bool {
		mu.Lock()
		defer mu.Unlock()
		same := sent == last && sent > 0
		last = sent
		return same
	})
	if last > 48<<20 {
		t.Errorf("took %d MiB from the server for a client that does not read", last>>20)
	}
}

func TestResetIsPassedOn(t *testing.T) {
	served := make(chan *net.TCPConn, 1)
	p := start(t, Config{Router: &inOrder{targets: []*Target{server(t, "a", func(c *net.TCPConn) {
		served <- c
		_, _ = io.Copy(io.Discard, c)
	})}}})
	c := p.dial(t)
	_, _ = c.Write([]byte("x"))
	s := <-served
	_ = s.SetLinger(0)
	_ = s.Close()
	if err := ended(t, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client sees %v, want a reset", err)
	}
}

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
	p := start(t, Config{Router: &inOrder{targets: []*Target{bad, server(t, "good", named("good"))}}, Hello: true, ReplayAfter: 50 * time.Millisecond})
	c := p.dial(t)
	_, _ = c.Write(append(append([]byte{}, testHello...), "early"...))
	if name := read(t, c, 4); name != "good" {
		t.Fatal(name)
	}
	if early := read(t, c, 5); early != "early" {
		t.Fatalf("the good one echoes %q", early)
	}
	mu.Lock()
	defer mu.Unlock()
	if !bytes.Equal(got, testHello) {
		t.Errorf("the silent one got %d bytes, want the %d of the hello: %.200q", len(got), len(testHello), got)
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

func TestCutResetsAndMovesUnanswered(t *testing.T) {
	a := server(t, "a", func(c *net.TCPConn) {
		buf := make([]byte, len(testHello))
		_, _ = io.ReadFull(c, buf)
		if buf[len(buf)-1] == 7 {
			_, _ = c.Write([]byte("a"))
		}
		_, _ = io.Copy(io.Discard, c)
	})
	b := server(t, "b", func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1))
		_, _ = c.Write([]byte("b"))
		_, _ = io.Copy(io.Discard, c)
	})
	r := &inOrder{targets: []*Target{a, b}}
	p := start(t, Config{Router: r, Hello: true, ReplayAfter: time.Hour, AnswerTimeout: time.Hour})
	old := p.dial(t)
	if got := p.ask(t, old, 1); got != "a" {
		t.Fatal(got)
	}
	mute := append([]byte{}, testHello...)
	mute[len(mute)-1] = 0
	waiting := p.dial(t)
	_, _ = waiting.Write(mute)
	eventually(t, "the second to be at a", func() bool { return a.Active() == 2 })
	r.set(b)
	p.Cut(a)
	if err := ended(t, old); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("established: %v, want a reset", err)
	}
	if got := read(t, waiting, 1); got != "b" {
		t.Errorf("unanswered one is answered by %q", got)
	}
}

func TestCloseQuietTakesTheLongestQuiet(t *testing.T) {
	a := server(t, "a", echo)
	p := start(t, Config{Router: &inOrder{targets: []*Target{a}}, Loops: 1})
	var conns []*net.TCPConn
	for range 4 {
		c := p.dial(t)
		for range openingTurns {
			_, _ = c.Write([]byte("x"))
			read(t, c, 1)
		}
		conns = append(conns, c)
	}
	if n := p.CloseQuiet(a, 2, time.Hour); n != 0 {
		t.Errorf("closed %d that were not quiet for an hour", n)
	}
	eventually(t, "two quiet ones", func() bool { return p.CloseQuiet(a, 2, 100*time.Millisecond) == 2 })
	eventually(t, "two to be left", func() bool { return a.Active() == 2 })
	for _, c := range conns[:2] {
		if err := ended(t, c); err != nil {
			t.Errorf("want an orderly end: %v", err)
		}
	}
	for _, c := range conns[2:] {
		_, _ = c.Write([]byte("y"))
		read(t, c, 1)
	}
}

// A backend that takes long to answer is silent like one that has answered.
func TestCloseQuietSparesOpenRequests(t *testing.T) {
	talk := func(c *net.TCPConn) {
		b := make([]byte, 1)
		for {
			if _, err := c.Read(b); err != nil {
				return
			}
			if b[0] == 'x' { // an answer; "?" gets none
				_, _ = c.Write(b)
			}
		}
	}
	a := server(t, "a", talk)
	p := start(t, Config{Router: &inOrder{targets: []*Target{a}}, Loops: 1})
	exchange := func(c *net.TCPConn, n int) {
		for range n {
			_, _ = c.Write([]byte("x"))
			read(t, c, 1)
		}
	}
	asking, young, idle := p.dial(t), p.dial(t), p.dial(t)
	exchange(asking, openingTurns)
	_, _ = asking.Write([]byte("?"))
	exchange(young, openingTurns-1) // the last bytes may be a session ticket
	exchange(idle, openingTurns)
	eventually(t, "the idle one to be closed", func() bool { return p.CloseQuiet(a, 3, 200*time.Millisecond) == 1 })
	if err := ended(t, idle); err != nil {
		t.Errorf("want an orderly end: %v", err)
	}
	if n := p.CloseQuiet(a, 3, 200*time.Millisecond); n != 0 {
		t.Errorf("closed %d with a request open", n)
	}
	for _, c := range []*net.TCPConn{asking, young} {
		exchange(c, 1)
	}
}

func TestUnixBackend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
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
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	target, err := NewUnixTarget("u", path)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, Config{Router: &inOrder{targets: []*Target{target}}})
	c := p.dial(t)
	msg := bytes.Repeat([]byte("u"), 2<<20)
	go func() { _, _ = c.Write(msg); _ = c.CloseWrite() }()
	if got := read(t, c, len(msg)); got != string(msg) {
		t.Error("bytes differ")
	}
	if err := ended(t, c); err != nil {
		t.Error(err)
	}
}

func TestStopAcceptingKeepsConnections(t *testing.T) {
	p := start(t, Config{Router: &inOrder{targets: []*Target{server(t, "a", echo)}}})
	c := p.dial(t)
	_, _ = c.Write([]byte("x"))
	read(t, c, 1)
	p.StopAccepting()
	if _, err := net.Dial("tcp", p.addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("new connection: %v, want refused", err)
	}
	_, _ = c.Write([]byte("y"))
	if got := read(t, c, 1); got != "y" {
		t.Error(got)
	}
}

func TestIPv6(t *testing.T) {
	ln, err := net.Listen("tcp", "[::1]:0")
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
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	p := start(t, Config{Router: &inOrder{targets: []*Target{targetOf(t, "six", ln)}}})
	c := p.dial(t)
	_, _ = c.Write([]byte("six"))
	if got := read(t, c, 3); got != "six" {
		t.Error(got)
	}
	_ = c.CloseWrite()
	if err := ended(t, c); err != nil {
		t.Error(err)
	}
}

func TestNewRefuses(t *testing.T) {
	for want, cfg := range map[string]Config{
		"router: missing":      {},
		"hello timeout":        {Router: &inOrder{}, HelloTimeout: -1},
		"replay after":         {Router: &inOrder{}, ReplayAfter: -1},
		"answer timeout":       {Router: &inOrder{}, AnswerTimeout: 1},
		"dead after":           {Router: &inOrder{}, DeadAfter: 1},
		"replay budget":        {Router: &inOrder{}, ReplayBudget: 2},
		"loops":                {Router: &inOrder{}, Loops: 1000},
		"max conns -1":         {Router: &inOrder{}, MaxConns: -1},
		"max conns per client": {Router: &inOrder{}, MaxConnsPerClient: -1},
		"max pipes":            {Router: &inOrder{}, MaxPipes: -1},
		"needs hello mode":     {Router: &inOrder{}, ReplayPlain: true},
		"limit of open files":  {Router: &inOrder{}, ReservedFDs: 1 << 30},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := NewTarget("x", netip.AddrPort{}); err == nil {
		t.Error("a target without an address")
	}
	for _, path := range []string{"", strings.Repeat("x", 200)} {
		if _, err := NewUnixTarget("x", path); err == nil {
			t.Errorf("a unix target at %q", path)
		}
	}
}

func TestClientLimitKeys(t *testing.T) {
	key := func(s string) uint64 { return limitKey(netip.MustParseAddr(s)) }
	if key("2001:db8::1") != key("2001:db8::ffff") || key("2001:db8::1") == key("2001:db8:0:1::1") {
		t.Error("IPv6 clients are told apart by their /64")
	}
	if key("10.0.0.1") == key("10.0.0.2") {
		t.Error("IPv4 clients are told apart by their address")
	}
}
