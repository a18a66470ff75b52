package child

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/workload"
)

// Client steers a Supervisor in another process. It implements
// workload.Manager. Calls last as long as what they ask for; give them a context
// with a deadline. Every call returns ErrUnreachable when nobody answers.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client for the control socket at path. It connects to
// nothing yet.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{socket: path, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Units returns the state of every unit.
func (c *Client) Units(ctx context.Context) ([]workload.State, error) {
	var states []workload.State
	err := c.call(ctx, http.MethodGet, "/v1/units", nil, &states)
	return states, err
}

// Start is Supervisor.Start.
func (c *Client) Start(ctx context.Context, unit string) error {
	return c.call(ctx, http.MethodPost, "/v1/units/"+url.PathEscape(unit)+"/start", nil, nil)
}

// Stop is Supervisor.Stop.
func (c *Client) Stop(ctx context.Context, unit string) error {
	return c.call(ctx, http.MethodPost, "/v1/units/"+url.PathEscape(unit)+"/stop", nil, nil)
}

// Restart is Supervisor.Restart.
func (c *Client) Restart(ctx context.Context, unit string, force bool) error {
	path := "/v1/units/" + url.PathEscape(unit) + "/restart?force=" + strconv.FormatBool(force)
	return c.call(ctx, http.MethodPost, path, nil, nil)
}

// Signal is Supervisor.Signal.
func (c *Client) Signal(ctx context.Context, unit string, sig syscall.Signal) error {
	path := "/v1/units/" + url.PathEscape(unit) + "/signal?signal=" + strconv.Itoa(int(sig))
	return c.call(ctx, http.MethodPost, path, nil, nil)
}

// Reload is Supervisor.Reload.
func (c *Client) Reload(ctx context.Context, units []workload.Unit) (Changes, error) {
	var changes Changes
	err := c.call(ctx, http.MethodPut, "/v1/units", units, &changes)
	return changes, err
}

// Processes is Supervisor.Processes.
func (c *Client) Processes(ctx context.Context) ([]Process, error) {
	var ps []Process
	err := c.call(ctx, http.MethodGet, "/v1/processes", nil, &ps)
	return ps, err
}

// SignalProcess is Supervisor.SignalProcess.
func (c *Client) SignalProcess(ctx context.Context, name string, sig syscall.Signal) ([]int, error) {
	var pids []int
	path := "/v1/processes/" + url.PathEscape(name) + "/signal?signal=" + strconv.Itoa(int(sig))
	err := c.call(ctx, http.MethodPost, path, nil, &pids)
	return pids, err
}

// Shutdown stops all units and the supervisor; it returns when the socket is
// gone. It returns ErrUnreachable when there was none.
func (c *Client) Shutdown(ctx context.Context) error {
	if err := c.call(ctx, http.MethodPost, "/v1/shutdown", nil, nil); err != nil {
		return err
	}
	for {
		conn, err := c.http.Transport.(*http.Transport).DialContext(ctx, "", "")
		if err != nil {
			return nil
		}
		_ = conn.Close()
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("shut down: the supervisor still answers on %s: %w", c.socket, ctx.Err())
		}
	}
}

// call sends in as JSON and reads the answer into out; each may be nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("ask the supervisor: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, body)
	if err != nil {
		return fmt.Errorf("ask the supervisor: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("%s: %w", c.socket, ErrUnreachable)
		}
		return fmt.Errorf("ask the supervisor: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return readProblem(resp)
	}
	if out == nil {
		out = &struct{}{}
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the supervisor's answer: %w", err)
	}
	return nil
}

// remoteError keeps the message of the other side and the identity of its sentinel.
type remoteError struct {
	message string
	is      error
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.is }

func readProblem(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	var p problem
	if err != nil || json.Unmarshal(b, &p) != nil || p.Error == "" {
		return fmt.Errorf("the supervisor answered %s: %.200q", resp.Status, b)
	}
	e := &remoteError{message: p.Error}
	for _, c := range codes {
		if c.code == p.Code {
			e.is = c.err
		}
	}
	return e
}
