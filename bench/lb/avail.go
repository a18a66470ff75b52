package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// guide is the health check and server line of a guide that is often followed
// with kubeadm.
const guide = `defaults
 mode tcp
 option redispatch
 retries 1
 timeout connect 5s
 timeout client 35s
 timeout server 35s
 timeout check 10s
listen api
 bind %s
 option httpchk GET /healthz
 http-check expect status 200
 balance roundrobin
 default-server inter 10s downinter 5s rise 2 fall 2 slowstart 60s maxconn 250 maxqueue 256 weight 100 check check-ssl verify none
%s`

// measureAvail breaks API servers under two balancers at once and counts what
// clients of each see.
func measureAvail(ctx context.Context, o options) error {
	p, err := startPlane(ctx, o)
	if err != nil {
		return err
	}
	defer p.stop()
	var proxies [2]*proxy
	names := [2]string{"haproxy, guide", "hactl"}
	for i := range proxies {
		if proxies[i], err = startAPIProxy(ctx, o, p, i == 1); err != nil {
			return err
		}
		defer proxies[i].stop()
	}
	fmt.Printf("\n## availability: three real API servers, a new connection each 50 ms (3 s timeout), 3 clients with a request each 100 ms on a kept HTTP/2 connection (2 s timeout)\n\n")
	fmt.Printf("| fault | balancer | new: failed | p50 | p99 | max | kept: failed a client | longest gap of a client |\n|---|---|---|---|---|---|---|---|\n")
	for _, f := range p.faults() {
		if len(o.faults) > 0 && !slices.Contains(o.faults, f.name) {
			continue
		}
		var results [2]observed
		fctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for i := range proxies {
			wg.Go(func() { results[i] = watch(fctx, p, proxies[i].addr) })
		}
		wait(ctx, 2*time.Second)
		err := f.run(ctx, proxies[1])
		cancel()
		wg.Wait()
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		for i, r := range results {
			fmt.Printf("| %s | %s | %s |\n", f.name, names[i], r)
		}
		if err := f.heal(ctx); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		wait(ctx, 25*time.Second) // HAProxy's rise 2 at 10 s
	}
	if o.verbose {
		fmt.Printf("\n%s\n", proxies[1].out.String())
	}
	return nil
}

func startAPIProxy(ctx context.Context, o options, p *plane, ours bool) (*proxy, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	px := &proxy{addr: fmt.Sprintf("127.0.0.1:%d", port)}
	if ours {
		args := []string{"lb", "run", "--root", filepath.Join(o.dir, "avail"), "--listen", px.addr, "--ca-file", filepath.Join(p.dir, "ca.crt"), "--drain-timeout", "1m"}
		for _, a := range p.addrs {
			args = append(args, "--backend", a)
		}
		px.proc, err = start(ctx, o.hactl, args...)
	} else {
		var servers strings.Builder
		for i, a := range p.addrs {
			fmt.Fprintf(&servers, " server s%d %s\n", i, a)
		}
		file := filepath.Join(o.dir, "guide.cfg")
		if err := os.WriteFile(file, fmt.Appendf(nil, guide, px.addr, servers.String()), 0o644); err != nil {
			return nil, err
		}
		px.proc, err = start(ctx, "haproxy", "-db", "-q", "-f", file)
	}
	if err != nil {
		return nil, err
	}
	return px, waitOpen(ctx, px.addr)
}

// fault is something that happens while clients watch.
type fault struct {
	name string
	run  func(ctx context.Context, ours *proxy) error
	heal func(ctx context.Context) error
}

func (p *plane) faults() []fault {
	signal := func(i int, s syscall.Signal) error { return p.apis[i].cmd.Process.Signal(s) }
	again := func(ctx context.Context, i int) error {
		_ = p.apis[i].cmd.Wait()
		if err := p.startAPI(ctx, i); err != nil {
			return err
		}
		return p.waitReady(ctx, i)
	}
	none := func(context.Context) error { return nil }
	return []fault{
		{"nothing", func(ctx context.Context, _ *proxy) error { wait(ctx, 5*time.Second); return nil }, none},
		{"SIGKILL one", func(ctx context.Context, _ *proxy) error {
			err := signal(0, syscall.SIGKILL)
			wait(ctx, 10*time.Second)
			return err
		}, func(ctx context.Context) error { return again(ctx, 0) }},
		{"SIGSTOP one for 30 s", func(ctx context.Context, _ *proxy) error {
			err := signal(1, syscall.SIGSTOP)
			wait(ctx, 30*time.Second)
			return err
		}, func(context.Context) error { return signal(1, syscall.SIGCONT) }},
		{"rolling restart", func(ctx context.Context, _ *proxy) error {
			for i := range p.apis {
				if err := signal(i, syscall.SIGTERM); err != nil {
					return err
				}
				if err := again(ctx, i); err != nil {
					return err
				}
				wait(ctx, 3*time.Second)
			}
			return nil
		}, none},
		{"upgrade of the balancer (SIGUSR2; ours only)", func(ctx context.Context, ours *proxy) error {
			err := ours.cmd.Process.Signal(syscall.SIGUSR2)
			wait(ctx, 10*time.Second)
			return err
		}, none},
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// observed is what the clients of one balancer saw.
type observed struct {
	total, failed int
	took          []time.Duration
	kept          []int // failed requests by client
	keptTotal     int
	gap           time.Duration // longest time between two successes of a kept client
	firstError    string
}

func (o observed) String() string {
	slices.Sort(o.took)
	at := func(q float64) time.Duration {
		if len(o.took) == 0 {
			return 0
		}
		return o.took[int(q*float64(len(o.took)-1))].Round(time.Millisecond)
	}
	s := fmt.Sprintf("%d of %d | %v | %v | %v | %v of %d in all | %v", o.failed, o.total, at(.5), at(.99), at(1), o.kept, o.keptTotal, o.gap.Round(10*time.Millisecond))
	if o.firstError != "" {
		s += " (" + strings.ReplaceAll(o.firstError, "|", "/") + ")"
	}
	return s
}

// watch runs clients until ctx ends.
func watch(ctx context.Context, p *plane, addr string) (o observed) {
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			wg.Go(func() {
				tr := &http.Transport{TLSClientConfig: p.tls(), DisableKeepAlives: true}
				start := time.Now()
				err := get(&http.Client{Transport: tr, Timeout: 3 * time.Second}, addr)
				mu.Lock()
				defer mu.Unlock()
				o.total++
				o.took = append(o.took, time.Since(start))
				if err != nil {
					o.failed++
					if o.firstError == "" {
						o.firstError = err.Error()
					}
				}
			})
		}
	})
	o.kept = make([]int, 3)
	for i := range o.kept {
		wg.Go(func() {
			tr := &http.Transport{TLSClientConfig: p.tls(), ForceAttemptHTTP2: true, MaxConnsPerHost: 1}
			defer tr.CloseIdleConnections()
			c := &http.Client{Transport: tr, Timeout: 2 * time.Second}
			last := time.Now()
			for ctx.Err() == nil {
				err := get(c, addr)
				mu.Lock()
				o.keptTotal++
				if err != nil {
					o.kept[i]++
				} else {
					o.gap = max(o.gap, time.Since(last))
					last = time.Now()
				}
				mu.Unlock()
				wait(ctx, 100*time.Millisecond)
			}
			mu.Lock()
			defer mu.Unlock()
			o.gap = max(o.gap, time.Since(last))
		})
	}
	wg.Wait()
	return o
}

func get(c *http.Client, addr string) error {
	resp, err := c.Get("https://" + addr + "/version")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", resp.Status)
	}
	return nil
}
