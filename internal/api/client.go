package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/hactl/hactl/internal/status"
)

// maxAnswer bounds what a client reads: a node's report has some kilobytes.
const maxAnswer = 4 << 20

// ClientConfig says where an agent is. Either Socket or Address with TLS is given.
type ClientConfig struct {
	Address string      // host:port
	TLS     *tls.Config // see ClientTLS
	Socket  string      // path of the agent's unix socket
}

// Client asks one agent. Close it when done.
type Client struct {
	http *http.Client
	base string
}

// Error is an agent's refusal.
type Error struct {
	Code int    // HTTP status
	Text string // the agent's words
}

func (e *Error) Error() string { return fmt.Sprintf("the agent answered %d: %s", e.Code, e.Text) }

// NewClient connects to nothing yet.
func NewClient(cfg ClientConfig) (*Client, error) {
	var d net.Dialer
	t := &http.Transport{MaxResponseHeaderBytes: maxHeader, DisableCompression: true}
	switch {
	case cfg.Socket != "" && cfg.Address == "":
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", cfg.Socket)
		}
		return &Client{http: newHTTP(t), base: "http://agent"}, nil
	case cfg.Socket == "" && cfg.Address != "" && cfg.TLS != nil:
		t.DialContext = d.DialContext
		t.TLSClientConfig = cfg.TLS // without HTTP/2, whose client hides why a handshake failed
		return &Client{http: newHTTP(t), base: "https://" + cfg.Address}, nil
	default:
		return nil, errors.New("api: either Socket, or Address and TLS, is required")
	}
}

func newHTTP(t *http.Transport) *http.Client {
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("an agent redirects nobody") },
	}
}

// Node asks for the master's own report.
func (c *Client) Node(ctx context.Context) (*status.Node, error) {
	var n status.Node
	if err := c.get(ctx, PathNode, &n); err != nil {
		return nil, err
	}
	return &n, nil
}

// Status asks for the cluster's report as that master sees it.
func (c *Client) Status(ctx context.Context) (*status.Report, error) {
	var r status.Report
	if err := c.get(ctx, PathStatus, &r); err != nil {
		return nil, err
	}
	return &r, nil
}

// Close drops kept connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// get returns an *Error for an answer other than 200.
func (c *Client) get(ctx context.Context, path string, into any) error {
	return c.do(ctx, http.MethodGet, path, nil, into)
}

func (c *Client) do(ctx context.Context, method, path string, send io.Reader, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, send)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err // it has the URL
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if len(body) > maxAnswer {
		return fmt.Errorf("read %s: more than %d bytes", path, maxAnswer)
	}
	if resp.StatusCode != http.StatusOK {
		var p problem
		if json.Unmarshal(body, &p) != nil || p.Error == "" {
			p.Error = strings.TrimSpace(string(body[:min(len(body), 200)]))
		}
		return &Error{Code: resp.StatusCode, Text: p.Error}
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
