//go:build faults

package lb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hactl/hactl/test/load"
)

const (
	newEvery   = 50 * time.Millisecond
	newTimeout = 3 * time.Second
	askEvery   = 100 * time.Millisecond
	askTimeout = 2 * time.Second
)

// target is what clients ask, through a balancer.
type target struct {
	tls  *tls.Config
	path string
}

func (p *plane) target() target { return target{p.tls(), "/version"} }

func (tg target) url(addr string) string { return "https://" + addr + tg.path }

// newConnections asks over a new connection each time, as load.Run does, until
// ctx ends.
func (tg target) newConnections(ctx context.Context, addr string, every, timeout time.Duration) []load.Result {
	return load.Run(ctx, load.Config{
		Name: "new", TLS: tg.tls, Every: every, Timeout: timeout, RetryAfter: true,
		Request: func(ctx context.Context, _ int) (*http.Request, error) {
			return http.NewRequestWithContext(ctx, http.MethodGet, tg.url(addr), nil)
		},
	})
}

// keptStream sends over one HTTP/2 connection, whether earlier requests were
// answered or not. It obeys Retry-After as client-go does: a busy API server that
// shuts down answers so between closing its listener and telling its clients to go.
func keptStream(tg target, addr string, every, timeout time.Duration) load.Config {
	return load.Config{
		Name: "kept", TLS: tg.tls, Every: every, Timeout: timeout, KeepConnections: true, RetryAfter: true,
		Request: func(ctx context.Context, _ int) (*http.Request, error) {
			return http.NewRequestWithContext(ctx, http.MethodGet, tg.url(addr), nil)
		},
	}
}

// kept is what a client with one kept HTTP/2 connection saw, that asks again only
// when it has been answered.
type kept struct {
	results []load.Result
	dials   atomic.Int64
}

// ask sends a request each `every` until ctx ends.
func (k *kept) ask(ctx context.Context, tg target, addr string, every, timeout time.Duration) {
	var d net.Dialer
	tr := &http.Transport{
		TLSClientConfig: tg.tls.Clone(), ForceAttemptHTTP2: true, MaxConnsPerHost: 1,
		DialContext: func(ctx context.Context, network, a string) (net.Conn, error) {
			k.dials.Add(1)
			return d.DialContext(ctx, network, a)
		},
	}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: timeout}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for ctx.Err() == nil {
		r := load.Result{Stream: "kept", Start: time.Now()}
		r.Due = r.Start
		r.Code, r.Err = get(c, tg.url(addr))
		r.End = time.Now()
		k.results = append(k.results, r)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// gap is the longest time without an answer.
func (k *kept) gap() (longest time.Duration) {
	if len(k.results) == 0 {
		return 0
	}
	last := k.results[0].Start
	for _, r := range k.results {
		longest = max(longest, r.End.Sub(last)) // also while it still fails
		if r.Err == nil {
			last = r.End
		}
	}
	return longest
}

func get(c *http.Client, url string) (int, error) {
	resp, err := c.Get(url)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return resp.StatusCode, err
	}
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, errors.New(resp.Status)
	}
	return resp.StatusCode, nil
}

// observed is what the clients of one balancer saw of a fault.
type observed struct {
	fresh   []load.Result
	hasty   [3]*kept // give a request up after askTimeout
	patient [3]*kept // wait as long as it takes
}

// crowd is how clients behave.
type crowd struct {
	every   time.Duration // between two new connections
	timeout time.Duration // of a new connection's request
	haste   time.Duration // when half of the kept ones give a request up
}

// watch runs clients of the balancer at addr until ctx ends, on new connections and
// on kept ones.
func watch(ctx context.Context, tg target, addr string, c crowd) *observed {
	o := &observed{}
	var wg sync.WaitGroup
	wg.Go(func() { o.fresh = tg.newConnections(ctx, addr, c.every, c.timeout) })
	for i := range o.hasty {
		o.hasty[i], o.patient[i] = &kept{}, &kept{}
		wg.Go(func() { o.hasty[i].ask(ctx, tg, addr, askEvery, c.haste) })
		wg.Go(func() { o.patient[i].ask(ctx, tg, addr, askEvery, 2*time.Minute) })
	}
	wg.Wait()
	return o
}

// newFailed is how many new connections failed.
func (o *observed) newFailed() int { return len(load.Failed(o.fresh)) }

// keptFailed are the requests that each kept client lost.
func (o *observed) keptFailed() (n []int) {
	for _, k := range slices.Concat(o.hasty[:], o.patient[:]) {
		n = append(n, len(load.Failed(k.results)))
	}
	return n
}

// dials is how often the kept clients had to connect.
func (o *observed) dials() (n []int64) {
	for _, k := range slices.Concat(o.hasty[:], o.patient[:]) {
		n = append(n, k.dials.Load())
	}
	return n
}

func (o *observed) String() string {
	var longest, gap time.Duration
	all := 0
	for _, k := range slices.Concat(o.hasty[:], o.patient[:]) {
		all += len(k.results)
	}
	for _, k := range o.hasty {
		gap = max(gap, k.gap())
	}
	for _, k := range o.patient {
		for _, r := range k.results {
			longest = max(longest, r.End.Sub(r.Start))
		}
	}
	s := fmt.Sprintf("new: %d of %d failed, p50 %v p99 %v max %v; kept: failed %v of %d in all, longest gap %v, longest wait of a patient one %v",
		o.newFailed(), len(o.fresh), quantile(o.fresh, .5), quantile(o.fresh, .99), quantile(o.fresh, 1),
		o.keptFailed(), all, gap.Round(10*time.Millisecond), longest.Round(10*time.Millisecond))
	return s + firstErrors(o)
}

func firstErrors(o *observed) string {
	var b strings.Builder
	if f := load.Failed(o.fresh); len(f) > 0 {
		fmt.Fprintf(&b, "; first new: %v", f[0].Err)
	}
	for _, k := range slices.Concat(o.hasty[:], o.patient[:]) {
		if f := load.Failed(k.results); len(f) > 0 {
			fmt.Fprintf(&b, "; first kept: %v", f[0].Err)
			break
		}
	}
	return b.String()
}

// quantile is the time that the q-th part of the answered requests took, counted
// from when they were due.
func quantile(all []load.Result, q float64) time.Duration {
	var took []time.Duration
	for _, r := range all {
		if r.Err == nil {
			took = append(took, r.End.Sub(r.Due))
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[int(q*float64(len(took)-1))].Round(time.Millisecond)
}

// mustSee fails the test if a stream was hardly one, so that no count of failures
// is 0 for want of requests.
func (o *observed) mustSee(t *testing.T, least int) {
	t.Helper()
	if len(o.fresh) < least {
		t.Errorf("only %d new connections were made", len(o.fresh))
	}
	for i, k := range slices.Concat(o.hasty[:], o.patient[:]) {
		if len(k.results) < least/4 {
			t.Errorf("kept client %d asked only %d times", i, len(k.results))
		}
	}
}
