package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hactl/hactl/internal/health"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/status"
)

func node(context.Context) (*status.Node, error) {
	return &status.Node{Name: "m1", Version: "v9", Processes: []status.Process{{Name: "hactl-lb", Active: "active", MainPID: 7}}}, nil
}

// start runs a server and returns its address; it is stopped with the test.
func start(t *testing.T, cfg Config) string {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil after a clean stop", err)
		}
	})
	if cfg.Listener == nil {
		return ""
	}
	return cfg.Listener.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// startTLS runs a server with certificates of ca and the given Node.
func startTLS(t *testing.T, ca *authority, cfg Config) string {
	t.Helper()
	cfg.Listener, cfg.TLS = listen(t), serverConf(t, ca.leaf(t, t.TempDir(), "agent", Organization))
	if cfg.Node == nil {
		cfg.Node = node
	}
	return start(t, cfg)
}

func client(t *testing.T, addr string, files pki.Files, serverName string) *Client {
	t.Helper()
	c, err := NewClient(ClientConfig{Address: addr, TLS: clientConf(t, files, serverName)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestAMasterIsAnswered(t *testing.T) {
	ca := newAuthority(t, "etcd-ca")
	reg := prometheus.NewRegistry()
	before := time.Now()
	addr := startTLS(t, ca, Config{
		Registerer: reg,
		Status:     func(context.Context) (*status.Report, error) { return &status.Report{Cluster: "prod"}, nil },
	})
	for _, name := range []string{"m1", "127.0.0.1"} {
		c := client(t, addr, ca.leaf(t, t.TempDir(), "admin", "x", Organization), name)
		n, err := c.Node(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n.Name != "m1" || n.Processes[0].MainPID != 7 || n.Time.Before(before) {
			t.Errorf("Node = %+v", n)
		}
		r, err := c.Status(t.Context())
		if err != nil || r.Cluster != "prod" {
			t.Errorf("Status = %+v, %v", r, err)
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "hactl_api_requests_total" {
				counted[m.GetLabel()[1].GetValue()+" "+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if want := map[string]float64{"GET /v1/node 200": 2, "GET /v1/status 200": 2}; !maps.Equal(counted, want) {
		t.Errorf("hactl_api_requests_total = %v, want %v", counted, want)
	}
}

// Whoever cannot show the right certificate gets nothing, and the handler is
// never reached.
func TestWhoIsRefused(t *testing.T) {
	ca, foreign := newAuthority(t, "etcd-ca"), newAuthority(t, "foreign-ca")
	addr := startTLS(t, ca, Config{Node: func(context.Context) (*status.Node, error) {
		t.Error("a stranger reached the handler")
		return node(t.Context())
	}})
	trusting := func(f pki.Files) *tls.Config { // trusts the server, whatever it shows itself
		conf := clientConf(t, f, "m1")
		conf.RootCAs.AddCert(ca.cert)
		return conf
	}
	noCert := trusting(ca.leaf(t, t.TempDir(), "x", Organization))
	noCert.GetClientCertificate = nil
	cases := []struct {
		name string
		conf *tls.Config
		code int    // of an *Error; 0: the handshake fails
		want string // in the error
	}{
		{"a foreign CA", trusting(foreign.leaf(t, t.TempDir(), "admin", Organization)), 0, ""},
		{"no certificate", noCert, 0, ""},
		{"the CA without an organization", trusting(ca.leaf(t, t.TempDir(), "healthcheck")), 403, `"healthcheck" does not name the organization hactl:masters`},
		{"the CA with another organization", trusting(ca.leaf(t, t.TempDir(), "kube", "system:masters")), 403, "hactl:masters"},
		{"an organization that only begins so", trusting(ca.leaf(t, t.TempDir(), "evil", "hactl:masters2")), 403, "hactl:masters"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cl, err := NewClient(ClientConfig{Address: addr, TLS: c.conf})
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			_, err = cl.Node(t.Context())
			var e *Error
			switch {
			case err == nil || !strings.Contains(err.Error(), c.want):
				t.Errorf("Node: %v, want %q in it", err, c.want)
			case c.code > 0 && (!errors.As(err, &e) || e.Code != c.code):
				t.Errorf("Node: %v, want code %d", err, c.code)
			case c.code == 0 && errors.As(err, &e):
				t.Errorf("Node: %v, want a failed handshake", err)
			}
		})
	}
}

// The client does not believe a server that is not a master either.
func TestWhatTheClientRefuses(t *testing.T) {
	ca, foreign := newAuthority(t, "etcd-ca"), newAuthority(t, "foreign-ca")
	serve := func(f pki.Files) string {
		return start(t, Config{Listener: listen(t), TLS: serverConf(t, f), Node: node})
	}
	good := serve(ca.leaf(t, t.TempDir(), "agent", Organization))
	etcd := serve(ca.leaf(t, t.TempDir(), "server"))
	alien := serve(foreign.leaf(t, t.TempDir(), "agent", Organization))
	admin := ca.leaf(t, t.TempDir(), "admin", Organization)
	for _, c := range []struct{ addr, name, want string }{
		{good, "m2", "not m2"},
		{etcd, "m1", "does not carry the organization"},
		{alien, "m1", "unknown authority"},
	} {
		if _, err := client(t, c.addr, admin, c.name).Node(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	ca := newAuthority(t, "etcd-ca")
	addr := startTLS(t, ca, Config{})
	conf := clientConf(t, ca.leaf(t, t.TempDir(), "admin", Organization), "m1")
	conf.MinVersion, conf.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if conn, err := tls.Dial("tcp", addr, conf); err == nil {
		_ = conn.Close()
		t.Error("TLS 1.2 was accepted")
	}
}

func TestPlainHTTPIsRefused(t *testing.T) {
	addr := startTLS(t, newAuthority(t, "etcd-ca"), Config{})
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /v1/node HTTP/1.1\r\nHost: x\r\n\r\n")
	got, _ := io.ReadAll(conn)
	if strings.Contains(string(got), "m1") || strings.Contains(string(got), "200") {
		t.Errorf("plain HTTP got %q", got)
	}
}

// A renewed certificate is used without a restart, and half of a renewal does
// not end the service.
func TestCertificatesAreReadAgain(t *testing.T) {
	ca := newAuthority(t, "etcd-ca")
	dir := t.TempDir()
	files := ca.leaf(t, dir, "agent", Organization)
	addr := start(t, Config{Listener: listen(t), TLS: serverConf(t, files), Node: node})
	serial := func() string {
		conn, err := tls.Dial("tcp", addr, clientConf(t, ca.leaf(t, t.TempDir(), "admin", Organization), "m1"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	if err := os.WriteFile(files.Key, []byte("half a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != first {
		t.Errorf("with a broken key: serial %s, want the old one %s", got, first)
	}
	ca.leaf(t, dir, "agent", Organization)
	if got := serial(); got == first {
		t.Error("the renewed certificate is not used")
	}
}

func TestLocalSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	ln, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	start(t, Config{
		Local: ln, Node: node,
		Health:   health.Endpoints{Ready: map[string]health.Check{"gossip": func(context.Context) error { return errors.New("alone") }}, Gatherer: prometheus.NewRegistry()},
		Handlers: map[string]http.Handler{"GET /ui/": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ui") })},
	})
	c, err := NewClient(ClientConfig{Socket: path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Node(t.Context()); err != nil || n.Name != "m1" {
		t.Errorf("Node = %+v, %v", n, err)
	}
	var e *Error
	if _, err := c.Status(t.Context()); !errors.As(err, &e) || e.Code != 404 {
		t.Errorf("Status without one: %v, want 404", err)
	}
	for _, r := range []struct {
		method, path, body string
		code               int
	}{
		{"GET", "/livez", "ok", 200},
		{"GET", "/readyz", "[-]gossip: alone", 503},
		{"GET", "/metrics", "", 200},
		{"GET", "/ui/x", "ui", 200},
		{"POST", "/v1/node", "", 405},
		{"DELETE", "/v1/node", "", 405},
		{"GET", "/", "", 404},
		{"GET", "/v1/", "", 404},
		{"GET", "/v1/node/../../etc/passwd", "", 404},
		{"GET", "/ui/%2e%2e/%2e%2e/etc/passwd", "ui", 200}, // a handler of one's own has to look out itself
	} {
		req, err := http.NewRequestWithContext(t.Context(), r.method, "http://agent"+r.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			if r.code == 404 && strings.Contains(err.Error(), "redirects nobody") {
				continue // the path was cleaned, which the client does not follow
			}
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != r.code || !strings.Contains(string(body), r.body) {
			t.Errorf("%s %s: %d %q, want %d with %q", r.method, r.path, resp.StatusCode, body, r.code, r.body)
		}
	}
}

func TestNew(t *testing.T) {
	ln := listen(t)
	defer ln.Close()
	for name, c := range map[string]struct {
		cfg  Config
		want []string
	}{
		"nothing":     {Config{}, []string{"Listener or Local", "Node"}},
		"no TLS":      {Config{Listener: ln, Node: node}, []string{"TLS is required"}},
		"lax TLS":     {Config{Listener: ln, Node: node, TLS: &tls.Config{ClientAuth: tls.RequestClientCert}}, []string{"require and verify"}},
		"twice there": {Config{Local: ln, Node: node, Registerer: taken(t)}, []string{"metrics"}},
	} {
		_, err := New(c.cfg)
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q", name, err, w)
			}
		}
	}
	for _, cfg := range []ClientConfig{{}, {Address: "x:1"}, {Address: "x:1", Socket: "/s", TLS: &tls.Config{}}, {TLS: &tls.Config{}}} {
		if _, err := NewClient(cfg); err == nil {
			t.Errorf("NewClient(%+v) is accepted", cfg)
		}
	}
}

func taken(t *testing.T) prometheus.Registerer {
	t.Helper()
	reg := prometheus.NewRegistry()
	if _, err := newMetrics(reg); err != nil {
		t.Fatal(err)
	}
	return reg
}

// The files of a master lie where its layout says.
func TestLayout(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	if _, err := ServerTLS(l); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ServerTLS of an empty root: %v", err)
	}
	if _, err := ClientTLS(l, "m1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ClientTLS of an empty root: %v", err)
	}
	store, err := pki.New(pki.Config{Dir: l.PKI(), Cluster: "prod"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.EnsureCAs(); err != nil {
		t.Fatal(err)
	}
	if _, err := store.EnsureLeaves(pki.Leaves{Self: pki.Master{Name: "m1", Address: "127.0.0.1"}, ServiceIP: "10.96.0.1"}); err != nil {
		t.Fatal(err)
	}
	server, err := ServerTLS(l)
	if err != nil {
		t.Fatal(err)
	}
	addr := start(t, Config{Listener: listen(t), TLS: server, Node: node})
	for _, name := range []string{"m1", "127.0.0.1"} {
		conf, err := ClientTLS(l, name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := NewClient(ClientConfig{Address: addr, TLS: conf})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := c.Node(t.Context()); err != nil || n.Name != "m1" {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
		c.Close()
	}
}

func TestSourceErrors(t *testing.T) {
	ca := newAuthority(t, "etcd-ca")
	addr := startTLS(t, ca, Config{Node: func(context.Context) (*status.Node, error) {
		return nil, fmt.Errorf("read the table: %w", io.ErrUnexpectedEOF)
	}})
	_, err := client(t, addr, ca.leaf(t, t.TempDir(), "admin", Organization), "m1").Node(t.Context())
	var e *Error
	if !errors.As(err, &e) || e.Code != 500 || !strings.Contains(e.Text, "read the table") {
		t.Errorf("Node = %v", err)
	}
}
