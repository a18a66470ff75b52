package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/workload"
)

// The control protocol: JSON over HTTP on a Unix socket.
//
//	GET  /v1/units                          [State…]
//	PUT  /v1/units          [Unit…]         Changes
//	POST /v1/units/NAME/start|stop
//	POST /v1/units/NAME/restart?force=true
//	POST /v1/units/NAME/signal?signal=N
//	GET  /v1/processes                      [Process…]
//	POST /v1/processes/NAME/signal?signal=N [pid…]
//	POST /v1/shutdown
//
// An answer other than 200 carries a problem.

// problem is an error on the wire.
type problem struct {
	Error string `json:"error"`
	Code  string `json:"code,omitempty"` // of a sentinel, see codes
}

// codes are the sentinels that keep their identity over the wire.
var codes = []struct {
	err    error
	code   string
	status int
}{
	{workload.ErrNoUnit, "no-unit", http.StatusNotFound},
	{ErrNoProcess, "no-process", http.StatusNotFound},
	{workload.ErrNotRunning, "not-running", http.StatusConflict},
	{ErrStopping, "stopping", http.StatusServiceUnavailable},
	{ErrUnkillable, "unkillable", http.StatusInternalServerError},
}

// maxBody is the longest request body in bytes: a list of units.
const maxBody = 1 << 20

func listenControl(ctx context.Context, path string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }) // the mode that bind gives the file
		return errors.Join(cerr, err)
	}}
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for commands: %w", err)
	}
	return ln, nil
}

func (s *Supervisor) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/units", answer(func(r *http.Request) (any, error) { return s.Units(r.Context()) }))
	mux.HandleFunc("PUT /v1/units", answer(func(r *http.Request) (any, error) {
		var units []workload.Unit
		dec := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&units); err != nil {
			return nil, fmt.Errorf("read units: %w", err)
		}
		return s.Reload(r.Context(), units)
	}))
	unit := func(do func(ctx context.Context, name string) error) http.HandlerFunc {
		return answer(func(r *http.Request) (any, error) { return struct{}{}, do(r.Context(), r.PathValue("name")) })
	}
	mux.HandleFunc("POST /v1/units/{name}/start", unit(s.Start))
	mux.HandleFunc("POST /v1/units/{name}/stop", unit(s.Stop))
	mux.HandleFunc("POST /v1/units/{name}/restart", answer(func(r *http.Request) (any, error) {
		return struct{}{}, s.Restart(r.Context(), r.PathValue("name"), r.URL.Query().Get("force") == "true")
	}))
	mux.HandleFunc("POST /v1/units/{name}/signal", answer(func(r *http.Request) (any, error) {
		sig, err := signalOf(r)
		if err != nil {
			return nil, err
		}
		return struct{}{}, s.Signal(r.Context(), r.PathValue("name"), sig)
	}))
	mux.HandleFunc("GET /v1/processes", answer(func(r *http.Request) (any, error) { return s.Processes(r.Context()) }))
	mux.HandleFunc("POST /v1/processes/{name}/signal", answer(func(r *http.Request) (any, error) {
		sig, err := signalOf(r)
		if err != nil {
			return nil, err
		}
		return s.SignalProcess(r.Context(), r.PathValue("name"), sig)
	}))
	mux.HandleFunc("POST /v1/shutdown", answer(func(r *http.Request) (any, error) { return struct{}{}, s.Shutdown(r.Context()) }))
	return mux
}

func signalOf(r *http.Request) (syscall.Signal, error) {
	n, err := strconv.Atoi(r.URL.Query().Get("signal"))
	if err != nil || n < 1 || n > 64 {
		return 0, fmt.Errorf("signal %q: want a number from 1 to 64", r.URL.Query().Get("signal"))
	}
	return syscall.Signal(n), nil
}

// answer makes a handler that writes what f returns.
func answer(f func(r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		result, err := f(r)
		w.Header().Set("Content-Type", "application/json")
		if err == nil {
			_ = json.NewEncoder(w).Encode(result)
			return
		}
		p, status := problem{Error: err.Error()}, http.StatusInternalServerError
		for _, c := range codes {
			if errors.Is(err, c.err) {
				p.Code, status = c.code, c.status
				break
			}
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(p)
	}
}
