package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/hactl/hactl/internal/event"
	"github.com/hactl/hactl/internal/health"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/status"
)

// The limits of the server. The CLI gives a call one second, so AnswerTimeout
// only bounds what a slow source may hold.
const (
	headerTimeout = 5 * time.Second // also of the TLS handshake
	readTimeout   = 10 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = time.Minute
	stopTimeout   = 2 * time.Second
	maxHeader     = 16 << 10
	maxBody       = 64 << 10
	// AnswerTimeout bounds how long a function of Config may take.
	AnswerTimeout = 5 * time.Second
)

// Config is what a Server needs.
type Config struct {
	// Listener is where masters and the CLI connect, mostly on port 9443. Nil: only Local.
	Listener net.Listener
	// TLS is for Listener; see ServerTLS. Required with it.
	TLS *tls.Config
	// Local is a unix socket that only root can open; see ListenUnix. Nil: only Listener.
	Local net.Listener

	// Node answers GET /v1/node. Required. Its Time is set anew when it returns.
	Node func(ctx context.Context) (*status.Node, error)
	// Status answers GET /v1/status. Nil: there is no such path.
	Status func(ctx context.Context) (*status.Report, error)
	// Master is this master's name, for the answers that carry one.
	Master string
	// Watchdog answers and steers /v1/watchdog. Nil: there is no such path.
	Watchdog Watchdog
	// Events answers GET /v1/events. Nil: there is no such path.
	Events func(ctx context.Context, q event.Query) ([]event.Event, error)
	// Health answers /livez, /readyz and /metrics.
	Health health.Endpoints
	// Handlers are more paths, by their pattern (see http.ServeMux), such as a
	// dashboard's. They are behind the same door.
	Handlers map[string]http.Handler

	Logger     *slog.Logger          // nil: silent
	Registerer prometheus.Registerer // nil: no metrics
}

// Server is the agent's API. Make it with New.
type Server struct {
	cfg Config
	met *metrics
	mux *http.ServeMux
}

// New checks the configuration. It listens to nothing yet.
func New(cfg Config) (*Server, error) {
	var faults []error
	if cfg.Listener == nil && cfg.Local == nil {
		faults = append(faults, errors.New("api: Listener or Local is required"))
	}
	if cfg.Listener != nil && cfg.TLS == nil {
		faults = append(faults, errors.New("api: TLS is required with Listener"))
	}
	if cfg.TLS != nil && cfg.TLS.ClientAuth != tls.RequireAndVerifyClientCert {
		faults = append(faults, errors.New("api: TLS must require and verify client certificates"))
	}
	if cfg.Node == nil {
		faults = append(faults, errors.New("api: Node is required"))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = logging.Discard()
	}
	met, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, met: met, mux: http.NewServeMux()}
	s.routes()
	return s, nil
}

// Run serves until ctx ends, then lets running requests finish for a moment and
// closes the listeners. It returns nil after a clean stop.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if s.cfg.Listener != nil {
		g.Go(func() error {
			return s.serve(ctx, tls.NewListener(s.cfg.Listener, s.cfg.TLS), s.limited(s.onlyMasters(s.mux)))
		})
	}
	if s.cfg.Local != nil {
		g.Go(func() error { return s.serve(ctx, s.cfg.Local, s.limited(s.mux)) })
	}
	return g.Wait()
}

func (s *Server) serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		// Handshakes that fail are somebody else's doing: for debugging only.
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close()
		}
	})
	err := srv.Serve(ln)
	if stop() { // it ended by itself
		_ = srv.Close()
		return fmt.Errorf("serve the API on %s: %w", ln.Addr(), err)
	}
	<-stopped
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API on %s: %w", ln.Addr(), err)
	}
	return nil
}
