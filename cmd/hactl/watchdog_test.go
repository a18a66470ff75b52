package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/api"
	"github.com/hactl/hactl/internal/event"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/internal/watchdog"
	"github.com/hactl/hactl/internal/workload"
)

// nobody is a supervisor without units' processes.
type nobody struct{}

func (nobody) Processes(context.Context) (map[string]watchdog.Process, error) { return nil, nil }
func (nobody) Restart(context.Context, string, bool) error                    { return workload.ErrNoUnit }

// watchedMaster serves the API of a real watchdog, at the socket and the network,
// and returns where its state is kept.
func watchedMaster(t *testing.T, l layout.Layout, address string) (port int, state string) {
	t.Helper()
	state = l.Under("/var/lib/hactl/watchdog.json")
	dog, err := watchdog.New(watchdog.Config{
		Supervisor: nobody{}, Targets: []watchdog.Target{{Unit: "kube-apiserver"}, {Unit: "hactl-lb"}}, StateFile: state,
		Decided: func(d watchdog.Decision) {
			if err := event.Append(l.EventsFile(), event.Event{Time: d.At, Master: "m1", Unit: "watchdog", Action: string(d.Action.Kind)}); err != nil {
				t.Error(err)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	conf, err := api.ServerTLS(l)
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	local, err := api.ListenUnix(l.AgentSocket())
	if err != nil {
		t.Fatal(err)
	}
	s, err := api.New(api.Config{
		Listener: tcp, TLS: conf, Local: local, Master: "m1", Watchdog: dog,
		Node:   func(context.Context) (*status.Node, error) { return &status.Node{Name: "m1"}, nil },
		Events: func(_ context.Context, q event.Query) ([]event.Event, error) { return event.Read(l.EventsFile(), q) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return tcp.Addr().(*net.TCPAddr).Port, state
}

func TestWatchdogCommands(t *testing.T) {
	const address = "127.203.4.9"
	l := masterRoot(t, address)
	port, state := watchedMaster(t, l, address)
	writeConfig(t, l, address, port)
	root := "--root=" + l.Root
	hactl := func(args ...string) string {
		t.Helper()
		out, err := run(t.Context(), args...)
		if err != nil {
			t.Fatalf("hactl %s: %v", strings.Join(args, " "), err)
		}
		return out
	}
	if out := hactl("watchdog", "status", root); !strings.Contains(out, "m1") || !strings.Contains(out, "kube-apiserver") || strings.Contains(out, "paused") {
		t.Errorf("status:\n%s", out)
	}
	if out := hactl("watchdog", "pause", root, "--dry-run", "--for", "1h", "--all"); out != "would pause the watchdog for 1h0m0s on m1\n" {
		t.Errorf("dry run: %q", out)
	}
	if out := hactl("watchdog", "pause", root, "--for", "1h", "--unit", "hactl-lb"); strings.Count(out, "paused by hactl on") != 1 || !strings.Contains(out, "until") {
		t.Errorf("pause of a unit:\n%s", out)
	}
	if out := hactl("watchdog", "pause", root, "--all"); strings.Count(out, "paused by hactl on") != 2 {
		t.Errorf("pause of all:\n%s", out)
	}
	var r watchdogReport
	if err := json.Unmarshal([]byte(hactl("watchdog", "status", root, "-o", "json")), &r); err != nil {
		t.Fatal(err)
	}
	if w := r.Watchdogs[0]; !w.Paused || w.Master != "m1" || len(w.Pauses) != 2 || w.Pauses["hactl-lb"].Until.IsZero() || !w.Pauses[""].Until.IsZero() {
		t.Errorf("json: %+v", w)
	}
	if b, err := os.ReadFile(state); err != nil || !strings.Contains(string(b), `"hactl-lb"`) {
		t.Errorf("the pause is not kept: %s, %v", b, err)
	}
	if out := hactl("watchdog", "resume", root); strings.Contains(out, "paused") {
		t.Errorf("resume:\n%s", out)
	}
	_, err := run(t.Context(), "watchdog", "pause", root, "--unit", "kube-apiservr")
	var coded *exitcode.Error
	if !errors.As(err, &coded) || coded.Code != exitcode.Usage || !strings.Contains(err.Error(), "kube-apiservr") {
		t.Errorf("a unit that is not watched: %v", err)
	}

	// Every order is an event.
	var events eventReport
	if err := json.Unmarshal([]byte(hactl("events", root, "-o", "json")), &events); err != nil {
		t.Fatal(err)
	}
	var actions []string
	for _, e := range events.Events {
		actions = append(actions, e.Action)
	}
	if got := strings.Join(actions, " "); got != "pause pause resume" || len(events.Unreachable) != 0 {
		t.Errorf("events: %s; %+v", got, events)
	}
	if out := hactl("events", root, "--unit", "other"); strings.Count(out, "\n") != 1 {
		t.Errorf("events of another unit:\n%s", out)
	}
	if out := hactl("events", root, "--since", time.Now().Add(time.Hour).Format(time.RFC3339)); strings.Count(out, "\n") != 1 {
		t.Errorf("events of the future:\n%s", out)
	}
	if _, err := run(t.Context(), "events", root, "--since", "yesterday"); !errors.As(err, &coded) || coded.Code != exitcode.Usage {
		t.Errorf("--since yesterday: %v", err)
	}
}

// With a dead agent an order fails, and the events are read from the file.
func TestWithoutAnAgent(t *testing.T) {
	const address = "127.203.4.10"
	l := masterRoot(t, address)
	writeConfig(t, l, address, 0)
	root := "--root=" + l.Root
	var coded *exitcode.Error
	for _, args := range [][]string{{"watchdog", "pause", root}, {"watchdog", "resume", root, "--all"}, {"watchdog", "status", root}} {
		if _, err := run(t.Context(), args...); !errors.As(err, &coded) || coded.Code != exitcode.Unreachable || !strings.Contains(fmt.Sprint(coded.Hint), "hactl-agent") {
			t.Errorf("%v: %v, want unreachable with a hint", args, err)
		}
	}
	if err := event.Append(l.EventsFile(), event.Event{Time: time.Now(), Master: "m1", Unit: "u", Action: "restart"}); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t.Context(), "events", root); err != nil || !strings.Contains(out, "restart") {
		t.Errorf("events: %q, %v", out, err)
	}
}

// -f shows what comes, once.
func TestEventsAreFollowed(t *testing.T) {
	const address = "127.203.4.11"
	l := masterRoot(t, address)
	writeConfig(t, l, address, 0)
	out := &syncBuffer{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	add := func(unit string) {
		if err := event.Append(l.EventsFile(), event.Event{Time: time.Now(), Master: "m1", Unit: unit, Action: "restart"}); err != nil {
			t.Fatal(err)
		}
	}
	add("first")
	done := make(chan error, 1)
	go func() {
		e := &env{stdin: strings.NewReader(""), stdout: out, stderr: &syncBuffer{}, getenv: os.Getenv}
		done <- newApp(e).RunContext(ctx, []string{"hactl", "events", "--root=" + l.Root, "-f", "-o", "json"})
	}()
	shows := func(want string) {
		t.Helper()
		testwait.For(t, "the events "+want, 20*time.Second, func() error {
			var units []string
			for line := range strings.Lines(out.String()) {
				var e event.Event
				if err := json.Unmarshal([]byte(line), &e); err != nil {
					return err
				}
				units = append(units, e.Unit)
			}
			if got := strings.Join(units, " "); got != want {
				return fmt.Errorf("shown: %q", got)
			}
			return nil
		})
	}
	shows("first")
	add("second")
	shows("first second")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
}

// syncBuffer is a buffer for two goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
