package collect

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/status"
)

func TestProbe(t *testing.T) {
	l, other := root(t), root(t)
	ca := filepath.Join(l.PKI(), "ca.crt")
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, and never speaks
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	plain := &http.Server{Handler: http.HandlerFunc(ready)}
	plainLn, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- plain.Serve(plainLn) }()
	t.Cleanup(func() { _ = plain.Close(); <-done })

	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })

	at := func(h http.HandlerFunc) string { return fmt.Sprintf("127.0.0.1:%d", serve(t, l, "127.0.0.1", h)) }
	cases := map[string]struct {
		address string
		ok      status.Answer
		why     string
		heard   bool // there was an HTTP answer
	}{
		"ready": {at(ready), status.Yes, "", true},
		"not ready": {at(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			_, _ = fmt.Fprint(w, "[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/rbac failed: not finished\nreadyz check failed\n")
		}), status.No, "HTTP 500: etcd, poststarthook/rbac failed", true},
		"forbidden":        {at(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }), status.No, "HTTP 403", true},
		"redirects":        {at(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) }), status.No, "redirects nobody", false},
		"hangs":            {at(func(http.ResponseWriter, *http.Request) { <-hang }), status.No, "no answer in time", false},
		"cuts":             {at(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), status.No, "connection cut", false},
		"another cluster":  {fmt.Sprintf("127.0.0.1:%d", serve(t, other, "127.0.0.1", ready)), status.No, "unknown authority", false},
		"plain HTTP":       {plainLn.Addr().String(), status.No, "HTTP response to HTTPS client", false},
		"accepts silently": {silent.Addr().String(), status.No, "no answer in time", false},
		"nobody there":     {"127.0.0.1:1", status.No, "connection refused", false},
		"no address":       {"not an address", status.Unclear, "", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timeout := patience
			if c.why == "no answer in time" {
				timeout = 100 * time.Millisecond
			}
			got := newProber(ca, timeout).get(t.Context(), c.address, "/readyz")
			if got.ok != c.ok || !strings.Contains(got.why, c.why) || (c.why == "") != (got.why == "") && c.ok != status.Unclear || (got.took > 0) != c.heard {
				t.Errorf("%+v, want %s, %q", got, c.ok, c.why)
			}
		})
	}
}

// A balancer that leads to a sick API server is asked again; one that does not
// answer is not.
func TestThrough(t *testing.T) {
	l := root(t)
	ca := filepath.Join(l.PKI(), "ca.crt")
	for _, c := range []struct {
		sick  int32 // answers of 500 before those of 200
		asked int32
		ok    status.Answer
	}{{0, 1, status.Yes}, {1, 2, status.Yes}, {2, 3, status.Yes}, {9, 3, status.No}} {
		var asked atomic.Int32
		port := serve(t, l, "127.0.0.1", func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) <= c.sick {
				w.WriteHeader(500)
			}
		})
		got := newProber(ca, patience).through(t.Context(), fmt.Sprintf("127.0.0.1:%d", port))
		if got.ok != c.ok || asked.Load() != c.asked || got.took <= 0 {
			t.Errorf("%d sick answers: %+v after %d questions, want %s after %d", c.sick, got, asked.Load(), c.ok, c.asked)
		}
	}
	if got := newProber(ca, patience).through(t.Context(), "127.0.0.1:1"); got.ok != status.No || got.took != 0 {
		t.Errorf("nobody there: %+v", got)
	}
}

func TestProbeWithoutCA(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.crt")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, why := range map[string]string{filepath.Join(dir, "none"): "no such file", empty: "no certificate in"} {
		if got := newProber(file, patience).get(t.Context(), "127.0.0.1:1", "/readyz"); got.ok != status.Unclear || !strings.Contains(got.why, why) {
			t.Errorf("%+v, want unknown because of %q", got, why)
		}
	}
}

// A server that waits for etcd lives, but is not ready.
func TestAPIServer(t *testing.T) {
	l := root(t)
	p := newProber(filepath.Join(l.PKI(), "ca.crt"), patience)
	port := serve(t, l, "127.0.0.1", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.String() == "/livez?exclude=etcd" {
			ready(w, r)
			return
		}
		w.WriteHeader(500)
	})
	a := p.apiServer(t.Context(), "m1", fmt.Sprintf("127.0.0.1:%d", port))
	if a.Master != "m1" || a.Ready != status.No || a.Live != status.Yes || a.Why != "HTTP 500" || a.Latency <= 0 {
		t.Errorf("%+v", a)
	}
}

func TestFailing(t *testing.T) {
	for body, want := range map[string]string{
		"":                            "",
		"ok":                          "",
		"[+]ping ok\n":                "",
		"[-]etcd failed: x\n":         ": etcd failed",
		"[-]":                         "",
		"[-]a\n[-]b b\n":              ": a, b failed",
		strings.Repeat("[-]x y\n", 9): ": x, x, x, x, x failed",
		"[-]\x1b[2J evil\n":           ": \x1b[2J failed", // status makes it printable
	} {
		if got := failing(body); got != want {
			t.Errorf("failing(%q) = %q, want %q", body, got, want)
		}
	}
}

func FuzzFailing(f *testing.F) {
	f.Add("[+]ping ok\n[-]etcd failed: reason withheld\n")
	f.Fuzz(func(t *testing.T, body string) {
		if got := failing(body); strings.Contains(got, "\n") || len([]rune(got)) > 220 {
			t.Errorf("failing(%q) = %q", body, got)
		}
	})
}
