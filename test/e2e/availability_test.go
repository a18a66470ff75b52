//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/test/load"
)

// fault is something done to the cluster on purpose.
type fault struct {
	what     string
	at, by   time.Time // the command was sent and had returned between these two
	graceful bool
}

// TestNobodyNotices kills each process of each master in turn, then stops and
// starts each master, while clients read and write through the front door.
// No request whose connection was opened after a fault may fail, and no request
// at all may fail unless it was under way at the moment of one; never are there
// two processes of a singleton; no acknowledged write is lost.
func TestNobodyNotices(t *testing.T) {
	c := newCluster(t, "127.0.21.0")
	c.up(t)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	watch := &singletonWatch{}
	wg.Go(func() { watch.run(ctx, c.dir) })
	streams := c.startLoad(t, ctx, &wg)

	var faults []fault
	do := func(what string, args ...string) {
		t.Helper()
		f := fault{what: what, at: time.Now(), graceful: args[1] != "kill"}
		r := c.must(t, args...)
		f.by = time.Now()
		faults = append(faults, f)
		t.Logf("%s %s: %s", f.at.Format("15:04:05.000"), what, strings.TrimSpace(r.stderr))
	}
	for _, m := range c.masters(t) {
		for _, proc := range []string{
			"hactl-etcd", "kube-apiserver", "hactl-lb", "hactl-agent",
			"podmaster@kube-scheduler", "podmaster@kube-controller-manager",
		} {
			do("kill "+m+" "+proc, "dev", "kill", m, proc)
			c.waitHealthy(t)
		}
	}
	for _, name := range singletons {
		m := c.holder(t, name)
		do("kill "+m+" "+name, "dev", "kill", m, name)
		c.waitHealthy(t)
	}
	for _, m := range c.masters(t) {
		do("stop "+m, "dev", "stop", m)
		c.waitServedWithout(t, m)
		do("start "+m, "dev", "start", m)
		c.waitHealthy(t)
	}
	stop()
	wg.Wait()

	judge(t, streams, faults)
	for _, f := range watch.faults {
		t.Error(f)
	}
	if watch.samples < 100 {
		t.Errorf("the singletons were only sampled %d times", watch.samples)
	}
	for _, s := range streams {
		s.checkWrites(t)
	}
}

// stream is one load and what came of it.
type stream struct {
	cfg     load.Config
	results []load.Result
	// Of a stream that writes: the object that the i-th request makes, and those
	// that there are now.
	name func(i int) string
	list func() (map[string]bool, error)
}

// startLoad starts readers and writers, each on new and on kept connections.
func (c *cluster) startLoad(t *testing.T, ctx context.Context, wg *sync.WaitGroup) []*stream {
	t.Helper()
	server, tlsConfig := c.client(t)
	send := func(ctx context.Context, method, path, contentType, body string) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, method, server+path, strings.NewReader(body))
		if err == nil && contentType != "" {
			req.Header.Set("Content-Type", contentType)
		}
		return req, err
	}
	httpClient := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig}, Timeout: 30 * time.Second}
	var streams []*stream
	for _, kept := range []bool{false, true} {
		kind := map[bool]string{false: "new", true: "kept"}[kept]
		const path = "/api/v1/namespaces/default"
		name := func(i int) string { return fmt.Sprintf("load-%s-%d", kind, i) }
		streams = append(streams, &stream{cfg: load.Config{
			Name: "read " + kind, TLS: tlsConfig, KeepConnections: kept, Every: 100 * time.Millisecond,
			Request: func(ctx context.Context, _ int) (*http.Request, error) { return send(ctx, "GET", path, "", "") },
		}}, &stream{
			cfg: load.Config{
				Name: "write " + kind, TLS: tlsConfig, KeepConnections: kept, Every: 200 * time.Millisecond,
				// Each write makes an object of its own: a lost one shows whatever the
				// order they arrive in, and writes that wait do not conflict.
				Request: func(ctx context.Context, i int) (*http.Request, error) {
					return send(ctx, "POST", path+"/configmaps", "application/json", fmt.Sprintf(`{"metadata":{"name":%q}}`, name(i)))
				},
			},
			name: name,
			list: func() (map[string]bool, error) { return objectNames(httpClient, server+path+"/configmaps") },
		})
	}
	for _, s := range streams {
		wg.Go(func() { s.results = load.Run(ctx, s.cfg) })
	}
	return streams
}

// judge fails the test for every request that failed without having been under
// way when a fault struck.
func judge(t *testing.T, streams []*stream, faults []fault) {
	t.Helper()
	for _, s := range streams {
		inFlight := 0
		for _, r := range load.Failed(s.results) {
			if f := struckBy(r, faults); f != nil {
				inFlight++
				t.Logf("%s: under way at %q: %v", r.Stream, f.what, r.Err)
				continue
			}
			t.Errorf("%s: sent %s, failed after %v: %v (%s)", r.Stream, r.Start.Format("15:04:05.000"),
				r.End.Sub(r.Start).Round(time.Millisecond), r.Err, nearest(r.Start, faults))
		}
		if len(s.results) < 100 {
			t.Errorf("%s: only %d requests were sent", s.cfg.Name, len(s.results))
		}
		t.Logf("%s: %d requests, %d failed under way at a fault", s.cfg.Name, len(s.results), inFlight)
	}
}

// noticed is how long after a fault a client may still send on a connection that
// the fault has broken, before it is told.
const noticed = 5 * time.Second

// struckBy returns the fault that r was struck by. Only a connection that is
// older than the fault may break. A whole master that is stopped drains first, so
// there the connection must be older than the stop's begin.
func struckBy(r load.Result, faults []fault) *fault {
	for i, f := range faults {
		since := f.by
		if f.graceful {
			since = f.at
		}
		old := !r.Connected.IsZero() && r.Connected.Before(since)
		near := !r.End.Before(f.at) && r.Start.Before(f.by.Add(noticed))
		if old && near {
			return &faults[i]
		}
	}
	return nil
}

func nearest(at time.Time, faults []fault) string {
	last := "before any fault"
	for _, f := range faults {
		if f.at.Before(at) {
			last = fmt.Sprintf("%v after %q", at.Sub(f.at).Round(time.Millisecond), f.what)
		}
	}
	return last
}

// objectNames lists the objects at a URL of the API.
func objectNames(client *http.Client, url string) (map[string]bool, error) {
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("list %s: HTTP %d", url, resp.StatusCode)
	}
	var list struct {
		Items []struct{ Metadata struct{ Name string } }
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("list %s: %w", url, err)
	}
	names := map[string]bool{}
	for _, i := range list.Items {
		names[i.Metadata.Name] = true
	}
	return names, nil
}

// checkWrites makes sure that every acknowledged write is there.
func (s *stream) checkWrites(t *testing.T) {
	t.Helper()
	if s.list == nil {
		return
	}
	there, err := s.list()
	if err != nil {
		t.Fatal(err)
	}
	acked := 0
	for i, r := range s.results {
		if r.Err != nil {
			continue
		}
		acked++
		if !there[s.name(i)] {
			t.Errorf("%s: acknowledged write %d is lost", s.cfg.Name, i)
		}
	}
	t.Logf("%s: looked for %d acknowledged writes", s.cfg.Name, acked)
}

// waitServedWithout waits until status names the master as lost and the others
// run each singleton, and then through three more seconds of load.
func (c *cluster) waitServedWithout(t *testing.T, m string) {
	t.Helper()
	testwait.For(t, "status to miss "+m+" and the others to run the singletons", 2*time.Minute, func() error {
		rep, r := c.status(t)
		lost := slices.ContainsFunc(rep.Reasons, func(r reason) bool { return r.Code == "master-unreachable" && r.Object == m })
		if rep.Verdict != "degraded" || !lost {
			return fmt.Errorf("%v", r)
		}
		for _, name := range singletons {
			if n := len(processes(c.dir, name)); n != 1 {
				return fmt.Errorf("%d processes of %s, want 1", n, name)
			}
		}
		return nil
	})
	<-time.After(3 * time.Second)
}

// waitHealthy waits until `dev status` says so, with all singletons held.
func (c *cluster) waitHealthy(t testing.TB) {
	t.Helper()
	testwait.For(t, "a healthy cluster", 3*time.Minute, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		if r := c.run(ctx, "dev", "status"); r.code != 0 {
			return fmt.Errorf("%v", r)
		}
		for _, name := range singletons {
			if n := len(processes(c.dir, name)); n != 1 {
				return fmt.Errorf("%d processes of %s, want 1", n, name)
			}
		}
		return nil
	})
}
