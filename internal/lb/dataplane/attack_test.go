package dataplane

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// served asks over a new connection and expects an answer.
func served(t *testing.T, p *plane) {
	t.Helper()
	c := p.dial(t)
	if got := p.ask(t, c, 4); got != "good" {
		t.Fatalf("answered by %q", got)
	}
	_ = c.Close()
}

// Clients that say nothing, more than there is room for: others are served all
// the same, because the silent ones make room, and memory stays bounded.
func TestSilentClientsMakeRoom(t *testing.T) {
	p := start(t, Config{
		Router: &inOrder{targets: []*Target{server(t, "good", named("good"))}},
		Hello:  true, MaxConns: 200, HelloTimeout: time.Hour,
	})
	silent := 0
	quiet := func() { // one of the silent ones, which may be dropped at any time
		if c, err := net.Dial("tcp", p.addr); err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
		silent++
	}
	for range 200 {
		quiet()
	}
	eventually(t, "all places to be taken", func() bool { return p.Open() == 200 })
	talks := func() bool {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Write(testHello)
		_, err = io.ReadFull(c, make([]byte, 4))
		return err == nil
	}
	eventually(t, "room for one that talks", talks)
	for silent < 1000 {
		quiet()
		if silent%50 == 0 {
			eventually(t, "another one to be served", talks)
		}
	}
	if n := p.Open(); n > 201 {
		t.Errorf("%d connections, bound is 200", n)
	}
	if s := p.Stats(); s.SilentDropped == 0 {
		t.Errorf("stats %+v", s)
	}
}

// Clients that send almost a whole ClientHello, as large as one may be, and stop:
// what is kept of them all is bounded, and others are served.
func TestUnfinishedHellosAreBounded(t *testing.T) {
	const bound = 1 << 20
	p := start(t, Config{
		Router: &inOrder{targets: []*Target{server(t, "good", named("good"))}},
		Hello:  true, Loops: 1, HelloTimeout: time.Hour, HelloMemory: bound,
	})
	large := append(helloOf(15_990)[:100], make([]byte, 14_900)...)
	for i := range 300 {
		c := p.dial(t)
		_, _ = c.Write(large)
		if i%50 == 49 {
			served(t, p)
		}
	}
	eventually(t, "those that are too many to be dropped", func() bool {
		return p.Stats().SilentDropped >= 300-bound/int64(len(large))
	})
	kept := make(chan [2]int, 1)
	p.loops[0].post(func(l *loop) {
		sum := 0
		for _, c := range l.conns {
			sum += len(c.hello)
		}
		kept <- [2]int{sum, l.held}
	})
	n := <-kept
	if n[0] > bound+MaxHello || n[0] < bound/2 || n[0] != n[1] {
		t.Errorf("%d bytes are kept and %d counted, bound is %d", n[0], n[1], bound)
	}
	// An ordinary one may take its time all the same.
	c := p.dial(t)
	_, _ = c.Write(testHello[:50])
	eventually(t, "its first half to be there", func() bool {
		now := make(chan int, 1)
		p.loops[0].post(func(l *loop) { now <- l.held })
		return <-now == n[1]+50
	})
	_, _ = c.Write(testHello[50:])
	if got := read(t, c, 4); got != "good" {
		t.Error(got)
	}
	p.halt()
	if n := p.loops[0].held; n != 0 {
		t.Errorf("%d bytes are counted after the end", n)
	}
}

// A ClientHello of one byte at a time does not hold its place for ever, and costs
// no backend a connection.
func TestSlowHelloIsEnded(t *testing.T) {
	good := server(t, "good", named("good"))
	p := start(t, Config{Router: &inOrder{targets: []*Target{good}}, Hello: true, HelloTimeout: 300 * time.Millisecond})
	c := p.dial(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var err error
	for i := range testHello[:len(testHello)-1] {
		if _, err = c.Write(testHello[i : i+1]); err != nil {
			break
		}
		<-tick.C
	}
	if err == nil {
		t.Error("all but the last byte were taken over 2s")
	}
	if n := good.Stats().Total; n != 0 {
		t.Errorf("backend got %d connections", n)
	}
	eventually(t, "the timeout to be counted", func() bool { return p.Stats().HelloTimeout == 1 })
	served(t, p)
}

func TestResetsMidHello(t *testing.T) {
	p := start(t, Config{Router: &inOrder{targets: []*Target{server(t, "good", named("good"))}}, Hello: true})
	for i := range 300 {
		c := p.dial(t)
		_, _ = c.Write(testHello[:i%len(testHello)])
		_ = c.SetLinger(0)
		_ = c.Close()
	}
	served(t, p)
	eventually(t, "nothing to be left", func() bool { return p.Open() == 0 })
}

// A flood from one address leaves room for others.
func TestFloodFromOneAddress(t *testing.T) {
	p := start(t, Config{Router: &inOrder{targets: []*Target{server(t, "good", named("good"))}}, Hello: true, MaxConnsPerClient: 20, HelloTimeout: time.Hour})
	flood := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for range 200 {
		c, err := flood.Dial("tcp", p.addr)
		if err != nil {
			continue
		}
		defer c.Close()
	}
	eventually(t, "the flood to be refused", func() bool { return p.Stats().PerClient == 180 })
	if n := p.Open(); n != 20 {
		t.Errorf("%d connections, want the flood's 20", n)
	}
	served(t, p)
}

// A backend that answers one byte and stalls keeps its own clients waiting and
// nobody else's.
func TestOneByteAndStall(t *testing.T) {
	stall := server(t, "stall", func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, len(testHello)))
		_, _ = c.Write([]byte("g"))
		_, _ = io.Copy(io.Discard, c)
	})
	r := &inOrder{targets: []*Target{stall}}
	p := start(t, Config{Router: r, Hello: true})
	var stuck []*net.TCPConn
	for range 100 {
		c := p.dial(t)
		_, _ = c.Write(testHello)
		read(t, c, 1)
		_, _ = c.Write(make([]byte, 1<<16))
		stuck = append(stuck, c)
	}
	r.set(server(t, "good", named("good")))
	for range 10 {
		served(t, p)
	}
	p.Cut(stall)
	for _, c := range stuck {
		if err := ended(t, c); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("got %v, want a reset", err)
		}
	}
}

// Clients that connect, half of them already gone when they are accepted.
func TestConnectAndVanish(t *testing.T) {
	p := start(t, Config{Router: &inOrder{targets: []*Target{server(t, "good", named("good"))}}, Hello: true})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 250 {
				c, err := net.Dial("tcp", p.addr)
				if err != nil {
					t.Error(err)
					return
				}
				if i%2 == 0 {
					_ = c.(*net.TCPConn).SetLinger(0)
				}
				_ = c.Close()
			}
		})
	}
	wg.Wait()
	served(t, p)
	eventually(t, "nothing to be left", func() bool { return p.Open() == 0 })
}

// Idle connections must stay small: this is what 50,000 of them hang on.
func TestIdleConnectionsAreSmall(t *testing.T) {
	hold := make(chan struct{})
	p := start(t, Config{Router: &inOrder{targets: []*Target{server(t, "good", func(c *net.TCPConn) {
		_, _ = c.Write([]byte("x"))
		<-hold
	})}}})
	t.Cleanup(func() { close(hold) })
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		var n int64
		for _, l := range p.loops {
			done := make(chan int64, 1)
			l.post(func(l *loop) {
				sum := int64(0)
				for _, c := range l.conns {
					sum += int64(cap(c.hello) + cap(c.up.pending) + cap(c.down.pending))
				}
				done <- sum
			})
			n += <-done
		}
		return n
	}
	for range 200 {
		read(t, p.dial(t), 1)
	}
	if n := heap(); n != 0 {
		t.Errorf("%d bytes are kept for idle connections", n)
	}
}

// When every place is taken by a client that talks, the newcomer is refused, with a
// counter; those inside notice nothing.
func TestFullOfTalkers(t *testing.T) {
	p := start(t, Config{Router: &inOrder{targets: []*Target{server(t, "good", named("good"))}}, Hello: true, MaxConns: 20})
	var inside []*net.TCPConn
	for range 20 {
		c := p.dial(t)
		p.ask(t, c, 4)
		inside = append(inside, c)
	}
	for range 10 {
		c, err := net.Dial("tcp", p.addr)
		if err == nil {
			_ = c.SetDeadline(time.Now().Add(patience))
			err = ended(t, c)
			_ = c.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a newcomer sees %v, want a reset", err)
		}
	}
	if s := p.Stats(); s.Shed != 10 || s.Open != 20 {
		t.Errorf("stats %+v", s)
	}
	for _, c := range inside {
		_, _ = c.Write([]byte("on"))
		read(t, c, 2)
	}
	_ = inside[0].Close()
	eventually(t, "a free place", func() bool { return p.Open() == 19 })
	served(t, p)
}

// The default bound leaves descriptors for probes, the admin socket and logs.
func TestDescriptorsAreReserved(t *testing.T) {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	e, err := New(Config{Router: &inOrder{}, ReservedFDs: 100, MaxPipes: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if left := int64(min(lim.Cur, 1<<30)) - 2*int64(e.MaxConns()) - 2*10; left < 100 || left > 101 {
		t.Errorf("%d descriptors are left of %d, want the reserved 100", left, lim.Cur)
	}
}

const childEnv = "DATAPLANE_TEST_FEW_FILES"

// With no descriptor left, newcomers are shed and counted, nothing spins or
// dies, and it goes on when there are descriptors again.
func TestOutOfDescriptors(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildWithFewFiles$")
	cmd.Env = append(os.Environ(), childEnv+"="+serverAddr(server(t, "good", named("good"))))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	p := &plane{addr: strings.TrimPrefix(lines.Text(), "addr ")}
	var flood []net.Conn
	for range 200 {
		if c, err := net.Dial("tcp", p.addr); err == nil {
			flood = append(flood, c)
		}
	}
	refused := 0
	until := time.Now().Add(patience) // for all of them: some may have found a place
	for _, c := range flood[100:] {
		_ = c.SetReadDeadline(until)
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNRESET) {
			refused++
		}
		if refused > 10 {
			break
		}
	}
	// It has nothing to give and newcomers wait: it must not spin. A spinning loop
	// wakes some hundred thousand times a second, a pausing one fifty times.
	beats := func() int {
		fmt.Fprintln(in)
		lines.Scan()
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before, start := beats(), time.Now()
	for range 100 {
		if c, err := net.Dial("tcp", p.addr); err == nil {
			flood = append(flood, c)
		}
	}
	eventually(t, "half a second of it", func() bool { return time.Since(start) > 500*time.Millisecond })
	if n, most := beats()-before, int(5000*time.Since(start).Seconds()); n > most {
		t.Errorf("the loops woke %d times, want at most %d", n, most)
	}
	for _, c := range flood {
		_ = c.Close()
	}
	eventually(t, "service after the flood", func() bool {
		c := p.dial(t)
		defer c.Close()
		_, _ = c.Write(testHello)
		_, err := io.ReadFull(c, make([]byte, 4))
		return err == nil
	})
	_ = in.Close()
	lines.Scan()
	if stats := lines.Text(); !strings.HasPrefix(stats, "shed ") || stats == "shed 0" {
		t.Errorf("child says %q", stats)
	}
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestChildWithFewFiles is the process that TestOutOfDescriptors starts.
func TestChildWithFewFiles(t *testing.T) {
	addr := os.Getenv(childEnv)
	if addr == "" {
		return // only as a child
	}
	e, err := New(Config{Router: &inOrder{targets: []*Target{mustTarget(t, "good", addr)}}, Hello: true, MaxConns: 10000, Loops: 2, HelloTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ln := listenTCP(t)
	f, _ := ln.File()
	fd, _ := dupFD(f)
	self := ln.Addr().String()
	_ = ln.Close()
	if err := e.Listen(fd); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 80, Max: 80}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	fmt.Println("addr " + self)
	// A line asks how often the loops have woken.
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var sum uint64
		for _, n := range e.Beats() {
			sum += n
		}
		fmt.Println(sum)
	}
	fmt.Printf("shed %d\n", e.Stats().Shed)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func serverAddr(t *Target) string {
	// family, port, address of an AF_INET sockaddr
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(t.sa[4:8])), uint16(t.sa[2])<<8|uint16(t.sa[3])).String()
}
