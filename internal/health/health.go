// Package health answers /livez, /readyz and /metrics for a daemon, and runs
// checks so that one that hangs is a failed one.
package health

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check returns nil when what it checks is well. It should end with its
// context; Run does not rely on it.
type Check func(ctx context.Context) error

// CheckTimeout is how long one check may take when an endpoint is asked.
const CheckTimeout = 2 * time.Second

// Endpoints is what a daemon tells about itself. The zero value answers 200 to
// /livez and /readyz.
type Endpoints struct {
	Live     map[string]Check    // "restart me if this fails"
	Ready    map[string]Check    // "route to me"
	Gatherer prometheus.Gatherer // /metrics; nil: no such path
}

// Run calls every check at the same time and returns each one's error by name.
// A check that has not returned after timeout has failed; its goroutine is left
// to end by itself.
func Run(ctx context.Context, checks map[string]Check, timeout time.Duration) map[string]error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var (
		mu  sync.Mutex
		got = make(map[string]error, len(checks))
		wg  sync.WaitGroup
	)
	for name, check := range checks {
		wg.Go(func() {
			err := runOne(ctx, check)
			mu.Lock()
			defer mu.Unlock()
			got[name] = err
		})
	}
	wg.Wait()
	return got
}

func runOne(ctx context.Context, check Check) error {
	done := make(chan error, 1)
	go func() { done <- check(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no answer: %w", ctx.Err())
	}
}

// Handler serves /livez, /readyz (both with ?verbose) and /metrics.
func Handler(e Endpoints) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", checksHandler(e.Live))
	mux.HandleFunc("GET /readyz", checksHandler(e.Ready))
	if e.Gatherer != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(e.Gatherer, promhttp.HandlerOpts{}))
	}
	return mux
}

func checksHandler(checks map[string]Check) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		results := Run(r.Context(), checks, CheckTimeout)
		var b strings.Builder
		ok := true
		for _, name := range slices.Sorted(maps.Keys(results)) {
			if err := results[name]; err != nil {
				ok = false
				fmt.Fprintf(&b, "[-]%s: %v\n", name, err)
			} else {
				fmt.Fprintf(&b, "[+]%s ok\n", name)
			}
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, verbose := r.URL.Query()["verbose"]
		switch {
		case !ok:
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, b.String())
		case verbose:
			fmt.Fprint(w, b.String()+"ok\n")
		default:
			fmt.Fprint(w, "ok")
		}
	}
}

// Serve answers on ln until ctx ends, then closes it. It returns nil after a
// clean stop.
func Serve(ctx context.Context, ln net.Listener, e Endpoints) error {
	srv := &http.Server{
		Handler:           Handler(e),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    1 << 16,
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health on %s: %w", ln.Addr(), err)
	}
	return nil
}
