package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/hactl/hactl/internal/event"
	"github.com/hactl/hactl/internal/watchdog"
)

// More paths of the API.
const (
	PathEvents         = "/v1/events"
	PathTime           = "/v1/time"
	PathWatchdog       = "/v1/watchdog"
	PathWatchdogPause  = "/v1/watchdog/pause"
	PathWatchdogResume = "/v1/watchdog/resume"
)

// Watchdog is what the API needs of one.
type Watchdog interface {
	Status() (watchdog.Status, <-chan struct{})
	Pause(unit string, d time.Duration, by string) error
	Resume(unit, by string) error
}

// WatchdogStatus is a master's watchdog: the answer to GET /v1/watchdog.
type WatchdogStatus struct {
	Master string `json:"master"`
	watchdog.Status
}

// PauseOrder is the body of a POST to pause or resume a watchdog.
type PauseOrder struct {
	Unit    string  `json:"unit,omitempty"`       // empty: all of it
	Seconds float64 `json:"forSeconds,omitempty"` // 0: until resumed
	By      string  `json:"by,omitempty"`         // who orders it
}

// maxPause is the longest time that an order can name: an unlimited one is zero.
const maxPause = 10 * 365 * 24 * time.Hour

// clock is the answer to GET /v1/time.
type clock struct {
	Time time.Time `json:"time"`
}

func (s *Server) moreRoutes() {
	s.mux.HandleFunc("GET "+PathTime, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, clock{time.Now()})
	})
	if s.cfg.Events != nil {
		s.mux.HandleFunc("GET "+PathEvents, s.events)
	}
	if s.cfg.Watchdog == nil {
		return
	}
	s.mux.Handle("GET "+PathWatchdog, answer(s, func(context.Context) (WatchdogStatus, error) { return s.watchdog(), nil }))
	s.mux.HandleFunc("POST "+PathWatchdogPause, s.order(func(o PauseOrder) error {
		return s.cfg.Watchdog.Pause(o.Unit, time.Duration(o.Seconds*float64(time.Second)), o.By)
	}))
	s.mux.HandleFunc("POST "+PathWatchdogResume, s.order(func(o PauseOrder) error { return s.cfg.Watchdog.Resume(o.Unit, o.By) }))
}

func (s *Server) watchdog() WatchdogStatus {
	st, _ := s.cfg.Watchdog.Status()
	return WatchdogStatus{Master: s.cfg.Master, Status: st}
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	var q event.Query
	form := r.URL.Query()
	if after := form.Get("after"); after != "" {
		t, err := time.Parse(time.RFC3339Nano, after)
		if err != nil {
			writeError(w, http.StatusBadRequest, fmt.Sprintf("after: %q is no time", after))
			return
		}
		q.After = t
	}
	if limit := form.Get("limit"); limit != "" {
		n, err := strconv.Atoi(limit)
		if err != nil || n < 0 {
			writeError(w, http.StatusBadRequest, fmt.Sprintf("limit: %q is no number", limit))
			return
		}
		q.Limit = n
	}
	q.Unit = form.Get("unit")
	answer(s, func(ctx context.Context) ([]event.Event, error) { return s.cfg.Events(ctx, q) }).ServeHTTP(w, r)
}

// order reads a PauseOrder and answers with the watchdog's status after it.
func (s *Server) order(do func(PauseOrder) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var o PauseOrder
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		if err := d.Decode(&o); err != nil {
			writeError(w, http.StatusBadRequest, "the order cannot be read: "+err.Error())
			return
		}
		if o.Seconds < 0 || o.Seconds > maxPause.Seconds() || len(o.By) > 200 {
			writeError(w, http.StatusBadRequest, "the order's time or name is out of range")
			return
		}
		switch err := do(o); {
		case errors.Is(err, watchdog.ErrNoTarget):
			writeError(w, http.StatusNotFound, err.Error())
		case err != nil:
			writeError(w, http.StatusInternalServerError, err.Error())
		default:
			writeJSON(w, http.StatusOK, s.watchdog())
		}
	}
}

// Events asks for what was decided and done on that master.
func (c *Client) Events(ctx context.Context, q event.Query) ([]event.Event, error) {
	form := url.Values{}
	if !q.After.IsZero() {
		form.Set("after", q.After.Format(time.RFC3339Nano))
	}
	if q.Unit != "" {
		form.Set("unit", q.Unit)
	}
	if q.Limit > 0 {
		form.Set("limit", strconv.Itoa(q.Limit))
	}
	var events []event.Event
	err := c.get(ctx, PathEvents+"?"+form.Encode(), &events)
	return events, err
}

// Time asks for the master's clock.
func (c *Client) Time(ctx context.Context) (time.Time, error) {
	var t clock
	err := c.get(ctx, PathTime, &t)
	return t.Time, err
}

// Watchdog asks for the state of that master's watchdog.
func (c *Client) Watchdog(ctx context.Context) (*WatchdogStatus, error) {
	var s WatchdogStatus
	if err := c.get(ctx, PathWatchdog, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// PauseWatchdog pauses it and returns its state then.
func (c *Client) PauseWatchdog(ctx context.Context, o PauseOrder) (*WatchdogStatus, error) {
	return c.order(ctx, PathWatchdogPause, o)
}

// ResumeWatchdog ends a pause and returns the watchdog's state then.
func (c *Client) ResumeWatchdog(ctx context.Context, o PauseOrder) (*WatchdogStatus, error) {
	return c.order(ctx, PathWatchdogResume, o)
}

func (c *Client) order(ctx context.Context, path string, o PauseOrder) (*WatchdogStatus, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("order %s: %w", path, err)
	}
	var s WatchdogStatus
	if err := c.do(ctx, http.MethodPost, path, bytes.NewReader(body), &s); err != nil {
		return nil, err
	}
	return &s, nil
}
