package dataplane

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
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

// One at a time, all end, whichever loop they are on.
func TestCloseQuietComesToEveryLoop(t *testing.T) {
	a := server(t, "a", echo)
	p := start(t, Config{Router: &inOrder{targets: []*Target{a}}, Loops: 3})
	for range 12 { // loops share them evenly
		c := p.dial(t)
		for range openingTurns {
			_, _ = c.Write([]byte("x"))
			read(t, c, 1)
		}
	}
	eventually(t, "all to be closed", func() bool { p.CloseQuiet(a, 1, 100*time.Millisecond); return a.Active() == 0 })
}

// Clients that speak in a rhythm are ended in the middle of their pause, not when
// their next request is due, though they have been quiet longest then.
func TestCloseQuietKeepsOutOfTheRhythm(t *testing.T) {
	a := server(t, "a", echo)
	p := start(t, Config{Router: &inOrder{targets: []*Target{a}}, Loops: 1})
	conns := map[string]*net.TCPConn{}
	slots := map[string]uint32{}
	for i, name := range []string{"due", "just answered", "stopped speaking", "never paused"} {
		c := p.dial(t)
		for range openingTurns {
			_, _ = c.Write([]byte("x"))
			read(t, c, 1)
		}
		conns[name], slots[name] = c, uint32(i)
	}
	// As if minutes had passed, in ticks.
	on := func(f func(l *loop)) {
		done := make(chan struct{})
		p.loops[0].post(func(l *loop) { f(l); close(done) })
		<-done
	}
	quiet := func(l *loop, name string, quiet, rhythm int32) {
		c := l.conns[slots[name]]
		c.rhythm, c.up.last, c.down.last = rhythm, l.tick()-quiet, l.tick()-quiet
	}
	on(func(l *loop) {
		quiet(l, "due", 29, 30)
		quiet(l, "just answered", 11, 30)
		quiet(l, "stopped speaking", 600, 30)
		quiet(l, "never paused", 12, 0)
		var order []string
		for _, c := range l.quietest(a, 4, time.Second) {
			for name, slot := range slots {
				if slot == c.slot {
					order = append(order, name)
				}
			}
		}
		if got := strings.Join(order, ", "); got != "stopped speaking, just answered, never paused" {
			t.Errorf("order: %s", got)
		}
		// One that has spoken without our having read it yet is left alone.
		l.conns[slots["stopped speaking"]].client.readable = false
	})
	if n := p.CloseQuiet(a, 4, time.Second); n != 3 {
		t.Errorf("%d ended, want 3", n)
	}
	_, _ = conns["due"].Write([]byte("y"))
	read(t, conns["due"], 1)
}

// The rhythm is that of the client's own pauses.
func TestRhythmIsLearned(t *testing.T) {
	a := server(t, "a", echo)
	p := start(t, Config{Router: &inOrder{targets: []*Target{a}}, Loops: 1})
	c := p.dial(t)
	rhythm := func() int32 {
		got := make(chan int32, 1)
		p.loops[0].post(func(l *loop) { got <- l.conns[0].rhythm })
		return <-got
	}
	say := func() {
		_, _ = c.Write([]byte("x"))
		read(t, c, 1)
	}
	say()
	say()
	if n := rhythm(); n != 0 {
		t.Errorf("rhythm %d after no pause", n)
	}
	p.loops[0].post(func(l *loop) { l.conns[0].up.last -= 70; l.conns[0].down.last -= 70 })
	say()
	if n := rhythm(); n < 70 || n > 100 {
		t.Errorf("rhythm %d after a pause of 70 ticks", n)
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
	target := unixServer(t, func(c *net.UnixConn) { _, _ = io.Copy(c, c) })
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

// Two engines share a listener, as a process and its successor do, and one stops
// accepting. A newcomer of whom the kernel has told only that one must not be left
// waiting until the next one comes.
func TestStopAcceptingLosesNoNewcomer(t *testing.T) {
	good := server(t, "a", echo)
	cfg := Config{Router: &inOrder{targets: []*Target{good}}}
	for range 150 {
		stays := start(t, cfg)
		leaves, done := startBeside(t, stays, cfg)
		stop := make(chan struct{})
		go func() { <-stop; leaves.StopAccepting() }()
		for i := range 12 { // one after the other: nobody comes behind the last
			if i == 3 {
				close(stop)
			}
			c := stays.dial(t)
			_, _ = c.Write([]byte("x"))
			read(t, c, 1)
			_ = c.Close()
		}
		done()
		stays.halt()
	}
}

// startBeside runs a second engine on p's listener.
func startBeside(t *testing.T, p *plane, cfg Config) (*Engine, func()) {
	t.Helper()
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(uintptr(p.listenerFDs()[0]), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = e.Listen(fd)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	return e, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
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
		"hello memory":         {Router: &inOrder{}, HelloMemory: 1000},
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
