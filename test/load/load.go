// Package load sends requests on a fixed schedule and records every one, so that
// a stall shows up as what users would have felt: the time of a request counts
// from when it was due, not from when the client got round to it.
package load

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Config is one stream of requests.
type Config struct {
	Name string // in reports: "read new", "write kept"
	TLS  *tls.Config
	// Request makes the i-th request.
	Request func(ctx context.Context, i int) (*http.Request, error)
	Every   time.Duration // between two requests; default 50ms
	Timeout time.Duration // of one request; default 30s
	// KeepConnections sends all requests over kept connections; otherwise each
	// opens its own, as a new client would.
	KeepConnections bool
	// RetryAfter repeats a request that was answered 429 or 5xx with the header
	// Retry-After once that time has passed, as client-go does, up to ten times.
	RetryAfter bool
	// Good says whether a status code is a success; default 2xx.
	Good func(code int) bool
}

// Result is one request.
type Result struct {
	Stream string
	Due    time.Time // when it should have been sent
	Start  time.Time // when it was sent
	End    time.Time
	Code   int
	Err    error // nil when it succeeded
	Asked  int   // how often the server asked to try again later, and was obeyed
	// Connected is when the connection that carried it was opened; zero when there
	// was none.
	Connected time.Time
}

// Run sends until ctx ends and returns every request, in the order they were
// due. Requests under way when ctx ends are waited for.
func Run(ctx context.Context, cfg Config) []Result {
	if cfg.Every <= 0 {
		cfg.Every = 50 * time.Millisecond
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Good == nil {
		cfg.Good = func(code int) bool { return code >= 200 && code < 300 }
	}
	transport := &http.Transport{
		DialContext:       dial,
		TLSClientConfig:   cfg.TLS.Clone(),
		DisableKeepAlives: !cfg.KeepConnections,
		ForceAttemptHTTP2: cfg.KeepConnections,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}

	var (
		mu  sync.Mutex
		all []Result
		wg  sync.WaitGroup
	)
	tick := time.NewTicker(cfg.Every)
	defer tick.Stop()
	due := time.Now()
	for i := 0; ; i++ {
		thisDue := due
		wg.Go(func() {
			r := one(context.WithoutCancel(ctx), client, cfg, i, thisDue)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, r)
		})
		select {
		case <-ctx.Done():
			wg.Wait()
			slices.SortFunc(all, func(a, b Result) int { return a.Due.Compare(b.Due) })
			return all
		case <-tick.C:
			due = due.Add(cfg.Every)
		}
	}
}

func one(ctx context.Context, client *http.Client, cfg Config, i int, due time.Time) Result {
	r := Result{Stream: cfg.Name, Due: due, Start: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	var used atomic.Pointer[openedConn]
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		conn := info.Conn
		if t, ok := conn.(*tls.Conn); ok {
			conn = t.NetConn()
		}
		if c, ok := conn.(*openedConn); ok {
			used.Store(c)
		}
	}})
	for {
		var after time.Duration
		r.Code, after, r.Err = send(ctx, client, cfg, i)
		if !cfg.RetryAfter || after < 0 || r.Asked == mostRetries || !pause(ctx, after) {
			break
		}
		r.Asked++
	}
	r.End = time.Now()
	if c := used.Load(); c != nil {
		r.Connected = c.at
	}
	return r
}

// openedConn knows when it was opened.
type openedConn struct {
	net.Conn
	at time.Time
}

func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &openedConn{Conn: c, at: time.Now()}, nil
}

// mostRetries is client-go's.
const mostRetries = 10

// pause reports whether ctx lasts that long.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// send sends a request; after is when the server wants it again, negative if it
// does not say.
func send(ctx context.Context, client *http.Client, cfg Config, i int) (code int, after time.Duration, err error) {
	req, err := cfg.Request(ctx, i)
	if err != nil {
		return 0, -1, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, -1, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return resp.StatusCode, -1, fmt.Errorf("read the answer: %w", err)
	}
	if !cfg.Good(resp.StatusCode) {
		return resp.StatusCode, retryAfter(resp), fmt.Errorf("HTTP %d: %.200s", resp.StatusCode, body)
	}
	return resp.StatusCode, -1, nil
}

// retryAfter reads the header as client-go does: of 429 and 5xx, in seconds.
func retryAfter(resp *http.Response) time.Duration {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode/100 != 5 {
		return -1
	}
	n, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || n < 0 {
		return -1
	}
	return time.Duration(n) * time.Second
}

// Failed returns the results that failed.
func Failed(all []Result) []Result {
	var out []Result
	for _, r := range all {
		if r.Err != nil {
			out = append(out, r)
		}
	}
	return out
}

// Gap is the longest time between two neighbouring successes that begins
// between from and to: what a client saw of a fault.
func Gap(all []Result, from, to time.Time) time.Duration {
	var longest time.Duration
	last := from
	ends := make([]time.Time, 0, len(all))
	for _, r := range all {
		if r.Err == nil && r.End.After(from) {
			ends = append(ends, r.End)
		}
	}
	slices.SortFunc(ends, time.Time.Compare)
	for _, e := range ends {
		if last.After(to) {
			break
		}
		longest = max(longest, e.Sub(last))
		last = e
	}
	return longest
}
