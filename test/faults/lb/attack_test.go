//go:build faults

package lb

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lb"
	"github.com/hactl/hactl/internal/lb/pool"
	"github.com/hactl/hactl/internal/process"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/test/load"
)

// attackEnv makes the test binary an attacker.
const attackEnv = "HACTL_FAULTS_LB_ATTACK"

// attack is what one attacking process does.
type attack struct {
	Kind      string // silent, drip, large, resets or flood
	Addr      string // of the balancer
	Conns     int    // silent, drip, large: kept open; resets, flood: a second
	Addresses int    // that it comes from, one after the other
	First     int    // number of the first of them
}

// attackMain attacks until its standard input ends, and then tells how many
// connections it had made. It never returns.
func attackMain(spec string) {
	var a attack
	if err := json.Unmarshal([]byte(spec), &a); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	var made atomic.Int64
	full := func() { fmt.Println("full") }
	switch a.Kind {
	case "silent":
		a.silent(ctx, &made, full)
	case "drip":
		a.drip(ctx, &made, full)
	case "large":
		a.large(ctx, &made, full)
	default:
		a.hitAndRun(ctx, &made, full)
	}
	fmt.Println(made.Load())
	os.Exit(0)
}

// dial connects from the i-th of the attacker's addresses.
func (a attack) dial(ctx context.Context, i int) (*net.TCPConn, error) {
	n := a.First + i%a.Addresses
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 6+byte(n/250), 1+byte(n%250))}}
	c, err := d.DialContext(ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// silent opens connections and says nothing.
func (a attack) silent(ctx context.Context, made *atomic.Int64, full func()) {
	var wg sync.WaitGroup
	const workers = 8
	for w := range workers {
		wg.Go(func() {
			for i := w; i < a.Conns && ctx.Err() == nil; i += workers {
				c, err := a.dial(ctx, i)
				if err != nil {
					continue
				}
				made.Add(1)
				defer c.Close()
			}
			if made.Load() > 0 && w == 0 {
				full()
			}
			<-ctx.Done()
		})
	}
	wg.Wait()
}

// hello is the beginning of a ClientHello that says it is 512 bytes long.
var hello = append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}, make([]byte, 400)...)

// largeHello is almost all of the largest ClientHello that is kept.
var largeHello = append([]byte{22, 3, 1, 0x3f, 0, 1, 0, 0x3e, 0xfc, 3, 3}, make([]byte, 16000)...)

// large sends almost a whole ClientHello on each connection, and begins again when it
// is cut.
func (a attack) large(ctx context.Context, made *atomic.Int64, full func()) {
	var wg sync.WaitGroup
	for i := range a.Conns {
		wg.Go(func() {
			for ctx.Err() == nil {
				c, err := a.dial(ctx, i)
				if err != nil {
					testPause(ctx, 100*time.Millisecond)
					continue
				}
				made.Add(1)
				stop := context.AfterFunc(ctx, func() { _ = c.Close() })
				_, _ = c.Write(largeHello)
				_, _ = io.Copy(io.Discard, c)
				stop()
				_ = c.Close()
				testPause(ctx, 4*time.Second)
			}
		})
	}
	testPoll(ctx, func() bool { return made.Load() >= int64(a.Conns) })
	full()
	wg.Wait()
}

func testPause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// drip sends each ClientHello a byte a second, and begins again when it is cut.
func (a attack) drip(ctx context.Context, made *atomic.Int64, full func()) {
	var wg sync.WaitGroup
	for i := range a.Conns {
		wg.Go(func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for ctx.Err() == nil {
				c, err := a.dial(ctx, i)
				if err != nil {
					continue
				}
				made.Add(1)
				for _, b := range hello {
					if _, err := c.Write([]byte{b}); err != nil {
						break
					}
					select {
					case <-ctx.Done():
					case <-tick.C:
						continue
					}
					break
				}
				_ = c.Close()
			}
		})
	}
	testPoll(ctx, func() bool { return made.Load() >= int64(a.Conns) })
	full()
	wg.Wait()
}

// hitAndRun connects Conns times a second and resets in the middle of the
// ClientHello (resets), or as soon as the balancer lets it (flood).
func (a attack) hitAndRun(ctx context.Context, made *atomic.Int64, full func()) {
	var wg sync.WaitGroup
	const workers = 4
	for w := range workers {
		wg.Go(func() {
			tick := time.NewTicker(time.Second * workers / time.Duration(a.Conns))
			defer tick.Stop()
			for i := w; ctx.Err() == nil; i += workers {
				c, err := a.dial(ctx, i)
				if err == nil {
					made.Add(1)
					if a.Kind == "resets" {
						_, _ = c.Write(hello[:1+i%len(hello)])
						_ = c.SetLinger(0)
						_ = c.Close()
					} else {
						_ = context.AfterFunc(ctx, func() { _ = c.Close() })
						go func() { // until it is refused
							_, _ = io.Copy(io.Discard, c)
							_ = c.Close()
						}()
					}
				}
				select {
				case <-ctx.Done():
				case <-tick.C:
				}
			}
		})
	}
	testPoll(ctx, func() bool { return made.Load() >= int64(a.Conns/2) })
	full()
	wg.Wait()
}

// testPoll waits in an attacker, which has no testing.T.
func testPoll(ctx context.Context, ok func() bool) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// attacker is a running attack.
type attacker struct {
	attack
	stdin *os.File
	lines *bufio.Scanner
	proc  *process.Process
}

// start returns when the attack is in full strength. It gets what processor time is
// left over: attackers have machines of their own, and what is looked at is the
// balancer.
func (a attack) start(t *testing.T) *attacker {
	t.Helper()
	spec, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	self, err1 := os.Executable()
	inR, inW, err2 := os.Pipe()
	outR, outW, err3 := os.Pipe()
	nice, err4 := exec.LookPath("nice")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	x := &attacker{attack: a, stdin: inW, lines: bufio.NewScanner(outR)}
	x.proc, err = process.Start(process.Config{Path: nice, Args: []string{"-n", "19", self}, Env: append(os.Environ(), attackEnv+"="+string(spec)), Stdin: inR, Stdout: outW, Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = inR.Close(), outW.Close()
	t.Cleanup(func() {
		_ = x.proc.Kill()
		x.proc.Wait()
		_, _ = inW.Close(), outR.Close()
	})
	if !x.lines.Scan() || x.lines.Text() != "full" {
		t.Fatalf("the attacker says %q", x.lines.Text())
	}
	return x
}

// stop ends the attack and returns how many connections it had made.
func (x *attacker) stop(t *testing.T) string {
	t.Helper()
	_ = x.stdin.Close()
	if !x.lines.Scan() {
		t.Fatalf("the attacker has ended without a word: %v", x.proc.Wait())
	}
	return x.lines.Text()
}

// TestAttacks has clients go on while attackers do their worst: nobody else fails or
// becomes much slower, and memory stays bounded.
func TestAttacks(t *testing.T) {
	silent := fitting(t, 20000)
	many := func(kind string, conns, addresses int) []attack {
		return []attack{{Kind: kind, Conns: conns, Addresses: addresses}}
	}
	for _, tc := range []struct {
		name    string
		attacks []attack
		args    []string
		felt    func(lb.Status) bool // the balancer has met it
	}{
		{"silent connections", []attack{
			{Kind: "silent", Conns: silent / 2, Addresses: 200},
			{Kind: "silent", Conns: silent / 2, Addresses: 200, First: 200},
		}, []string{"--hello-timeout", "5m"}, func(s lb.Status) bool {
			return s.Counts.Open > int64(min(silent, s.MaxConns))*9/10
		}},
		{"a byte a second", many("drip", 2000, 100), nil, func(s lb.Status) bool { return s.Counts.HelloTimeout > 1000 }},
		{"large hellos without an end", many("large", 3000, 100), nil, func(s lb.Status) bool { return s.Counts.SilentDropped > 2000 }},
		{"resets mid-hello", many("resets", 500, 100), nil, func(s lb.Status) bool { return s.Counts.HelloAborted > 500 }},
		{"flood from one address", many("flood", 500, 1), nil, func(s lb.Status) bool { return s.Counts.PerClient > 500 }},
	} {
		t.Run(tc.name, func(t *testing.T) { underAttack(t, tc.attacks, tc.args, tc.felt) })
	}
}

// fitting is how many connections two attackers can hold within their limits of
// open files.
func fitting(t *testing.T, want int) int {
	t.Helper()
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	n := min(want, 2*(int(min(lim.Max, 1<<20))-200))
	t.Logf("%d silent connections from two processes (limit of open files: %d each)", n, lim.Max)
	return n
}

const (
	perClient  = 200
	mostGrowth = 64 << 20 // of the balancer's memory, in bytes
)

func underAttack(t *testing.T, attacks []attack, args []string, felt func(lb.Status) bool) {
	apis, tg, ca := fakeAPIs(t, 3)
	args = append(args, "--ca-file", ca, "--max-conns-per-client", fmt.Sprint(perClient))
	ours := startOurs(t, addrsOf(apis), args...)
	calm := startOursAt(t, calmAddr, addrsOf(apis), args...)
	rss := ours.rss(t)
	var running []*attacker
	for _, a := range attacks {
		a.Addr = ours.addr
		running = append(running, a.start(t))
	}
	c := compare(t, tg, ours, calm)
	watchFor(t, windows()*window)
	testwait.For(t, "the attack to be felt", patience, func() error {
		if s := ours.mustStatus(t); !felt(s) {
			return fmt.Errorf("%+v", s.Counts)
		}
		return nil
	})
	c.end()
	grown := ours.rss(t) - rss
	s := ours.mustStatus(t)
	// Probes and the admin socket have descriptors of their own.
	apis[0].end()
	ours.until(t, apis[0].addr, pool.Ejected)
	for _, x := range running {
		t.Logf("%s: %s connections from %d addresses", x.Kind, x.stop(t), x.Addresses)
	}
	t.Logf("open %d of %d, shed %d, silent dropped %d, refused per client %d, hello timeouts %d, hellos broken off %d",
		s.Counts.Open, s.MaxConns, s.Counts.Shed, s.Counts.SilentDropped, s.Counts.PerClient, s.Counts.HelloTimeout, s.Counts.HelloAborted)
	c.judge(t, 0)
	c.noneFailed(t)
	mustNotGrow(t, grown)
	if s.Counts.Open > int64(s.MaxConns) {
		t.Errorf("%d connections, bound is %d", s.Counts.Open, s.MaxConns)
	}
	testwait.For(t, "the attackers' connections to be gone", patience, func() error {
		if n := ours.mustStatus(t).Counts.Open; n > 20 {
			return fmt.Errorf("%d are open", n)
		}
		return nil
	})
}

func mustNotGrow(t *testing.T, grown int) {
	t.Helper()
	t.Logf("memory grew by %.1f MiB", float64(grown)/(1<<20))
	if grown > mostGrowth {
		t.Errorf("memory grew by %d MiB, want at most %d", grown>>20, mostGrowth>>20)
	}
}

func addrsOf(apis []*fakeAPI) (addrs []string) {
	for _, a := range apis {
		addrs = append(addrs, a.addr)
	}
	return addrs
}

// A backend that is ready for its probes, and resets or swallows what clients
// send: no client fails, those who were not sent to it notice nothing, and it is left
// alone after a while.
func TestLiars(t *testing.T) {
	for name, m := range map[string]mode{"resets every client": resetsAll, "answers no client": swallowsAll} {
		t.Run(name, func(t *testing.T) {
			apis, tg, ca := fakeAPIs(t, 4)
			ours := startOurs(t, addrsOf(apis[:3]), "--ca-file", ca)
			calm := startOursAt(t, calmAddr, addrsOf(apis[1:]), "--ca-file", ca)
			rss := ours.rss(t)
			apis[0].mode.Store(int32(m))
			c := compare(t, tg, ours, calm)
			testwait.For(t, "it to be distrusted", patience, func() error {
				if b := ours.backend(t, apis[0].addr); !b.Distrusted || b.State != pool.Ready {
					return fmt.Errorf("%+v", b)
				}
				return nil
			})
			watchFor(t, windows()*window)
			c.end()
			b := ours.backend(t, apis[0].addr)
			t.Logf("%d connections were moved on from it after silence, %d after a reset", b.Replayed, b.Failed)
			c.judge(t, int(b.Replayed))
			if f := load.Failed(c.attacked.fresh); len(f) > 0 {
				t.Errorf("%d new connections failed: %v", len(f), f)
			}
			mustNotGrow(t, ours.rss(t)-rss)
		})
	}
}

// A backend that answers one byte and stalls: what has come to it before it is
// found out is lost, nobody else notices, and its connections are reset.
func TestOneByteThenStall(t *testing.T) {
	apis, tg, ca := fakeAPIs(t, 4)
	ours := startOurs(t, addrsOf(apis[:3]), "--ca-file", ca)
	calm := startOursAt(t, calmAddr, addrsOf(apis[1:]), "--ca-file", ca)
	rss := ours.rss(t)
	c := compare(t, tg, ours, calm)
	watchFor(t, window)
	begin := time.Now()
	apis[0].mode.Store(int32(oneByte))
	testwait.For(t, "it to get nothing new", patience, func() error {
		if ours.backend(t, apis[0].addr).Usable {
			return errors.New("it is used")
		}
		return nil
	})
	out := time.Now()
	ours.empties(t, apis[0].addr)
	watchFor(t, windows()*window)
	c.end()
	t.Logf("out of use after %v", out.Sub(begin).Round(10*time.Millisecond))
	c.judge(t, 0)
	mustNotGrow(t, ours.rss(t)-rss)
	stuck := load.Failed(c.attacked.fresh)
	before := 0
	for _, r := range c.attacked.fresh {
		if r.Start.Before(out) {
			before++
		}
	}
	for _, r := range stuck {
		if r.Start.After(out) {
			t.Errorf("a connection failed that began %v later: %v", r.Start.Sub(out), r.Err)
		}
	}
	if n := len(stuck); 2*n > before {
		t.Errorf("%d of %d new connections failed, want a third of those at first", n, before)
	} else if n > 0 {
		t.Logf("%d new connections were lost, the first by: %v", n, stuck[0].Err)
	}
	for i, n := range c.attacked.keptFailed() {
		if n > 1 {
			t.Errorf("kept client %d lost %d requests", i, n)
		}
	}
}
