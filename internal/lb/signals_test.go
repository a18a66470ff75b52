package lb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lb/pool"
	"github.com/hactl/hactl/internal/lb/probe"
)

var errNotYet = errors.New("not yet")

func files(fs ...*os.File) []*os.File { return fs }

// lines is a log.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(p))
	return len(p), nil
}

func (l *lines) with(parts ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for _, line := range l.all {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

// A change of state is one line, however many probes say the same.
func TestOneLogLineAStateChange(t *testing.T) {
	ca, s := three(t)
	log := &lines{}
	r := newRig(t, ca, Config{Source: sourceOf(s[0], s[1]), Logger: slog.New(slog.NewTextHandler(log, nil))})
	r.until("a", "ready")
	r.until("b", "ready")
	s[0].kill()
	r.until("a", "ejected")
	eventually(t, "ten more bad probes", func() bool { return r.backend("a").Probe.Failures > 10 })
	s[0].start()
	r.until("a", "ready")
	asks := s[0].asks.Load()
	eventually(t, "ten more good probes", func() bool { return s[0].asks.Load() > asks+10 })
	for _, change := range []string{"from=starting to=ready", "from=ready to=ejected", "from=ejected to=ready"} {
		if got := log.with("backend=a", change); len(got) != 1 || !strings.Contains(got[0], "why=") {
			t.Errorf("%s: %q", change, got)
		}
	}
	if got := log.with("backend=a"); len(got) != 4 { // and its being added
		t.Errorf("%d lines of a: %q", len(got), got)
	}
}

// seldom are probes that only a signal brings in a test's time.
func seldom(ca *testCA) Check {
	c := quick(ca)
	c.Every = time.Hour
	return c
}

// A connection that is refused has the backend probed at once.
func TestTroubleBringsAProbe(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Source: sourceOf(s[0], s[1]), Algorithm: "round-robin", Check: seldom(ca)})
	r.until("a", "ready")
	r.until("b", "ready")
	s[0].kill()
	eventually(t, "a to be ejected", func() bool {
		r.names(1)
		return r.backend("a").State == pool.Ejected
	})
	// Silence brings one, too, though that connection goes elsewhere.
	quickly := Config{Source: sourceOf(s[1], s[2]), Algorithm: "round-robin", Check: seldom(ca)}
	quickly.Data.ReplayAfter = 50 * time.Millisecond
	r = newRig(t, ca, quickly)
	r.until("b", "ready")
	r.until("c", "ready")
	s[2].ln.freeze()
	defer s[2].ln.unfreeze()
	eventually(t, "c to fail a probe", func() bool {
		r.names(1)
		return r.backend("c").Probe.Failures > 0
	})
}

// Whatever fails before the first byte, the backend is probed at once.
func TestEveryKindOfTroubleBringsAProbe(t *testing.T) {
	for name, handle := range map[string]func(*net.TCPConn){
		"refused": nil,
		"reset":   func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() },
		"ended":   func(c *net.TCPConn) { _ = c.Close() },
		"silent":  func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c); _ = c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{
				Source:    Static([]Backend{{Name: "bad", Address: badServer(t, handle)}, {Name: "good", Address: echoServer(t)}}),
				Algorithm: "round-robin", Check: Check{Kind: CheckNone, Every: time.Hour}, ReplayPlain: true,
			}
			cfg.Data.ReplayAfter = 50 * time.Millisecond
			r := newRig(t, nil, cfg)
			r.until("bad", "ready")
			r.until("good", "ready")
			first := r.backend("bad").Probe.At
			eventually(t, "a second probe", func() bool {
				c, err := net.Dial("tcp", r.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				say(t, c, "hello") // the other one answers
				return r.backend("bad").Probe.At.After(first)
			})
		})
	}
}

// badServer listens and lets handle deal with connections; without handle it
// refuses them.
func badServer(t *testing.T, handle func(*net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if handle == nil {
		_ = ln.Close()
		return ln.Addr().String()
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { handle(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// One backend that hangs does not keep the others from being asked.
func TestProbesRunSideBySide(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Source: sourceOf(s[:]...)})
	for _, n := range []string{"a", "b", "c"} {
		r.until(n, "ready")
	}
	s[0].ln.freeze()
	defer s[0].ln.unfreeze()
	b, c := s[1].asks.Load(), s[2].asks.Load()
	eventually(t, "a probe of a to fail", func() bool { return r.backend("a").Probe.Failures > 0 })
	// Its timeout is ten intervals; in turn they would have been asked once each.
	if b, c = s[1].asks.Load()-b, s[2].asks.Load()-c; b < 3 || c < 3 {
		t.Errorf("meanwhile b was asked %d times and c %d times", b, c)
	}
}

// A rumour brings a probe and nothing else.
func TestSuspectOnlyBringsAProbe(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Source: sourceOf(s[0], s[1]), Check: seldom(ca)})
	r.until("a", "ready")
	asks := s[0].asks.Load()
	if err := r.Suspect("a"); err != nil {
		t.Fatal(err)
	}
	if b := r.backend("a"); b.State != pool.Ready || !b.Usable {
		t.Errorf("the rumour alone changed it: %+v", b)
	}
	eventually(t, "a probe", func() bool { return s[0].asks.Load() > asks })
	if b := r.backend("a"); b.State != pool.Ready || !b.Usable {
		t.Errorf("a good probe after a rumour: %+v", b)
	}
}

func TestSlowStartAndBackOff(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		returned time.Time
		over     time.Duration
		want     float64
	}{
		{time.Time{}, 10 * time.Second, 1}, // it was always there
		{now, 10 * time.Second, .1},
		{now.Add(-5 * time.Second), 10 * time.Second, .5},
		{now.Add(-11 * time.Second), 10 * time.Second, 1},
		{now, -1, 1}, // turned off
	} {
		m := &member{returned: tc.returned}
		if got := m.ramp(now, tc.over); got != tc.want {
			t.Errorf("returned %v ago, over %v: %v, want %v", now.Sub(tc.returned), tc.over, got, tc.want)
		}
	}
	ca, s := three(t)
	r := newRig(t, ca, Config{Source: sourceOf(s[0], s[1])})
	r.until("a", "ready")
	r.until("b", "ready")
	for name, tc := range map[string]struct {
		state pool.State
		since time.Duration
		want  int
	}{
		"ready":           {pool.Ready, time.Hour, 1},
		"just ejected":    {pool.Ejected, time.Second, 1},
		"long dead":       {pool.Ejected, time.Hour, slowFactor},
		"drains for long": {pool.Draining, time.Hour, 1},
	} {
		m := &member{health: pool.Health{State: tc.state, Since: now.Add(-tc.since)}}
		r.mu.Lock()
		got := r.probeFactor(m, now)
		r.mu.Unlock()
		if got != tc.want {
			t.Errorf("%s: asked at a %d-th of the pace, want %d", name, got, tc.want)
		}
	}
	s[0].kill()
	s[1].kill()
	r.until("a", "ejected")
	r.until("b", "ejected")
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := r.probeFactor(&member{health: pool.Health{State: pool.Ejected, Since: now.Add(-time.Hour)}}, now); got != 1 {
		t.Error("the first one back is not looked for at full pace, though there is no other")
	}
}

// The own zone first, others when it has none.
func TestZoneIsPreferred(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Algorithm: pool.LocalFirst, Zone: "z1", SlowStart: -1, Source: Static([]Backend{
		{Name: "a", Address: s[0].addr, Zone: "z1"}, {Name: "b", Address: s[1].addr, Zone: "z2"}, {Name: "c", Address: s[2].addr},
	})})
	for _, n := range []string{"a", "b", "c"} {
		r.until(n, "ready")
	}
	if got := r.names(10); got["a"] != 10 {
		t.Errorf("answers: %v", got)
	}
	s[0].kill()
	if got := r.names(10); got["a"] != 0 { // also before a probe has noticed
		t.Errorf("answers: %v", got)
	}
	r.until("a", "ejected")
	s[0].start()
	eventually(t, "a to be used again", func() bool { return r.backend("a").Usable })
	if got := r.names(10); got["a"] != 10 {
		t.Errorf("answers after its return: %v", got)
	}
}

// overloadedForAWhile has two backends fall silent together; one of them gives a
// sign of life before the other is ready again. Only when it falls silent once
// more, and the other answers, is it cut.
func overloadedForAWhile(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Source: sourceOf(s[0], s[1]), Algorithm: "round-robin", Check: seldom(ca)})
	r.until("a", "ready")
	r.until("b", "ready")
	old := map[string]*client{}
	for range 2 {
		c := r.client()
		name, err := c.name()
		if err != nil {
			t.Fatal(err)
		}
		old[name] = c
	}
	eventually(t, "its last bytes to be old", func() bool { return time.Since(r.member("b").target.Heard()) > r.cfg.Check.Timeout })
	a, b := r.member("a"), r.member("b")
	says := func(m *member, answers ...pool.Answer) {
		for _, x := range answers {
			r.observed(m, probe.Result{Answer: x, Why: "as the test says", Took: 100 * time.Millisecond})
		}
	}
	ticks := func() {
		at := r.ticked.Load()
		eventually(t, "a tick", func() bool { return r.ticked.Load() > at })
	}
	says(b, pool.Silent, pool.Silent)
	ticks()
	says(b, pool.Red)
	says(a, pool.OK)
	ticks()
	if n := r.Status().Counts.Cut; n != 0 || r.backend("b").Connections != 1 {
		t.Errorf("%d connections cut of a backend that has answered since", n)
	}
	says(b, pool.Silent, pool.Silent)
	ticks()
	if n := r.Status().Counts.Cut; n != 0 {
		t.Errorf("%d connections cut, though nobody else has answered since", n)
	}
	says(a, pool.OK)
	eventually(t, "it to be cut", func() bool { return r.Status().Counts.Cut == 1 })
	if name, err := old["a"].name(); name != "a" || err != nil {
		t.Errorf("the other one's client: %q %v", name, err)
	}
}

// A machine that is overloaded gets no answer from anybody in time. What seems to
// hang is cut only when another one has answered since.
func TestOverloadCutsNobody(t *testing.T) {
	t0 := time.Unix(1000, 0)
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	ready := pool.Health{State: pool.Ready}
	other := &member{health: ready}
	b := &Balancer{members: map[string]*member{"hangs": {health: pool.Health{State: pool.Ejected}, good: at(900)}, "other": other}}
	overloadedForAWhile(t)
	for name, tc := range map[string]struct {
		good, silent time.Time
		health       pool.Health
		want         bool
	}{
		"it answered before the silence began":       {at(400), at(500), ready, false},
		"it has answered since":                      {at(600), at(500), ready, true},
		"it has answered since, and was ejected now": {at(600), at(500), pool.Health{State: pool.Ejected}, false},
	} {
		other.good, other.health = tc.good, tc.health
		if got := b.answeredSince(tc.silent, at(2000)); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// Clients on IPv6, backends on a unix socket and on IPv6, and an end of one
// direction that leaves the other open.
func TestFamiliesAndHalfClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.sock")
	var list []Backend
	for _, at := range []struct{ network, address string }{{"unix", path}, {"tcp", "[::1]:0"}} {
		ln, err := net.Listen(at.network, at.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		name, address := at.network, ln.Addr().String()
		if at.network == "unix" {
			address = "unix:" + path
		}
		list = append(list, Backend{Name: name, Address: address})
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() { // its answer comes after the client's end
					data, _ := io.ReadAll(c)
					fmt.Fprintf(c, "%s has read %d", name, len(data))
					_ = c.Close()
				}()
			}
		}()
	}
	for _, listen := range []string{"[::1]:0", ":0", "unix:" + filepath.Join(t.TempDir(), "front.sock")} {
		r := newRig(t, nil, Config{Listeners: files(listener(t, listen)), Source: Static(list), Check: Check{Kind: CheckTCP}, Algorithm: "round-robin"})
		r.until("unix", "ready")
		r.until("tcp", "ready")
		network, address := "tcp", r.addr
		if p, ok := strings.CutPrefix(address, "unix:"); ok {
			network, address = "unix", p
		}
		heard := map[string]int{}
		for range 4 {
			c, err := net.Dial(network, address)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			_, _ = c.Write(make([]byte, 300_000))
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
			said, err := io.ReadAll(bufio.NewReader(c))
			if err != nil {
				t.Fatal(err)
			}
			heard[string(said)]++
			_ = c.Close()
		}
		if heard["unix has read 300000"] != 2 || heard["tcp has read 300000"] != 2 {
			t.Errorf("front %s: %v", listen, heard)
		}
		r.stop()
	}
}
