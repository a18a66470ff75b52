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
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lb/pool"
	"github.com/hactl/hactl/internal/process"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/test/load"
)

// attackEnv makes the test binary an attacker.
const attackEnv = "HACTL_FAULTS_LB_ATTACK"

// attack is what one attacking process does.
type attack struct {
	Kind      string // silent, drip, resets or flood
	Addr      string // of the balancer
	Conns     int    // silent, drip: kept open; resets, flood: a second
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

// start returns when the attack is in full strength.
func (a attack) start(t *testing.T) *attacker {
	t.Helper()
	spec, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	self, err1 := os.Executable()
	inR, inW, err2 := os.Pipe()
	outR, outW, err3 := os.Pipe()
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	x := &attacker{attack: a, stdin: inW, lines: bufio.NewScanner(outR)}
	x.proc, err = process.Start(process.Config{Path: self, Env: append(os.Environ(), attackEnv+"="+string(spec)), Stdin: inR, Stdout: outW, Stderr: os.Stderr})
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

// TestAttacks has clients go on while attackers do their worst: nobody else
// fails, and memory stays bounded. How much slower the others become is printed.
func TestAttacks(t *testing.T) {
	silent := fitting(t, 20000)
	many := func(kind string, conns, addresses int) []attack {
		return []attack{{Kind: kind, Conns: conns, Addresses: addresses}}
	}
	for _, tc := range []struct {
		name    string
		attacks []attack
		args    []string
	}{
		{"silent connections", []attack{
			{Kind: "silent", Conns: silent / 2, Addresses: 200},
			{Kind: "silent", Conns: silent / 2, Addresses: 200, First: 200},
		}, []string{"--hello-timeout", "5m"}},
		{"a byte a second", many("drip", 2000, 100), nil},
		{"resets mid-hello", many("resets", 500, 100), nil},
		{"flood from one address", many("flood", 500, 1), nil},
	} {
		t.Run(tc.name, func(t *testing.T) { underAttack(t, tc.attacks, tc.args) })
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

const perClient = 200

func underAttack(t *testing.T, attacks []attack, args []string) {
	apis, tg, ca := fakeAPIs(t, 3)
	ours := startOurs(t, addrsOf(apis), append(args, "--ca-file", ca, "--max-conns-per-client", fmt.Sprint(perClient))...)
	measured := 4 * time.Second
	if long() {
		measured = 20 * time.Second
	}
	measure := func() *observed {
		ctx, stop := context.WithTimeout(t.Context(), measured)
		defer stop()
		return watch(ctx, tg, ours.addr, 10*time.Millisecond)
	}
	quiet := measure()
	rss := ours.rss(t)
	var running []*attacker
	for _, a := range attacks {
		a.Addr = ours.addr
		running = append(running, a.start(t))
	}
	during := measure()
	grown := ours.rss(t) - rss
	s := ours.mustStatus(t)
	for _, x := range running {
		t.Logf("%s: %s connections from %d addresses", x.Kind, x.stop(t), x.Addresses)
	}
	t.Logf("before: %v", quiet)
	t.Logf("during: %v", during)
	t.Logf("new connections: p99 %.2f times as long as before, %d of %d slower than twice that p99; memory grew by %.1f MiB; open %d of %d, shed %d, silent dropped %d, refused per client %d, hello timeouts %d",
		float64(quantile(during.fresh, .99))/float64(max(time.Millisecond, quantile(quiet.fresh, .99))),
		slower(during.fresh, 2*quantile(quiet.fresh, .99)), len(during.fresh), float64(grown)/(1<<20),
		s.Counts.Open, s.MaxConns, s.Counts.Shed, s.Counts.SilentDropped, s.Counts.PerClient, s.Counts.HelloTimeout)
	for _, o := range []*observed{quiet, during} {
		o.mustSee(t, 50)
		lost := o.newFailed()
		for _, n := range o.keptFailed() {
			lost += n
		}
		if lost > 0 {
			t.Errorf("%d requests of others failed%s", lost, firstErrors(o))
		}
	}
	if s.Counts.Open > int64(s.MaxConns) {
		t.Errorf("%d connections, bound is %d", s.Counts.Open, s.MaxConns)
	}
	if most := 64 << 20; grown > most {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
	testwait.For(t, "the attackers' connections to be gone", patience, func() error {
		if n := ours.mustStatus(t).Counts.Open; n > 20 {
			return fmt.Errorf("%d are open", n)
		}
		return nil
	})
}

// slower counts the requests that took longer than d.
func slower(all []load.Result, d time.Duration) (n int) {
	for _, r := range all {
		if r.End.Sub(r.Due) > d {
			n++
		}
	}
	return n
}

func addrsOf(apis []*fakeAPI) (addrs []string) {
	for _, a := range apis {
		addrs = append(addrs, a.addr)
	}
	return addrs
}

// A backend that is ready for its probes, and resets or swallows what clients
// send: no client notices, and it is left alone after a while.
func TestLiars(t *testing.T) {
	for name, m := range map[string]mode{"resets every client": resetsAll, "answers no client": swallowsAll} {
		t.Run(name, func(t *testing.T) {
			apis, tg, ca := fakeAPIs(t, 3)
			ours := startOurs(t, addrsOf(apis), "--ca-file", ca)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var fresh []load.Result
			var wg sync.WaitGroup
			wg.Go(func() { fresh = tg.newConnections(ctx, ours.addr, newEvery, newTimeout) })
			apis[0].mode.Store(int32(m))
			testwait.For(t, "it to be distrusted", patience, func() error {
				for _, b := range ours.mustStatus(t).Backends {
					if b.Address == apis[0].addr && b.Distrusted && b.State == pool.Ready {
						return nil
					}
				}
				return errors.New("not yet")
			})
			watchFor(t, time.Second)
			stop()
			wg.Wait()
			t.Logf("%d new connections, p99 %v, max %v", len(fresh), quantile(fresh, .99), quantile(fresh, 1))
			if f := load.Failed(fresh); len(f) > 0 || len(fresh) < 10 {
				t.Errorf("%d of %d new connections failed: %v", len(f), len(fresh), f)
			}
		})
	}
}

// A backend that answers one byte and stalls: what has come to it before it is
// found out is lost, nobody else notices, and its connections are reset.
func TestOneByteThenStall(t *testing.T) {
	apis, tg, ca := fakeAPIs(t, 3)
	ours := startOurs(t, addrsOf(apis), "--ca-file", ca)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var o *observed
	var wg sync.WaitGroup
	wg.Go(func() { o = watch(ctx, tg, ours.addr, newEvery) })
	watchFor(t, time.Second)
	begin := time.Now()
	apis[0].mode.Store(int32(oneByte))
	testwait.For(t, "it to get nothing new", patience, func() error {
		for _, b := range ours.mustStatus(t).Backends {
			if b.Address == apis[0].addr && b.Usable {
				return errors.New("it is used")
			}
		}
		return nil
	})
	out := time.Now()
	ours.empties(t, apis[0].addr)
	watchFor(t, time.Second)
	stop()
	wg.Wait()
	t.Logf("out of use after %v: %v", out.Sub(begin).Round(10*time.Millisecond), o)
	stuck := 0
	for _, r := range load.Failed(o.fresh) {
		if r.Start.After(out) {
			t.Errorf("a connection failed that began %v later: %v", r.Start.Sub(out), r.Err)
		}
		stuck++
	}
	if most := len(o.fresh) / 2; stuck > most {
		t.Errorf("%d of %d new connections failed, want a third of those at first", stuck, len(o.fresh))
	}
	for i, n := range o.keptFailed() {
		if n > 1 {
			t.Errorf("kept client %d lost %d requests", i, n)
		}
	}
	if f := load.Failed(o.fresh); len(f) > 0 && !strings.Contains(fmt.Sprint(f[0].Err), "reset") {
		t.Logf("they ended by: %v", f[0].Err)
	}
}
