package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/event"
	"github.com/hactl/hactl/internal/watchdog"
)

// dog remembers its orders.
type dog struct {
	orders []string
	paused bool
}

func (d *dog) Status() (watchdog.Status, <-chan struct{}) {
	return watchdog.Status{Paused: d.paused, Units: []watchdog.TargetStatus{{Unit: "kube-apiserver", PID: 7}}}, nil
}

func (d *dog) Pause(unit string, t time.Duration, by string) error {
	if unit == "nobody" {
		return fmt.Errorf("nobody: %w", watchdog.ErrNoTarget)
	}
	d.orders, d.paused = append(d.orders, fmt.Sprintf("pause %s %v %s", unit, t, by)), true
	return nil
}

func (d *dog) Resume(unit, by string) error {
	d.orders, d.paused = append(d.orders, fmt.Sprintf("resume %s %s", unit, by)), false
	return nil
}

func TestWatchdogIsSteered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	ln, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	d := &dog{}
	asked := event.Query{}
	start(t, Config{Local: ln, Node: node, Master: "m1", Watchdog: d, Events: func(_ context.Context, q event.Query) ([]event.Event, error) {
		asked = q
		return []event.Event{{Master: "m1", Unit: "u"}}, nil
	}})
	c, err := NewClient(ClientConfig{Socket: path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s, err := c.Watchdog(t.Context()); err != nil || s.Master != "m1" || s.Units[0].PID != 7 || s.Paused {
		t.Errorf("Watchdog = %+v, %v", s, err)
	}
	if s, err := c.PauseWatchdog(t.Context(), PauseOrder{Unit: "u", Seconds: 1.5, By: "me"}); err != nil || !s.Paused {
		t.Errorf("pause: %+v, %v", s, err)
	}
	if s, err := c.ResumeWatchdog(t.Context(), PauseOrder{By: "me"}); err != nil || s.Paused {
		t.Errorf("resume: %+v, %v", s, err)
	}
	if got := strings.Join(d.orders, "; "); got != "pause u 1.5s me; resume  me" {
		t.Errorf("orders: %s", got)
	}
	var e *Error
	if _, err := c.PauseWatchdog(t.Context(), PauseOrder{Unit: "nobody"}); !errors.As(err, &e) || e.Code != 404 {
		t.Errorf("an unknown unit: %v, want 404", err)
	}
	if _, err := c.PauseWatchdog(t.Context(), PauseOrder{Seconds: -1}); !errors.As(err, &e) || e.Code != 400 {
		t.Errorf("a negative time: %v, want 400", err)
	}
	at := time.Date(2026, 11, 22, 12, 0, 0, 5, time.UTC)
	if got, err := c.Events(t.Context(), event.Query{After: at, Unit: "podmaster@*", Limit: 3}); err != nil || len(got) != 1 || asked != (event.Query{After: at, Unit: "podmaster@*", Limit: 3}) {
		t.Errorf("events: %v, %v; asked for %+v", got, err, asked)
	}
	before := time.Now()
	if now, err := c.Time(t.Context()); err != nil || now.Before(before.Add(-time.Second)) || now.After(time.Now()) {
		t.Errorf("time %v, %v", now, err)
	}
	for _, r := range []struct {
		method, path, body string
		code               int
	}{
		{"GET", PathEvents + "?after=yesterday", "", 400},
		{"GET", PathEvents + "?limit=-1", "", 400},
		{"POST", PathWatchdogPause, "{", 400},
		{"POST", PathWatchdogPause, `{"untill":1}`, 400},
		{"POST", PathWatchdogPause, `{"forSeconds":1e300}`, 400},
		{"GET", PathWatchdogPause, "", 405},
		{"DELETE", PathEvents, "", 405},
	} {
		req, err := http.NewRequestWithContext(t.Context(), r.method, "http://agent"+r.path, strings.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != r.code {
			t.Errorf("%s %s %s: %d %s, want %d", r.method, r.path, r.body, resp.StatusCode, body, r.code)
		}
	}
	if len(d.orders) != 2 {
		t.Errorf("a refused order was obeyed: %v", d.orders)
	}
}
