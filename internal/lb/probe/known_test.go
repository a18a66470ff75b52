package probe

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/lb/pool"
)

// API servers of k3s and Talos do not answer just anybody: the checks can show a
// certificate or a token, and where they do not, the answer says what to do.
func TestServersThatWantToKnowWhoAsks(t *testing.T) {
	closed := func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") == "Bearer good" || len(r.TLS.PeerCertificates) > 0:
		case r.Header.Get("Authorization") == "Bearer known":
			w.WriteHeader(http.StatusForbidden)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(closed))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	token := func(s string) func() string { return func() string { return s } }
	for name, tc := range map[string]struct {
		certificate func() *tls.Certificate
		token       func() string
		answer      pool.Answer
		why         string
	}{
		"nothing shown":   {nil, nil, pool.Red, "says 401: it wants to know who asks: --check-cert-file"},
		"certificate":     {func() *tls.Certificate { return &s.TLS.Certificates[0] }, nil, pool.OK, "says 200"},
		"token":           {nil, token("good"), pool.OK, "says 200"},
		"unknown token":   {nil, token("old"), pool.Red, "says 401: it does not know the certificate or token"},
		"token may not":   {nil, token("known"), pool.Red, "may not ask /readyz"},
		"no certificates": {func() *tls.Certificate { return &tls.Certificate{} }, nil, pool.Red, "says 401"},
	} {
		t.Run(name, func(t *testing.T) {
			check, closeCheck := HTTPS(HTTPSConfig{
				Network: "tcp", Address: s.Listener.Addr().String(), Name: "example.com",
				Roots: func() *x509.CertPool { return roots }, Certificate: tc.certificate, Token: tc.token,
			})
			if r := ask(t, check, closeCheck); r.Answer != tc.answer || !strings.Contains(r.Why, tc.why) {
				t.Errorf("got %v %q, want %v %q", r.Answer, r.Why, tc.answer, tc.why)
			}
		})
	}
}
