package singleton

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"
)

// The defaults of HealthConfig.
const (
	DefaultHealthEvery   = time.Second
	DefaultHealthTimeout = time.Second
	DefaultHealthFails   = 3
	DefaultHealthGrace   = 30 * time.Second
)

// HealthConfig is a probe of what the holder fronts.
type HealthConfig struct {
	URL     string        // http or https; a 2xx answer is well
	Every   time.Duration // between two probes; default 1s
	Timeout time.Duration // of one; default 1s
	Fails   int           // in a row that count as sick; default 3
	// Grace is how long after the start failures do not count, until the first
	// good answer. Default 30s.
	Grace    time.Duration
	CAFile   string // for https; empty: the machine's authorities
	Insecure bool   // do not verify https; only for loopback addresses
}

// Health probes a URL.
type Health struct {
	cfg    HealthConfig
	client *http.Client
}

// NewHealth checks cfg.
func NewHealth(cfg HealthConfig) (*Health, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("health URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("health URL %q: want http://… or https://…", cfg.URL)
	}
	tlsConfig, err := clientTLS(u, "health", cfg.CAFile, cfg.Insecure)
	if err != nil {
		return nil, err
	}
	setDefault(&cfg.Every, DefaultHealthEvery)
	setDefault(&cfg.Timeout, DefaultHealthTimeout)
	setDefault(&cfg.Grace, DefaultHealthGrace)
	setDefault(&cfg.Fails, DefaultHealthFails)
	if cfg.Every < 0 || cfg.Timeout < 0 || cfg.Fails < 0 || cfg.Grace < 0 {
		return nil, errors.New("health: negative times or counts")
	}
	return &Health{cfg: cfg, client: &http.Client{
		// A new connection each time: a kept one may still work when no new one does.
		Transport:     &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true, Proxy: nil},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// newPool is nil when there is no certificate.
func newPool(pem []byte) *x509.CertPool {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil
	}
	return pool
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Probe asks once. A probe that hangs has failed after the timeout.
func (h *Health) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.cfg.URL, nil)
	if err != nil {
		return err
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	return nil
}

// watch probes until ctx ends or the work is sick; then it sends why. tell, if
// not nil, hears every outcome.
func (h *Health) watch(ctx context.Context, sick chan<- error, tell func(error)) {
	fails, seen := 0, false
	grace := time.Now().Add(h.cfg.Grace)
	for sleep(ctx, h.cfg.Every) {
		err := h.Probe(ctx)
		if ctx.Err() != nil {
			return
		}
		call(tell, err)
		switch {
		case err == nil:
			fails, seen = 0, true
			continue
		case !seen && time.Now().Before(grace):
			continue
		}
		if fails++; fails >= h.cfg.Fails {
			sick <- fmt.Errorf("%d probes in a row: %w", fails, err)
			return
		}
	}
}

// Stopped returns nil when nobody listens at the URL's address any more. A
// refused connection says so; no answer at all says nothing.
func (h *Health) Stopped(ctx context.Context) error {
	u, err := url.Parse(h.cfg.URL)
	if err != nil {
		return err
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	dialer := net.Dialer{Timeout: h.cfg.Timeout}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	switch {
	case err == nil:
		_ = conn.Close()
		return fmt.Errorf("%s still listens", u.Host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil
	default:
		return err
	}
}
