//go:build faults

package lb

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// mode is how a fake API server behaves.
type mode int32

const (
	honest      mode = iota
	oneByte          // answers each connection with one byte, and old ones no more
	resetsAll        // ready for probes, resets every client before the first byte
	swallowsAll      // ready for probes, answers no client at all
)

// fakeAPI is a TLS server that behaves badly on demand, as no real one does.
type fakeAPI struct {
	addr string
	mode atomic.Int32
	srv  *http.Server

	mu    sync.Mutex
	conns map[net.Conn]bool
	over  chan struct{}
}

// fakeAPIs starts n of them and writes their CA to the returned folder's ca.crt.
func fakeAPIs(t *testing.T, n int) (apis []*fakeAPI, tg target, caFile string) {
	t.Helper()
	ca := newAuthority(t)
	caFile = filepath.Join(t.TempDir(), "ca.crt")
	writePEM(t, caFile, "CERTIFICATE", ca.cert.Raw)
	for i := range n {
		f := &fakeAPI{addr: fmt.Sprintf("127.0.7.%d:6443", i+1), conns: map[net.Conn]bool{}, over: make(chan struct{})}
		f.serve(t, ca.leaf(t, pkix.Name{CommonName: "fake"}, "kubernetes"))
		apis = append(apis, f)
	}
	return apis, target{&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.pool(), ServerName: "kubernetes"}, "/version"}, caFile
}

// end is its death: nothing listens there any more.
func (f *fakeAPI) end() { _ = f.srv.Close() }

func (f *fakeAPI) is(m mode) bool { return mode(f.mode.Load()) == m }

func (f *fakeAPI) serve(t *testing.T, cert tls.Certificate) {
	t.Helper()
	ln, err := net.Listen("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }
	mux.HandleFunc("/readyz", answer)
	mux.HandleFunc("/livez/ping", answer)
	mux.HandleFunc("/version", answer)
	f.srv = &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		// Our probes offer http/1.1 alone; a kubectl or a Go client does not.
		if slices.Equal(hello.SupportedProtos, []string{"http/1.1"}) {
			return nil, nil
		}
		switch c := hello.Conn.(*moodyConn); {
		case f.is(resetsAll):
			_ = c.Conn.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
			return nil, errors.New("reset")
		case f.is(swallowsAll):
			<-f.over
			return nil, net.ErrClosed
		}
		return nil, nil
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.srv.Serve(tls.NewListener(&moodyListener{ln, f}, cfg)) })
	t.Cleanup(func() {
		close(f.over)
		f.end()
		f.mu.Lock()
		for c := range f.conns {
			_ = c.Close()
		}
		f.mu.Unlock()
		wg.Wait()
	})
}

type moodyListener struct {
	net.Listener
	f *fakeAPI
}

func (l *moodyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.f.mu.Lock()
	l.f.conns[c] = true
	l.f.mu.Unlock()
	if l.f.is(oneByte) {
		_, _ = c.Write([]byte{22})
	}
	return &moodyConn{c, l.f}, nil
}

// moodyConn stands still while its server answers one byte only.
type moodyConn struct {
	net.Conn
	f *fakeAPI
}

func (c *moodyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.f.is(oneByte) {
		<-c.f.over
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *moodyConn) Close() error {
	c.f.mu.Lock()
	delete(c.f.conns, c.Conn)
	c.f.mu.Unlock()
	return c.Conn.Close()
}
