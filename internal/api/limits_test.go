package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hactl/hactl/internal/status"
)

// A source that hangs is answered for in time.
func TestHungSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := &Server{cfg: Config{Node: func(context.Context) (*status.Node, error) { <-release; return nil, io.EOF }}, mux: http.NewServeMux()}
		s.routes()
		rec := httptest.NewRecorder()
		s.mux.ServeHTTP(rec, httptest.NewRequest("GET", PathNode, nil))
		close(release)
		if rec.Code != http.StatusGatewayTimeout || !strings.Contains(rec.Body.String(), "no answer within 5s") {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
	})
}

// slowly runs a server on pipes in a synctest bubble, sends what was given and
// returns what came back until the server closed the connection.
func slowly(t *testing.T, send string) string {
	ln := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	s, err := New(Config{Local: ln, Node: node})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	mine, theirs := net.Pipe()
	ln.conns <- theirs
	go func() { _, _ = io.WriteString(mine, send) }()
	got, _ := io.ReadAll(mine)
	_ = mine.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
	return string(got)
}

// A client that never finishes its header, or its body, or never asks a second
// time, is let go: no test waits here, the clock is the bubble's.
func TestSlowClients(t *testing.T) {
	for name, c := range map[string]struct{ send, want string }{
		"says nothing":        {"", ""},
		"half a header":       {"GET /v1/node HTTP/1.1\r\nHost:", ""},
		"half a body":         {"GET /v1/node HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx", "200 OK"},
		"idles after asking":  {"GET /v1/node HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK"},
		"a header too big":    {"GET /v1/node HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", "431"},
		"a body too big":      {"GET /v1/node HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", "413"},
		"not HTTP":            {"\x00\x01\x02\r\n\r\n", "400"},
		"an absurd length":    {"GET /v1/node HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "400"},
		"two lengths":         {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"},
		"an unfinished chunk": {"POST /v1/node HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "405"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := slowly(t, c.send)
				line, _, _ := strings.Cut(got, "\r\n")
				if !strings.Contains(line, c.want) || (c.want == "" && got != "") {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		})
	}
}

// FuzzRequest sends anything to the mux: it must answer and not fall over.
func FuzzRequest(f *testing.F) {
	f.Add("GET /v1/node HTTP/1.1\r\nHost: x\r\n\r\n")
	f.Add("GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n")
	f.Add("POST /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
	f.Fuzz(func(t *testing.T, raw string) {
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			return
		}
		met, err := newMetrics(nil)
		if err != nil {
			t.Fatal(err)
		}
		s := &Server{cfg: Config{Node: node}, met: met, mux: http.NewServeMux()}
		s.routes()
		rec := httptest.NewRecorder()
		s.limited(s.mux).ServeHTTP(rec, req)
		if rec.Code == 0 || rec.Code == 500 {
			t.Errorf("%q: %d", raw, rec.Code)
		}
	})
}

// What an agent answers cannot fill the client's memory or mislead it.
func TestBadAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		want string
	}{
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			for range maxAnswer/1024 + 2 {
				if _, err := w.Write(make([]byte, 1024)); err != nil {
					return
				}
			}
		}, "more than"},
		"not JSON": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "read /v1/node"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://evil/", http.StatusFound) }, "redirects nobody"},
		"bare 503": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503); _, _ = io.WriteString(w, "busy") }, "503: busy"},
	} {
		path := filepath.Join(t.TempDir(), "s")
		ln, err := ListenUnix(path)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: c.h}
		done := make(chan error, 1)
		go func() { done <- srv.Serve(ln) }()
		cl, err := NewClient(ClientConfig{Socket: path})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cl.Node(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		cl.Close()
		_ = srv.Close()
		<-done
	}
}

func TestClientGivesUpInTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := ListenUnix(path) // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := NewClient(ClientConfig{Socket: path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Node(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Node = %v", err)
	}
}

func TestListenUnix(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.sock")
	ln, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, want 0600", info.Mode().Perm())
	}
	if _, err := ListenUnix(path); !errors.Is(err, ErrInUse) {
		t.Errorf("a second listener: %v, want ErrInUse", err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: %v, want no socket", err)
	}

	// What a killed process left is replaced.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	ln, err = ListenUnix(path)
	if err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	_ = ln.Close()

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{path, filepath.Join(dir, "none", "s"), filepath.Join(dir, strings.Repeat("x", 120))} {
		if ln, err := ListenUnix(bad); err == nil {
			_ = ln.Close()
			t.Errorf("ListenUnix(%s) is accepted", bad)
		}
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "precious" {
		t.Errorf("the file in the way: %q, %v", data, err)
	}
}

// Run ends, and says so, when a listener dies under it.
func TestRunEndsWithItsListener(t *testing.T) {
	ca := newAuthority(t, "etcd-ca")
	ln := listen(t)
	s, err := New(Config{Listener: ln, TLS: serverConf(t, ca.leaf(t, t.TempDir(), "agent", Organization)), Node: node})
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if err := s.Run(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run = %v, want net.ErrClosed", err)
	}
}

// pipeListener hands out one end of pipes.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }
