package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lb/pool"
)

// tlsServer is httptest's, whose certificate is for example.com.
func tlsServer(t *testing.T, h http.HandlerFunc) (*httptest.Server, func() *x509.CertPool) {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s, func() *x509.CertPool { return roots }
}

func ask(t *testing.T, c Check, closeCheck func()) Result {
	t.Helper()
	return askFor(t, 20*time.Second, c, closeCheck)
}

func askFor(t *testing.T, d time.Duration, c Check, closeCheck func()) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if closeCheck != nil {
		defer closeCheck()
	}
	return c(ctx, true)
}

func TestHTTPS(t *testing.T) {
	ok := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" || r.Method != http.MethodGet {
			w.WriteHeader(http.StatusNotFound)
		}
	}
	red := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, "[+]ping ok\n[-]etcd failed: reason withheld\n[-]shutdown failed\n")
	}
	other := x509.NewCertPool()
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		change  func(*HTTPSConfig)
		answer  pool.Answer
		why     string
	}{
		"ready":      {ok, nil, pool.OK, "says 200"},
		"red":        {red, nil, pool.Red, "says 500: etcd, shutdown"},
		"other path": {ok, func(c *HTTPSConfig) { c.Path = "/healthz" }, pool.Red, "says 404"},
		"hangs":      {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, nil, pool.Silent, "no answer in time"},
		"busy": {func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/readyz" {
				<-r.Context().Done()
			}
		}, nil, pool.Red, "lives, but"},
		"wrong name":  {ok, func(c *HTTPSConfig) { c.Name = "kubernetes" }, pool.Red, "certificate"},
		"wrong CA":    {ok, func(c *HTTPSConfig) { c.Roots = func() *x509.CertPool { return other } }, pool.Red, "certificate"},
		"redirects":   {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) }, nil, pool.Red, "says 302"},
		"panics":      {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil, pool.Gone, ""},
		"long answer": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) }, nil, pool.OK, "says 200"},
	} {
		t.Run(name, func(t *testing.T) {
			s, roots := tlsServer(t, tc.handler)
			cfg := HTTPSConfig{Network: "tcp", Address: s.Listener.Addr().String(), Name: "example.com", Roots: roots}
			if tc.change != nil {
				tc.change(&cfg)
			}
			check, end := HTTPS(cfg)
			patience := 20 * time.Second // of those that answer; a busy machine is slow
			switch name {
			case "hangs":
				patience = 300 * time.Millisecond
			case "busy": // answered when almost all of it is over
				patience = 3 * time.Second
			}
			r := askFor(t, patience, check, end)
			if r.Answer != tc.answer || !strings.Contains(r.Why, tc.why) {
				t.Errorf("got %v %q, want %v %q", r.Answer, r.Why, tc.answer, tc.why)
			}
			s.CloseClientConnections()
		})
	}
}

func TestChecksOfDeadAddresses(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if r := ask(t, TCP("tcp", addr), nil); r.Answer != pool.OK {
		t.Errorf("open port: %+v", r)
	}
	_ = ln.Close()
	roots := func() *x509.CertPool { return x509.NewCertPool() }
	https, end := HTTPS(HTTPSConfig{Network: "tcp", Address: addr, Roots: roots})
	for name, c := range map[string]Check{"tcp": TCP("tcp", addr), "https": https, "unix": TCP("unix", filepath.Join(t.TempDir(), "none"))} {
		if r := ask(t, c, nil); r.Answer != pool.Gone {
			t.Errorf("%s: %+v", name, r)
		}
	}
	end()
	if r := ask(t, None(), nil); r.Answer != pool.OK {
		t.Errorf("none: %+v", r)
	}
}

// A server that does not speak TLS, and one that accepts and says nothing.
func TestNotTLSAndMute(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	roots := func() *x509.CertPool { return x509.NewCertPool() }
	for addr, want := range map[string]pool.Answer{plain.Listener.Addr().String(): pool.Red, mute.Addr().String(): pool.Silent} {
		check, end := HTTPS(HTTPSConfig{Network: "tcp", Address: addr, Roots: roots})
		patience := 20 * time.Second
		if want == pool.Silent {
			patience = 300 * time.Millisecond
		}
		if r := askFor(t, patience, check, end); r.Answer != want {
			t.Errorf("got %+v, want %v", r, want)
		}
	}
}

func TestFailure(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want pool.Answer
	}{
		{syscall.ECONNREFUSED, pool.Gone},
		{syscall.ECONNRESET, pool.Gone},
		{io.EOF, pool.Gone},
		{syscall.EHOSTUNREACH, pool.Silent},
		{syscall.ENETUNREACH, pool.Silent},
		{syscall.ETIMEDOUT, pool.Silent},
		{context.DeadlineExceeded, pool.Silent},
		{tls.AlertError(40), pool.Red},
		{&untrustedError{errors.New("expired")}, pool.Red},
	} {
		if got := failure(&net.OpError{Op: "dial", Err: tc.err}); got.Answer != tc.want {
			t.Errorf("%v: %v, want %v", tc.err, got.Answer, tc.want)
		}
	}
}

func TestKeptConnectionIsUsedAgain(t *testing.T) {
	opened := make(chan struct{}, 10)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			opened <- struct{}{}
		}
	}
	s.StartTLS()
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	check, end := HTTPS(HTTPSConfig{Network: "tcp", Address: s.Listener.Addr().String(), Path: "/", Name: "example.com", Roots: func() *x509.CertPool { return roots }})
	defer end()
	for i, fresh := range []bool{false, false, false, true, false} {
		if r := check(t.Context(), fresh); r.Answer != pool.OK {
			t.Fatalf("probe %d: %+v", i, r)
		}
	}
	if n := len(opened); n != 3 {
		t.Errorf("%d connections for five probes, one of them fresh; want 3", n)
	}
}
