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

// What -o json prints is a contract (docs/watchdog.md).
func TestWatchdogJSON(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 11, 22, 12, 0, s, 0, time.UTC) }
	hung := watchdog.Action{Kind: watchdog.Restart, Reason: watchdog.NoAnswer, Detail: "3 of 3"}
	paused := watchdog.Pause{Since: at(1), Until: at(31), By: "root@m1"}
	r := watchdogReport{
		Watchdogs: []*api.WatchdogStatus{
			{Master: "m1", Status: watchdog.Status{
				Pauses: map[string]watchdog.Pause{"hactl-lb": paused},
				Units: []watchdog.TargetStatus{
					{Unit: "kube-apiserver", Action: hung, Since: at(9), PID: 812, Fails: 3, LastError: "context deadline exceeded", Restarts: []time.Time{at(2)}},
					{Unit: "hactl-lb", Action: watchdog.Action{Kind: watchdog.None, Reason: watchdog.Healthy}, Since: at(0), PID: 700, Paused: true},
				},
				Sick: map[string]string{"etcd": "no linearizable read works"},
				Decisions: []watchdog.Decision{
					{At: at(9), Unit: "kube-apiserver", Action: hung, Error: "context deadline exceeded"},
					{At: at(12), Unit: "kube-apiserver", Action: hung, Done: true, Took: 3 * time.Second},
				},
				Notices: []watchdog.NoticeStatus{{Name: "disk:/var/lib/hactl", Reason: watchdog.DiskLow, Detail: "3 % free", Since: at(4)}},
			}},
			{Master: "m2", Status: watchdog.Status{
				Paused: true, Pauses: map[string]watchdog.Pause{"": {Since: at(5), By: "root@m1"}},
				Units: []watchdog.TargetStatus{{Unit: "hactl-etcd", Action: watchdog.Action{Kind: watchdog.Hold, Reason: watchdog.Crashing, Detail: "5 ends within 4s"}, Since: at(6), Paused: true}},
			}},
		},
		Unreachable: []silentAgent{{Master: "m3", Error: "connection refused"}},
	}
	var out strings.Builder
	if err := printWatchdogs(&out, r, "json", at(20)); err != nil {
		t.Fatal(err)
	}
	sameAsFile(t, "testdata/watchdog-status.json", out.String())
}

func TestEventsJSON(t *testing.T) {
	const address = "127.203.4.12"
	l := masterRoot(t, address)
	writeConfig(t, l, address, 0)
	at := time.Date(2026, 11, 22, 12, 0, 9, 123456789, time.UTC)
	if err := event.Append(l.EventsFile(),
		event.Event{Time: at, Master: "m1", Source: "watchdog", Unit: "kube-apiserver", Action: "restart", Reason: "no answer", Detail: "3 of 3: context deadline exceeded", Result: "begun"},
		event.Event{Time: at.Add(3 * time.Second), Master: "m1", Source: "watchdog", Unit: "kube-apiserver", Action: "restart", Reason: "no answer", Detail: "3 of 3", Result: "ok", Took: 2.75},
		event.Event{Time: at.Add(time.Minute), Master: "m1", Source: "supervisor", Unit: "hactl-lb", Action: "ended", Reason: "signal: killed"},
	); err != nil {
		t.Fatal(err)
	}
	out, err := run(t.Context(), "events", "--root="+l.Root, "--since", "all", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	sameAsFile(t, "testdata/events.json", out)
}

func sameAsFile(t *testing.T, file, got string) {
	t.Helper()
	want, err := os.ReadFile(file)
	if err != nil || got != string(want) {
		t.Errorf("%s: %v: got\n%s\nwant\n%s", file, err, got, want)
	}
}
