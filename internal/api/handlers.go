package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/hactl/hactl/internal/health"
	"github.com/hactl/hactl/internal/status"
)

// The paths of the API.
const (
	PathNode   = "/v1/node"
	PathStatus = "/v1/status"
)

func (s *Server) routes() {
	s.mux.Handle("GET "+PathNode, answer(s, func(ctx context.Context) (*status.Node, error) {
		n, err := s.cfg.Node(ctx)
		if err != nil {
			return nil, err
		}
		stamped := *n
		stamped.Time = time.Now() // as late as possible: the clocks are compared by it
		return &stamped, nil
	}))
	if s.cfg.Status != nil {
		s.mux.Handle("GET "+PathStatus, answer(s, s.cfg.Status))
	}
	s.moreRoutes()
	probes := health.Handler(s.cfg.Health)
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		s.mux.Handle("GET "+path, probes)
	}
	for pattern, h := range s.cfg.Handlers {
		s.mux.Handle(pattern, h)
	}
}

// answer serves f's value as JSON. A function that does not return within
// AnswerTimeout is answered for; its goroutine is left to end by itself.
func answer[T any](s *Server, f func(context.Context) (T, error)) http.Handler {
	type result struct {
		v   T
		err error
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), AnswerTimeout)
		defer cancel()
		done := make(chan result, 1)
		go func() {
			v, err := f(ctx)
			done <- result{v, err}
		}()
		select {
		case got := <-done:
			if got.err != nil {
				writeError(w, http.StatusInternalServerError, got.err.Error())
				return
			}
			writeJSON(w, http.StatusOK, got.v)
		case <-ctx.Done():
			writeError(w, http.StatusGatewayTimeout, fmt.Sprintf("%s: no answer within %v", r.URL.Path, AnswerTimeout))
		}
	})
}

// problem is the body of every refusal.
type problem struct {
	Error string `json:"error"`
}

func writeError(w http.ResponseWriter, code int, text string) { writeJSON(w, code, problem{text}) }

func writeJSON(w http.ResponseWriter, code int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		code, data = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(append(data, '\n')) // the client may be gone
}

// onlyMasters lets only certificates with the Organization in. That they are
// the CA's was checked in the handshake.
func (s *Server) onlyMasters(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.PeerCertificates) == 0 {
			writeError(w, http.StatusUnauthorized, "a client certificate is required")
			return
		}
		subject := r.TLS.PeerCertificates[0].Subject
		if !slices.Contains(subject.Organization, Organization) {
			s.cfg.Logger.Warn("API: client refused", "subject", subject.String(), "remote", r.RemoteAddr)
			writeError(w, http.StatusForbidden,
				fmt.Sprintf("the client certificate of %q does not name the organization %s", subject.CommonName, Organization))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// limited bounds the body and counts the requests.
func (s *Server) limited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rec := &recorder{ResponseWriter: w, code: http.StatusOK}
		if r.ContentLength > maxBody {
			w.Header().Set("Connection", "close")
			writeError(rec, http.StatusRequestEntityTooLarge, fmt.Sprintf("a request has at most %d bytes", maxBody))
		} else {
			r.Body = http.MaxBytesReader(rec, r.Body, maxBody)
			next.ServeHTTP(rec, r)
		}
		s.met.observe(r.Pattern, rec.code, time.Since(began))
	})
}

// recorder remembers the status code.
type recorder struct {
	http.ResponseWriter
	code int
}

func (r *recorder) WriteHeader(code int) {
	r.code = code
	r.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach the real writer.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
