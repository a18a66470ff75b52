package lb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// ErrAdminTaken is returned by New and Run when another balancer answers on the admin socket.
var ErrAdminTaken = errors.New("another balancer serves there")

// aloneTimeout is how long a balancer whose socket accepts may take to say that it is
// stopping; one that is silent may serve.
const aloneTimeout = 2 * time.Second

// Suspect has a backend probed at once; all that a rumour may do.
func (b *Balancer) Suspect(name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	found := false
	for _, m := range b.members {
		if m.is(name) && m.removed.IsZero() {
			m.prober.Kick()
			found = true
		}
	}
	if !found {
		return fmt.Errorf("%w: %s", ErrNoBackend, name)
	}
	return nil
}

// SetBackends replaces the list until the source gives another one. It returns
// an error, and changes nothing, when the list is wrong.
func (b *Balancer) SetBackends(list []Backend) error {
	list, err := checkList(list)
	if err != nil {
		return err
	}
	if err := b.own.among(list); err != nil {
		return err
	}
	if err := b.resolveNew(context.Background(), list); err != nil {
		return err
	}
	old := b.cfg.Source
	before, _ := old(false)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.override = func(anew bool) ([]Backend, error) {
		now, err := old(anew)
		if err != nil || slices.Equal(now, before) {
			return list, nil
		}
		return now, nil
	}
	b.listErr, b.kept = "", false
	b.adoptLocked(list)
	return nil
}

// alone refuses to work beside another balancer with the same admin socket, unless that
// is this one's predecessor, or accepts nothing more.
func (b *Balancer) alone() error {
	if b.cfg.AdminSocket == "" || b.cfg.Successor {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), aloneTimeout)
	defer cancel()
	s, err := NewClient(b.cfg.AdminSocket).Status(ctx)
	var failed *net.OpError
	// EAGAIN: its queue of newcomers is full, so it has the socket open.
	nobody := errors.As(err, &failed) && failed.Op == "dial" && !errors.Is(err, syscall.EAGAIN)
	if nobody || err == nil && s.Stopping {
		return nil
	}
	return fmt.Errorf("admin socket %s: %w", b.cfg.AdminSocket, ErrAdminTaken)
}

// listenAdmin binds the admin socket: made beside its place and renamed over it,
// so that there is never a moment without one and a dead one is no hindrance. One
// that lives is replaced by a successor only, or when it is stopping.
func (b *Balancer) listenAdmin() (net.Listener, error) {
	path := b.cfg.AdminSocket
	if path == "" {
		return nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if err := b.alone(); err != nil {
		return nil, err
	}
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(tmp)
	ln, err := net.Listen("unix", tmp)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	if err = os.Chmod(tmp, 0o600); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = ln.Close()
		_ = os.Remove(tmp)
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return ln, nil
}

func (b *Balancer) serveAdmin(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{Handler: b.adminHandler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin socket: %w", err)
	}
	return nil
}

func (b *Balancer) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { reply(w, b.Status(), nil) })
	onBackend := func(do func(string) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			reply(w, struct{}{}, do(r.URL.Query().Get("backend")))
		}
	}
	mux.HandleFunc("POST /v1/drain", func(w http.ResponseWriter, r *http.Request) {
		do := b.Drain
		if r.URL.Query().Has("safely") {
			do = b.DrainSafely
		}
		reply(w, struct{}{}, do(r.URL.Query().Get("backend")))
	})
	mux.HandleFunc("POST /v1/undrain", onBackend(b.Undrain))
	mux.HandleFunc("POST /v1/suspect", onBackend(b.Suspect))
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, _ *http.Request) {
		b.Reload()
		reply(w, struct{}{}, nil)
	})
	mux.HandleFunc("PUT /v1/backends", func(w http.ResponseWriter, r *http.Request) {
		var list []Backend
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxListBytes)).Decode(&list)
		if err == nil {
			err = b.SetBackends(list)
		}
		reply(w, struct{}{}, err)
	})
	return mux
}

// adminError is the body of a failed admin request.
type adminError struct {
	Error string `json:"error"`
}

func reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	switch {
	case errors.Is(err, ErrNoBackend):
		w.WriteHeader(http.StatusNotFound)
		v = adminError{err.Error()}
	case errors.Is(err, ErrLastBackend):
		w.WriteHeader(http.StatusConflict)
		v = adminError{err.Error()}
	case errors.Is(err, ErrHandingOver):
		w.WriteHeader(http.StatusServiceUnavailable)
		v = adminError{err.Error()}
	case err != nil:
		w.WriteHeader(http.StatusBadRequest)
		v = adminError{err.Error()}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v)
}
