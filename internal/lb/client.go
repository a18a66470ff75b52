package lb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Client talks to a balancer's admin socket.
type Client struct {
	path string
	http *http.Client
}

// NewClient makes a client of the admin socket at path. It connects to nothing yet.
func NewClient(path string) *Client {
	return &Client{path: path, http: &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", path)
			},
		},
	}}
}

// Status asks how the balancer stands.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/status", &s)
	return s, err
}

// Drain has nothing new sent to a backend, given by name or address. It returns
// ErrNoBackend when there is none.
func (c *Client) Drain(ctx context.Context, backend string) error {
	return c.call(ctx, http.MethodPost, "/v1/drain?backend="+url.QueryEscape(backend), nil)
}

// DrainSafely is Drain that returns ErrLastBackend when no other backend would be usable.
func (c *Client) DrainSafely(ctx context.Context, backend string) error {
	return c.call(ctx, http.MethodPost, "/v1/drain?safely=true&backend="+url.QueryEscape(backend), nil)
}

// Undrain takes Drain back.
func (c *Client) Undrain(ctx context.Context, backend string) error {
	return c.call(ctx, http.MethodPost, "/v1/undrain?backend="+url.QueryEscape(backend), nil)
}

// Suspect has a backend probed at once.
func (c *Client) Suspect(ctx context.Context, backend string) error {
	return c.call(ctx, http.MethodPost, "/v1/suspect?backend="+url.QueryEscape(backend), nil)
}

func (c *Client) call(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://lb"+path, nil)
	if err != nil {
		return fmt.Errorf("balancer at %s: %w", c.path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return fmt.Errorf("balancer at %s: %w", c.path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var e adminError
		_ = json.NewDecoder(resp.Body).Decode(&e)
		for code, known := range map[int]error{
			http.StatusNotFound: ErrNoBackend, http.StatusConflict: ErrLastBackend, http.StatusServiceUnavailable: ErrHandingOver,
		} {
			if resp.StatusCode == code && e.Error != "" {
				return fmt.Errorf("balancer at %s: %w", c.path, known)
			}
		}
		return fmt.Errorf("balancer at %s: %s %s", c.path, resp.Status, e.Error)
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("balancer at %s: read its answer: %w", c.path, err)
	}
	return nil
}
