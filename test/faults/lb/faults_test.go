//go:build faults

package lb

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lb/pool"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/test/load"
)

// fault is something that happens to API servers, or to our balancer.
type fault struct {
	name        string
	brief, long time.Duration // how long clients watch; long: until HAProxy has noticed too
	hit         func(t *testing.T, p *plane, ours *balancer) (mend func())
	// keptMayLose is how many requests each kept client may lose: one may be under
	// way on a connection to a server that dies.
	keptMayLose int
	// sameConns: every kept client keeps its connection.
	sameConns bool
	oursOnly  bool
}

func faults() []fault {
	return []fault{
		{name: "SIGKILL one", brief: 4 * time.Second, long: 15 * time.Second, keptMayLose: 1,
			hit: func(t *testing.T, p *plane, ours *balancer) func() {
				p.apis[0].signal(syscall.SIGKILL)
				ours.until(t, p.apis[0].hostPort(), pool.Ejected)
				return func() { p.apis[0].restart(t) }
			}},
		{name: "SIGSTOP one", brief: 5 * time.Second, long: 37 * time.Second, keptMayLose: 1,
			hit: func(t *testing.T, p *plane, ours *balancer) func() {
				p.apis[1].signal(syscall.SIGSTOP)
				ours.empties(t, p.apis[1].hostPort())
				return func() { p.apis[1].signal(syscall.SIGCONT) }
			}},
		{name: "black hole of one host", brief: 7 * time.Second, long: 45 * time.Second, keptMayLose: 1,
			hit: func(t *testing.T, p *plane, ours *balancer) func() {
				mend := p.apis[2].cutOff(t)
				ours.empties(t, p.apis[2].hostPort())
				return mend
			}},
		{name: "upgrade of the balancer", brief: 5 * time.Second, long: 10 * time.Second, oursOnly: true, sameConns: true,
			hit: func(t *testing.T, _ *plane, ours *balancer) func() {
				ours.upgrade(t)
				return nil
			}},
	}
}

// TestFaults breaks API servers while clients of the balancer open a connection
// each 50 ms and ask over kept HTTP/2 connections. No new connection fails, and a
// kept client loses the one request that was under way at most.
func TestFaults(t *testing.T) {
	p := newPlane(t)
	var addrs []string
	for _, a := range p.apis {
		addrs = append(addrs, a.hostPort())
	}
	balancers := []*balancer{startOurs(t, addrs, "--ca-file", p.dir+"/ca.crt", "--drain-timeout", "2m")}
	if long() {
		balancers = append(balancers, startHAProxy(t, addrs))
	}
	for _, f := range faults() {
		t.Run(f.name, func(t *testing.T) { f.run(t, p, balancers) })
	}
	t.Run("all down, then one back", func(t *testing.T) { allDown(t, p, balancers[0]) })
	if long() {
		for _, b := range balancers {
			t.Run("rolling restart, "+b.name, func(t *testing.T) { rollingRestart(t, p, b, p.apis[:], 500) })
		}
		t.Run("backend returns", func(t *testing.T) { returns(t, p, balancers[0], 300) })
	} else {
		t.Run("restart of one under load", func(t *testing.T) {
			rollingRestart(t, p, balancers[0], p.apis[:1], 100)
		})
	}
}

func (f fault) run(t *testing.T, p *plane, balancers []*balancer) {
	for _, b := range balancers {
		b.allBack(t)
	}
	lasts := f.brief
	if long() {
		lasts = f.long
	}
	if f.oursOnly {
		balancers = balancers[:1]
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	seen := make([]*observed, len(balancers))
	var wg sync.WaitGroup
	for i, b := range balancers {
		wg.Go(func() { seen[i] = watch(ctx, p.target(), b.addr, crowd{newEvery, newTimeout, askTimeout}) })
	}
	watchFor(t, time.Second)
	over := time.After(lasts)
	mend := f.hit(t, p, balancers[0])
	select {
	case <-over:
	case <-ctx.Done():
	}
	stop()
	wg.Wait()
	if mend != nil {
		mend()
	}
	for i, b := range balancers {
		t.Logf("%s: %s", b.name, seen[i])
	}
	f.judge(t, seen[0])
}

func (f fault) judge(t *testing.T, o *observed) {
	t.Helper()
	o.mustSee(t, 60)
	if n := o.newFailed(); n > 0 {
		t.Errorf("%d new connections failed", n)
	}
	for i, n := range o.keptFailed() {
		if n > f.keptMayLose {
			t.Errorf("kept client %d lost %d requests, want at most %d", i, n, f.keptMayLose)
		}
	}
	if f.sameConns {
		for i, n := range o.dials() {
			if n != 1 {
				t.Errorf("kept client %d connected %d times, want 1", i, n)
			}
		}
	}
}

// empties waits until the backend has been ejected and has no connection left.
func (b *balancer) empties(t *testing.T, address string) {
	t.Helper()
	start := time.Now()
	b.until(t, address, pool.Ejected)
	ejected := time.Since(start)
	testwait.For(t, "its old connections to end", patience, func() error {
		for _, m := range b.mustStatus(t).Backends {
			if m.Address == address && m.Connections > 0 {
				return fmt.Errorf("%d are left", m.Connections)
			}
		}
		return nil
	})
	t.Logf("ejected after %v, without connections after %v", ejected.Round(10*time.Millisecond), time.Since(start).Round(10*time.Millisecond))
}

// allBack waits until every backend is used again.
func (b *balancer) allBack(t *testing.T) {
	t.Helper()
	if b.root == "" {
		testwait.For(t, "HAProxy to have all servers up", patience, func() error { return haproxyUp(b.statsSocket) })
		return
	}
	for _, m := range b.mustStatus(t).Backends {
		b.until(t, m.Address, pool.Ready)
	}
}

// upgrade has the balancer hand over to a successor, which becomes b.
func (b *balancer) upgrade(t *testing.T) {
	t.Helper()
	old := b.mustStatus(t).PID
	if err := syscall.Kill(old, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, "the successor to serve", patience, func() error {
		if s := b.mustStatus(t); s.PID == old {
			return fmt.Errorf("%d still answers", old)
		}
		return nil
	})
	b.heir = b.mustStatus(t).PID
	t.Logf("%d has handed over to %d", old, b.heir)
}

// allDown kills all API servers and starts one: as soon as it is ready, every new
// connection is served.
func allDown(t *testing.T, p *plane, ours *balancer) {
	ours.allBack(t)
	for _, a := range p.apis {
		a.signal(syscall.SIGKILL)
	}
	for _, a := range p.apis {
		a.proc.Wait()
		ours.until(t, a.hostPort(), pool.Ejected)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var fresh []load.Result
	var wg sync.WaitGroup
	wg.Go(func() { fresh = p.target().newConnections(ctx, ours.addr, newEvery, newTimeout) })
	watchFor(t, 500*time.Millisecond)
	down := time.Now()
	p.apis[1].start()
	p.apis[1].waitReady(t)
	back := time.Now()
	ours.until(t, p.apis[1].hostPort(), pool.Ready)
	t.Logf("it was ready %v after its start, and known to be after %v more", back.Sub(down).Round(10*time.Millisecond), time.Since(back).Round(10*time.Millisecond))
	watchFor(t, time.Second)
	stop()
	wg.Wait()
	failed, served := 0, 0
	for _, r := range fresh {
		switch {
		case r.Start.Before(down) && r.Err == nil:
			t.Error("a connection was served while all were down")
		case r.Start.After(back) && r.Err != nil:
			failed++
			t.Logf("%v after its return: %v", r.Start.Sub(back), r.Err)
		case r.Start.After(back):
			served++
		}
	}
	if failed > 0 || served < 10 {
		t.Errorf("after the return %d connections failed and %d were served", failed, served)
	}
	for _, a := range []*apiServer{p.apis[0], p.apis[2]} {
		a.restart(t)
	}
}

// rollingRestart restarts API servers one by one under rate requests a second and
// some more, a tenth of them over new connections and the rest over kept ones.
// Nobody waits for an answer before sending the next request, so that a slow
// machine piles them up: they have long until they are taken for lost.
func rollingRestart(t *testing.T, p *plane, b *balancer, which []*apiServer, rate int) {
	const (
		streams = 10
		timeout = time.Minute
	)
	newEvery := 10 * time.Second / time.Duration(rate)
	keptEvery := streams * time.Second / time.Duration(rate*92/100)
	b.allBack(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	tg := p.target()
	results := make([][]load.Result, streams+1)
	var wg sync.WaitGroup
	begin := time.Now()
	wg.Go(func() { results[streams] = tg.newConnections(ctx, b.addr, newEvery, timeout) })
	for i := range streams {
		wg.Go(func() {
			results[i] = load.Run(ctx, keptStream(tg, b.addr, keptEvery, timeout))
		})
	}
	watchFor(t, time.Second)
	for _, a := range which {
		a.signal(syscall.SIGTERM)
		a.restart(t)
		watchFor(t, 3*time.Second)
	}
	stop()
	wg.Wait()
	lasted := time.Since(begin)
	var all, failed []load.Result
	for i, r := range results {
		all = append(all, r...)
		failed = append(failed, load.Failed(r)...)
		if i == streams {
			t.Logf("%s: new: %d of %d failed, p99 %v max %v", b.name, len(load.Failed(r)), len(r), quantile(r, .99), quantile(r, 1))
		}
	}
	asked := 0
	for _, r := range all {
		asked += r.Asked
	}
	t.Logf("%s: %d of %d requests failed in %v, p50 %v p99 %v max %v; %d answers were to try again later", b.name, len(failed), len(all),
		lasted.Round(time.Second), quantile(all, .5), quantile(all, .99), quantile(all, 1), asked)
	logErrors(t, failed)
	if b.root == "" {
		return // HAProxy is measured, not judged
	}
	if len(failed) > 0 {
		t.Errorf("%d requests failed", len(failed))
	}
	// No count of failures is 0 for want of requests.
	got := float64(len(all)) / lasted.Seconds()
	t.Logf("%s: %.0f requests a second, wanted were %d", b.name, got, rate)
	if least := rate * len(which); len(all) < least || long() && got < float64(rate) {
		t.Errorf("only %d requests in %v: the machine is too busy for this test", len(all), lasted)
	}
}

// logErrors shows each kind of error once, with its count.
func logErrors(t *testing.T, failed []load.Result) {
	t.Helper()
	kinds := map[string]int{}
	for _, r := range failed {
		text := r.Err.Error()
		if i := strings.LastIndex(text, "127.0."); i > 0 { // ports differ
			text = text[:i]
		}
		kinds[r.Stream+": "+text]++
	}
	for k, n := range kinds {
		t.Logf("  %d × %s", n, k)
	}
}

// returns kills an API server that a third of many kept connections are at. When it
// is back, connections move until it has its share.
func returns(t *testing.T, p *plane, ours *balancer, clients int) {
	ours.allBack(t)
	p.apis[0].signal(syscall.SIGKILL)
	ours.until(t, p.apis[0].hostPort(), pool.Ejected)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	all := make([]kept, clients)
	for i := range all {
		wg.Go(func() { all[i].ask(ctx, p.target(), ours.addr, 3*time.Second, 10*time.Second) })
	}
	loads := func() (n []int64) {
		for _, a := range p.apis {
			for _, m := range ours.mustStatus(t).Backends {
				if m.Address == a.hostPort() {
					n = append(n, m.Connections)
				}
			}
		}
		return n
	}
	testwait.For(t, "all clients to be there", patience, func() error {
		if n := loads(); n[1]+n[2] < int64(clients) {
			return fmt.Errorf("connections %v", n)
		}
		return nil
	})
	before := loads()
	p.apis[0].restart(t)
	ours.until(t, p.apis[0].hostPort(), pool.Ready)
	back := time.Now()
	share := float64(clients) / float64(len(p.apis))
	testwait.For(t, "loads to be even within a tenth", 2*time.Minute, func() error {
		n := loads()
		for _, c := range n {
			if float64(c) < share*.9 || float64(c) > share*1.1 {
				return fmt.Errorf("connections %v", n)
			}
		}
		return nil
	})
	t.Logf("connections %v became %v in %v", before, loads(), time.Since(back).Round(time.Second))
	stop()
	wg.Wait()
	failed, asked := 0, 0
	for i := range all {
		asked += len(all[i].results)
		for _, r := range load.Failed(all[i].results) {
			if r.Start.After(back) {
				failed++
				t.Logf("after the return: %v", r.Err)
			}
		}
	}
	if failed > 0 {
		t.Errorf("%d of %d requests failed because connections were moved", failed, asked)
	}
}

func haproxyUp(socket string) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprint(c, "show stat\n"); err != nil {
		return err
	}
	var b strings.Builder
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			break
		}
	}
	for line := range strings.Lines(b.String()) {
		f := strings.Split(line, ",")
		if len(f) > 17 && strings.HasPrefix(f[1], "s") && f[17] != "UP" && f[1] != "svname" {
			return fmt.Errorf("%s is %s", f[1], f[17])
		}
	}
	return nil
}
