package collect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/status"
)

// prober asks API servers, directly or through a balancer. Each question has a
// connection of its own, so that no answer comes over an old one.
type prober struct {
	roots   *x509.CertPool // the Kubernetes CA; nil: cannot be read
	err     error          // why roots is nil
	timeout time.Duration  // of one question
}

func newProber(caFile string, timeout time.Duration) *prober {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return &prober{err: fmt.Errorf("read the Kubernetes CA: %w", err)}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return &prober{err: fmt.Errorf("read the Kubernetes CA: no certificate in %s", caFile)}
	}
	return &prober{roots: roots, timeout: timeout}
}

// answer is what a health path said.
type answer struct {
	ok   status.Answer
	why  string
	took time.Duration // 0: there was no HTTP answer
}

// get asks https://address/path for 200.
func (p *prober) get(ctx context.Context, address, path string) answer {
	if p.roots == nil {
		return answer{ok: status.Unclear, why: p.err.Error()}
	}
	t := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: p.roots, ServerName: pki.APIServerName, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true,
	}
	defer t.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+path, nil)
	if err != nil {
		return answer{ok: status.Unclear, why: err.Error()}
	}
	began := time.Now()
	resp, err := (&http.Client{Transport: t, CheckRedirect: noRedirect}).Do(req)
	if err != nil {
		return answer{ok: status.No, why: words(err)}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return answer{ok: status.No, why: words(err)}
	}
	a := answer{ok: status.Yes, took: max(time.Since(began), 1)}
	if resp.StatusCode != http.StatusOK {
		a.ok, a.why = status.No, fmt.Sprintf("HTTP %d%s", resp.StatusCode, failing(string(body)))
	}
	return a
}

func noRedirect(*http.Request, []*http.Request) error {
	return errors.New("a health path redirects nobody")
}

// failing lists the checks that a Kubernetes health path names as failed, in
// lines such as "[-]etcd failed: reason withheld".
func failing(body string) string {
	var names []string
	for line := range strings.Lines(body) {
		rest, ok := strings.CutPrefix(line, "[-]")
		name, _, _ := strings.Cut(rest, " ")
		if name = strings.TrimSpace(name); ok && name != "" && len(names) < 5 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return ": " + oneLine(strings.Join(names, ", ")) + " failed"
}

// throughTries is how often a balancer may lead to an API server that is not
// ready before it is said to serve nothing: it may not have found out yet, and a
// new connection goes elsewhere.
const throughTries = 3

// through asks whether anything is served through a balancer.
func (p *prober) through(ctx context.Context, address string) answer {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	var a answer
	for range throughTries {
		next := p.get(ctx, address, "/readyz")
		if ctx.Err() != nil && a.took > 0 {
			break // the deadline's end says nothing new
		}
		if a = next; a.ok != status.No || a.took == 0 {
			break
		}
	}
	return a
}

// apiServer asks one directly, whether it is ready and whether it lives. Both at
// once, so that a slow one does not cost twice.
func (p *prober) apiServer(ctx context.Context, master, address string) status.APIServer {
	live := make(chan answer, 1)
	go func() { live <- p.get(ctx, address, "/livez?exclude=etcd") }()
	ready, alive := p.get(ctx, address, "/readyz"), <-live
	return status.APIServer{
		Master: master, Address: address,
		Ready: ready.ok, Live: alive.ok, Why: ready.why, Latency: status.In(max(ready.took, alive.took)),
	}
}
