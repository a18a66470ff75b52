package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/lb/pool"
)

// HTTPSConfig configures an HTTPS check. Network, Address and Roots are required.
type HTTPSConfig struct {
	Network string // tcp or unix
	Address string
	Path    string                // default /readyz
	Alive   string                // default /livez/ping: see HTTPS
	Name    string                // the name that the certificate must have; default kubernetes, which is in every API server's
	Roots   func() *x509.CertPool // called for each handshake, so that a new CA counts at once
	// Certificate and Token, if not nil, say who asks: a client's certificate, for
	// each handshake, and a bearer token, for each probe.
	Certificate func() *tls.Certificate
	Token       func() string
}

// HTTPS returns a check that is OK when GET Path answers 200 over verified TLS,
// and a function that closes the connection it keeps.
//
// A server whose Path is slow need not hang: kube-apiserver's /readyz waits for
// etcd, and an overloaded machine is slow at everything. So when half of the
// time has passed without an answer, Alive is asked as well, which depends on
// nothing. Any answer to that, even a refusal, makes the result Red instead of
// Silent: send it nothing new, but keep what it has.
func HTTPS(cfg HTTPSConfig) (Check, func()) {
	if cfg.Path == "" {
		cfg.Path = "/readyz"
	}
	if cfg.Name == "" {
		cfg.Name = "kubernetes"
	}
	if cfg.Alive == "" {
		cfg.Alive = "/livez/ping"
	}
	kept, fresh := cfg.transport(false), cfg.transport(true)
	return func(ctx context.Context, anew bool) Result {
		t := kept
		if anew {
			t = fresh
			kept.CloseIdleConnections()
		}
		return twice(ctx,
			func() Result { return cfg.get(ctx, t, cfg.Path) },
			func() Result { return cfg.get(ctx, fresh, cfg.Alive) })
	}, kept.CloseIdleConnections
}

// twice returns what ready says. When that takes more than half of the time it
// asks alive, too, and if only that answers, returns Red shortly before the time
// is over.
func twice(ctx context.Context, ready, alive func() Result) Result {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ready()
	}
	whole := time.Until(deadline)
	first := make(chan Result, 1)
	go func() { first <- ready() }()
	half := time.NewTimer(whole / 2)
	defer half.Stop()
	select {
	case r := <-first:
		return r
	case <-half.C:
	}
	second := make(chan Result, 1)
	go func() { second <- alive() }()
	almost := time.NewTimer(time.Until(deadline) - whole/20)
	defer almost.Stop()
	select {
	case r := <-first:
		return r
	case <-almost.C:
	}
	select {
	case r := <-second:
		if r.Answer == pool.OK || r.Answer == pool.Red {
			return Result{Answer: pool.Red, Why: "lives, but does not say in time whether it is ready"}
		}
	default:
	}
	return <-first
}

func (cfg HTTPSConfig) transport(once bool) *http.Transport {
	d := dialer()
	var who func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	if cfg.Certificate != nil {
		who = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cfg.Certificate(), nil }
	}
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, cfg.Network, cfg.Address)
		},
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12,
			ServerName: cfg.Name,
			NextProtos: []string{"http/1.1"},
			// Verified below against roots that may change.
			InsecureSkipVerify:   true, //nolint:gosec // VerifyConnection does it
			VerifyConnection:     func(cs tls.ConnectionState) error { return verify(cs, cfg.Roots(), cfg.Name) },
			GetClientCertificate: who,
		},
		DisableKeepAlives:      once,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: 16 << 10,
	}
}

func verify(cs tls.ConnectionState, roots *x509.CertPool, name string) error {
	opts := x509.VerifyOptions{Roots: roots, DNSName: name, Intermediates: x509.NewCertPool()}
	for _, c := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := cs.PeerCertificates[0].Verify(opts); err != nil {
		return &untrustedError{err}
	}
	return nil
}

// untrustedError is a certificate that does not verify.
type untrustedError struct{ err error }

func (e *untrustedError) Error() string { return "certificate: " + e.err.Error() }
func (e *untrustedError) Unwrap() error { return e.err }

func (cfg HTTPSConfig) get(ctx context.Context, t *http.Transport, path string) Result {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+cfg.Name+path, nil)
	if err != nil {
		return Result{Answer: pool.Red, Why: err.Error()}
	}
	req.Header.Set("User-Agent", "hactl-lb")
	if cfg.Token != nil {
		req.Header.Set("Authorization", "Bearer "+cfg.Token())
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return failure(err)
	}
	defer resp.Body.Close()
	// Read to the end, so that the connection can be used again.
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return failure(err)
	}
	if resp.StatusCode != http.StatusOK {
		return Result{Answer: pool.Red, Why: fmt.Sprintf("says %d%s", resp.StatusCode, cfg.reason(resp.StatusCode, string(body)))}
	}
	return Result{Answer: pool.OK, Why: "says 200"}
}

// reason says why an answer is not 200, and what to do where that is not clear. A
// server that does not answer just anybody works, but whether it is ready is unknown.
func (cfg HTTPSConfig) reason(code int, body string) string {
	switch known := cfg.Certificate != nil || cfg.Token != nil; {
	case code == http.StatusUnauthorized && !known:
		return ": it wants to know who asks: --check-cert-file and --check-key-file, or --check-token-file, or --check tcp"
	case code == http.StatusUnauthorized:
		return ": it does not know the certificate or token of the checks"
	case code == http.StatusForbidden && !known:
		// An API server says so, too, in its first second: its rules come after its answers.
		return ": it is starting, or lets only some ask " + cfg.Path + " (--check-cert-file and --check-key-file, or --check-token-file)"
	case code == http.StatusForbidden:
		return ": the certificate or token of the checks may not ask " + cfg.Path
	}
	return failing(body)
}

// failing lists the parts that a Kubernetes health page marks as failed.
func failing(body string) string {
	var parts []string
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, "[-]"); ok && len(parts) < 5 {
			name, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			if len(name) <= 80 {
				parts = append(parts, name)
			}
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return ": " + strings.Join(parts, ", ")
}

// TCP returns a check that is OK when a connection is accepted.
func TCP(network, address string) Check {
	d := dialer()
	return func(ctx context.Context, _ bool) Result {
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return failure(err)
		}
		_ = c.Close()
		return Result{Answer: pool.OK, Why: "accepts"}
	}
}

// None returns a check that is always OK.
func None() Check {
	return func(context.Context, bool) Result { return Result{Answer: pool.OK, Why: "not checked"} }
}

func dialer() *net.Dialer {
	d := &net.Dialer{}
	d.SetMultipathTCP(false)
	return d
}

// failure says what an error means for the backend's old connections.
func failure(err error) Result {
	var (
		untrusted *untrustedError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		netErr    net.Error
	)
	switch {
	case errors.As(err, &untrusted), errors.As(err, &record), errors.As(err, &alert):
		return Result{Answer: pool.Red, Why: err.Error()}
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return Result{Answer: pool.Gone, Why: "connection refused"}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return Result{Answer: pool.Silent, Why: "no answer in time"}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return Result{Answer: pool.Silent, Why: "unreachable: " + err.Error()}
	default:
		return Result{Answer: pool.Gone, Why: err.Error()}
	}
}
