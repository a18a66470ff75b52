package health

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestHungCheckIsAFailedCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		got := Run(t.Context(), map[string]Check{
			"fine": func(context.Context) error { return nil },
			"hung": func(context.Context) error { <-release; return nil }, // ignores its context
		}, time.Second)
		close(release)
		if got["fine"] != nil {
			t.Errorf("fine: %v", got["fine"])
		}
		if !errors.Is(got["hung"], context.DeadlineExceeded) {
			t.Errorf("hung: %v, want deadline exceeded", got["hung"])
		}
	})
}

func TestHandler(t *testing.T) {
	sick := errors.New("etcd: no leader")
	h := Handler(Endpoints{
		Live:     map[string]Check{"loop": func(context.Context) error { return nil }},
		Ready:    map[string]Check{"etcd": func(context.Context) error { return sick }},
		Gatherer: prometheus.NewRegistry(),
	})
	cases := []struct {
		path, body string
		code       int
	}{
		{"/livez", "ok", 200},
		{"/livez?verbose", "[+]loop ok", 200},
		{"/readyz", "[-]etcd: etcd: no leader", 503},
		{"/metrics", "", 200},
		{"/other", "", 404},
	}
	for _, c := range cases {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", c.path, nil))
		if rec.Code != c.code || !strings.Contains(rec.Body.String(), c.body) {
			t.Errorf("%s: %d %q, want %d with %q", c.path, rec.Code, rec.Body.String(), c.code, c.body)
		}
	}
}

func TestServeStopsWithItsContext(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, Endpoints{}) }()
	resp, err := http.Get("http://" + ln.Addr().String() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve = %v, want nil after a clean stop", err)
	}
}
