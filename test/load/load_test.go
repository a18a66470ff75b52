package load

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

func TestEveryRequestIsCountedAndNewMeansNew(t *testing.T) {
	for _, keep := range []bool{false, true} {
		var mu sync.Mutex
		remotes := map[string]int{}
		srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			remotes[r.RemoteAddr]++
			if r.URL.Path == "/bad" {
				http.Error(w, "no", http.StatusInternalServerError)
			}
		}))
		ctx, cancel := context.WithCancel(t.Context())
		got := Run(ctx, Config{
			TLS: srv.Client().Transport.(*http.Transport).TLSClientConfig, Every: time.Millisecond, KeepConnections: keep,
			Request: func(ctx context.Context, i int) (*http.Request, error) {
				path := "/good"
				if i == 3 {
					path = "/bad"
				}
				if i == 20 {
					cancel()
				}
				return http.NewRequestWithContext(ctx, "GET", srv.URL+path, nil)
			},
		})
		srv.Close()
		if len(got) < 21 {
			t.Fatalf("%d results, want at least 21", len(got))
		}
		opened := map[time.Time]int{}
		for _, r := range got {
			opened[r.Connected]++
		}
		if len(opened) != len(remotes) || opened[time.Time{}] > 0 {
			t.Errorf("keep %v: results tell of %d connections, the server of %d", keep, len(opened), len(remotes))
		}
		failed := Failed(got)
		if len(failed) != 1 || failed[0].Code != 500 {
			t.Errorf("failed: %+v, want the one 500", failed)
		}
		if !keep && len(remotes) != len(got) {
			t.Errorf("%d connections for %d requests, want one each", len(remotes), len(got))
		}
		if keep && len(remotes) >= len(got) {
			t.Errorf("%d connections for %d requests, want fewer", len(remotes), len(got))
		}
	}
}

func TestRetryAfterIsObeyed(t *testing.T) {
	for _, obey := range []bool{false, true} {
		var mu sync.Mutex
		seen := 0
		srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			seen++
			switch r.URL.Path {
			case "/later":
				if seen < 3 {
					w.Header().Set("Retry-After", "0")
					http.Error(w, "later", http.StatusServiceUnavailable)
				}
			case "/never": // without the header
				http.Error(w, "no", http.StatusServiceUnavailable)
			}
		}))
		for path, want := range map[string]Result{"/later": {Code: 200, Asked: 2}, "/never": {Code: 503}} {
			seen = 0
			ctx, cancel := context.WithCancel(t.Context())
			got := Run(ctx, Config{
				TLS: srv.Client().Transport.(*http.Transport).TLSClientConfig, RetryAfter: obey, Every: time.Hour,
				Request: func(ctx context.Context, _ int) (*http.Request, error) {
					cancel()
					return http.NewRequestWithContext(ctx, "GET", srv.URL+path, nil)
				},
			})
			if !obey {
				want = Result{Code: 503}
			}
			if len(got) != 1 || got[0].Code != want.Code || got[0].Asked != want.Asked || (got[0].Err == nil) != (want.Code == 200) {
				t.Errorf("obey %v, %s: %+v", obey, path, got)
			}
		}
		srv.Close()
	}
}

func TestARefusedConnectIsAFailure(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got := Run(ctx, Config{TLS: &tls.Config{MinVersion: tls.VersionTLS12}, Request: func(ctx context.Context, _ int) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, "GET", "https://"+ln.Addr().String(), nil)
	}})
	if len(Failed(got)) != len(got) {
		t.Errorf("results: %+v", got)
	}
}

func TestGap(t *testing.T) {
	t0 := time.Unix(1000, 0)
	at := func(ms int, err error) Result {
		return Result{End: t0.Add(time.Duration(ms) * time.Millisecond), Err: err}
	}
	all := []Result{at(0, nil), at(10, nil), at(20, errors.New("x")), at(500, nil), at(510, nil), at(2000, nil)}
	if g := Gap(all, t0, t0.Add(100*time.Millisecond)); g != 490*time.Millisecond {
		t.Errorf("gap %v, want 490ms: the later, longer one begins after the fault's end", g)
	}
}
