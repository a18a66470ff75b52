package lb

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hactl/hactl/internal/testwait"
)

func TestMain(m *testing.M) {
	if done, err := Detached(); done {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

const patience = 20 * time.Second

// testCA signs the certificates of the fake API servers.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(tb testing.TB) *testCA {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return &testCA{cert, key}
}

func (ca *testCA) leaf(tb testing.TB, name string) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (ca *testCA) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.cert)
	return p
}

// freezer is a listener whose connections stand still while it is frozen, as
// those of a stopped process do: the kernel still accepts them.
type freezer struct {
	net.Listener
	mu     sync.Mutex
	thaw   chan struct{} // nil: not frozen
	closed chan struct{}
	conns  map[net.Conn]bool
}

type frozenConn struct {
	net.Conn
	f *freezer
}

func (f *freezer) Accept() (net.Conn, error) {
	c, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns[c] = true
	return frozenConn{c, f}, nil
}

func (c frozenConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.f.wait()
	return n, err
}

func (c frozenConn) Write(p []byte) (int, error) {
	c.f.wait()
	return c.Conn.Write(p)
}

func (c frozenConn) Close() error {
	c.f.mu.Lock()
	delete(c.f.conns, c.Conn)
	c.f.mu.Unlock()
	return c.Conn.Close()
}

func (f *freezer) wait() {
	f.mu.Lock()
	thaw := f.thaw
	f.mu.Unlock()
	if thaw != nil {
		select {
		case <-thaw:
		case <-f.closed:
		}
	}
}

func (f *freezer) freeze() { f.mu.Lock(); f.thaw = make(chan struct{}); f.mu.Unlock() }

func (f *freezer) unfreeze() { f.mu.Lock(); close(f.thaw); f.thaw = nil; f.mu.Unlock() }

// apiServer answers /readyz and its name; it can be red, frozen, dead and back.
type apiServer struct {
	tb   testing.TB
	name string
	addr string
	cert tls.Certificate
	red  atomic.Bool
	asks atomic.Int64 // for /readyz
	hung atomic.Bool  // health paths do not answer, all else does

	mu  sync.Mutex
	ln  *freezer
	srv *http.Server
	wg  sync.WaitGroup
}

func newAPIServer(tb testing.TB, ca *testCA, name string) *apiServer {
	tb.Helper()
	return newAPIServerAt(tb, ca, name, "127.0.0.1:0")
}

func newAPIServerAt(tb testing.TB, ca *testCA, name, addr string) *apiServer {
	tb.Helper()
	s := &apiServer{tb: tb, name: name, addr: addr, cert: ca.leaf(tb, "kubernetes")}
	s.start()
	tb.Cleanup(s.kill)
	return s
}

func (s *apiServer) start() {
	s.tb.Helper()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp", s.addr)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.addr = ln.Addr().String()
	mux := http.NewServeMux()
	hang := func(r *http.Request) bool {
		if s.hung.Load() {
			<-r.Context().Done()
		}
		return s.hung.Load()
	}
	mux.HandleFunc("/livez/", func(_ http.ResponseWriter, r *http.Request) { hang(r) })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		s.asks.Add(1)
		if hang(r) {
			return
		}
		if s.red.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, "[+]ping ok\n[-]shutdown failed: reason withheld\nreadyz check failed\n")
		}
	})
	mux.HandleFunc("/name", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s.name) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ln = &freezer{Listener: ln, closed: make(chan struct{}), conns: map[net.Conn]bool{}}
	s.srv = &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	srv, fz := s.srv, s.ln
	s.wg.Go(func() {
		_ = srv.Serve(tls.NewListener(fz, &tls.Config{Certificates: []tls.Certificate{s.cert}, NextProtos: []string{"http/1.1"}}))
	})
}

// kill ends it as SIGKILL does: listener and connections go at once.
func (s *apiServer) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.srv == nil {
		return
	}
	close(s.ln.closed)
	_ = s.srv.Close()
	s.ln.mu.Lock()
	for c := range s.ln.conns {
		_ = c.Close()
	}
	s.ln.mu.Unlock()
	s.wg.Wait()
	s.srv = nil
}

// rig is a running balancer.
type rig struct {
	*Balancer
	tb   testing.TB
	addr string
	ca   *testCA
	stop func()
}

// quick are checks for tests: often, but with the default's patience, since tests
// run on busy machines.
func quick(ca *testCA) Check {
	return Check{Kind: CheckHTTPS, Roots: ca.pool, Every: 100 * time.Millisecond, Timeout: time.Second}
}

func listener(tb testing.TB, addr string) *os.File {
	tb.Helper()
	files, _, err := Listen(tb.Context(), []string{addr}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return files[0]
}

func addressOf(tb testing.TB, f *os.File) string {
	tb.Helper()
	at, err := boundTo(f)
	if err != nil {
		tb.Fatal(err)
	}
	return at.address
}

func newRig(tb testing.TB, ca *testCA, cfg Config) *rig {
	tb.Helper()
	if cfg.Listeners == nil {
		cfg.Listeners = []*os.File{listener(tb, "127.0.0.1:0")}
	}
	if cfg.Check.Kind == "" {
		cfg.Check = quick(ca)
	}
	if testing.Verbose() && cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(tb.Output(), nil))
	}
	cfg.Data.Loops = 2
	if cfg.Data.ReplayAfter == 0 {
		cfg.Data.ReplayAfter = time.Second
	}
	b, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	r := &rig{Balancer: b, tb: tb, addr: b.own[0].address, ca: ca}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(r.stop)
	return r
}

func sourceOf(servers ...*apiServer) Source {
	var list []Backend
	for _, s := range servers {
		list = append(list, Backend{Name: s.name, Address: s.addr})
	}
	return Static(list)
}

// client is one kept connection to the balancer.
type client struct {
	*http.Client
	tr   *http.Transport
	addr string
}

func (r *rig) client() *client {
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: r.ca.pool(), ServerName: "kubernetes"},
		MaxConnsPerHost: 1,
	}
	c := &client{&http.Client{Transport: tr, Timeout: patience}, tr, r.addr}
	r.tb.Cleanup(tr.CloseIdleConnections)
	return c
}

func (c *client) name() (string, error) {
	resp, err := c.Get("https://" + c.addr + "/name")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// names asks n times over new connections and counts the answers.
func (r *rig) names(n int) map[string]int {
	r.tb.Helper()
	got := map[string]int{}
	for range n {
		c := r.client()
		name, err := c.name()
		if err != nil {
			r.tb.Fatalf("new connection: %v", err)
		}
		c.tr.CloseIdleConnections()
		got[name]++
	}
	return got
}

func (r *rig) backend(name string) BackendStatus {
	for _, b := range r.Status().Backends {
		if b.Name == name {
			return b
		}
	}
	return BackendStatus{Name: "missing"}
}

// until waits for a backend's state.
func (r *rig) until(name string, want string) {
	r.tb.Helper()
	testwait.For(r.tb, name+" to be "+want, patience, func() error {
		b := r.backend(name)
		if got := b.State.String(); got != want || b.Name == "missing" {
			return fmt.Errorf("%s is %s: %s", b.Name, got, b.Why)
		}
		return nil
	})
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	testwait.For(tb, what, patience, func() error {
		if !ok() {
			return errors.New("not yet")
		}
		return nil
	})
}

func writeFile(tb testing.TB, path, content string) {
	tb.Helper()
	tmp := filepath.Join(filepath.Dir(path), ".new")
	if err := errors.Join(os.WriteFile(tmp, []byte(content), 0o600), os.Rename(tmp, path)); err != nil {
		tb.Fatal(err)
	}
}
