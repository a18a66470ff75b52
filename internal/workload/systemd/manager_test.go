package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/workloadtest"
)

var _ workload.Manager = (*Manager)(nil)

func TestStateOf(t *testing.T) {
	at := time.UnixMicro(1_800_000_000_000_000)
	for name, c := range map[string]struct {
		props map[string]any
		want  workload.State
	}{
		"active": {
			map[string]any{"ActiveState": "active", "StatusText": "serving", "MainPID": uint32(7), "NRestarts": uint32(2), "ActiveEnterTimestamp": uint64(at.UnixMicro()), "Result": "success"},
			workload.State{Active: "active", Status: "serving", MainPID: 7, Restarts: 2, Since: at},
		},
		"restarting": {
			map[string]any{"ActiveState": "activating", "SubState": "auto-restart", "StateChangeTimestamp": uint64(at.UnixMicro()), "Result": "signal", "ExecMainCode": int32(2), "ExecMainStatus": int32(9)},
			workload.State{Active: "activating", LastExit: "signal: killed", Since: at},
		},
		"failed":   {map[string]any{"ActiveState": "failed", "Result": "exit-code", "ExecMainCode": int32(1), "ExecMainStatus": int32(3)}, workload.State{Active: "failed", LastExit: "exit status 3"}},
		"stopping": {map[string]any{"ActiveState": "deactivating"}, workload.State{Active: "deactivating"}},
		"nothing":  {nil, workload.State{Active: "inactive"}},
		"nonsense": {map[string]any{"ActiveState": 3, "MainPID": "x", "ExecMainCode": "y"}, workload.State{Active: "inactive"}},
	} {
		c.want.Name = "u"
		if got := stateOf("u", c.props); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestLastExit(t *testing.T) {
	for _, c := range []struct {
		result       string
		code, status int32
		want         string
	}{
		{"success", 0, 0, ""},
		{"success", 1, 0, "exit status 0"},
		{"exit-code", 1, 7, "exit status 7"},
		{"signal", 2, 15, "signal: terminated"},
		{"core-dump", 3, 6, "signal: aborted"},
		{"watchdog", 2, 9, "watchdog"},
		{"timeout", 2, 9, "timeout: signal: killed"},
		{"oom-kill", 2, 9, "out of memory: signal: killed"},
	} {
		if got := lastExit(map[string]any{"Result": c.result, "ExecMainCode": c.code, "ExecMainStatus": c.status}); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestExitInSignals(t *testing.T) {
	paths := map[godbus.ObjectPath]string{"/u": "u"}
	changed := map[string]godbus.Variant{"ExecMainCode": godbus.MakeVariant(int32(1)), "ExecMainStatus": godbus.MakeVariant(int32(4)), "Result": godbus.MakeVariant("exit-code")}
	const name = "org.freedesktop.DBus.Properties.PropertiesChanged"
	for what, c := range map[string]struct {
		s    *godbus.Signal
		want string
	}{
		"ours":              {&godbus.Signal{Path: "/u", Name: name, Body: []any{serviceIface, changed}}, "u exit status 4"},
		"another unit":      {&godbus.Signal{Path: "/v", Name: name, Body: []any{serviceIface, changed}}, " "},
		"another interface": {&godbus.Signal{Path: "/u", Name: name, Body: []any{"org.freedesktop.systemd1.Unit", changed}}, " "},
		"another signal":    {&godbus.Signal{Path: "/u", Name: "x", Body: []any{serviceIface, changed}}, " "},
		"short":             {&godbus.Signal{Path: "/u", Name: name, Body: []any{serviceIface}}, " "},
		"strange":           {&godbus.Signal{Path: "/u", Name: name, Body: []any{1, 2}}, " "},
	} {
		unit, exit := exitIn(c.s, paths)
		if exit == "" {
			unit = ""
		}
		if got := unit + " " + exit; got != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}

func TestConnectIsBounded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	release := make(chan struct{})
	defer close(release)
	_, err := connect(ctx, func(context.Context) (*dbus.Conn, error) { <-release; return nil, errors.New("late") })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("connect = %v, want a deadline", err)
	}
}

func TestNewRefusesBadNames(t *testing.T) {
	if _, err := New(Config{Units: []string{"a", "../b"}}); err == nil || !strings.Contains(err.Error(), "../b") {
		t.Errorf("New = %v", err)
	}
}

// prefixed gives the units of one test names of their own on a shared host.
type prefixed struct {
	*Manager
	prefix string
}

func (p prefixed) Units(ctx context.Context) ([]workload.State, error) {
	states, err := p.Manager.Units(ctx)
	for i := range states {
		states[i].Name = strings.TrimPrefix(states[i].Name, p.prefix)
	}
	return states, err
}

func (p prefixed) Start(ctx context.Context, u string) error { return p.Manager.Start(ctx, p.prefix+u) }
func (p prefixed) Stop(ctx context.Context, u string) error  { return p.Manager.Stop(ctx, p.prefix+u) }
func (p prefixed) Restart(ctx context.Context, u string, force bool) error {
	return p.Manager.Restart(ctx, p.prefix+u, force)
}
func (p prefixed) Signal(ctx context.Context, u string, sig syscall.Signal) error {
	return p.Manager.Signal(ctx, p.prefix+u, sig)
}

// TestManagerIsAManager needs a host whose systemd it may fill with units, so it
// wants to be told that it is on one: HACTL_TEST_SYSTEMD=1.
func TestManagerIsAManager(t *testing.T) {
	if os.Getenv("HACTL_TEST_SYSTEMD") != "1" {
		t.Log("NOT CHECKED: the contract of workload.Manager on a real systemd; set HACTL_TEST_SYSTEMD=1 on a host of the lab")
		return
	}
	var tests atomic.Int32
	workloadtest.Run(t, func(t *testing.T, units []workload.Unit) workload.Manager {
		p := prefixed{prefix: fmt.Sprintf("hactltest-%d-%d-", os.Getpid(), tests.Add(1))}
		var names []string
		for _, u := range units {
			names = append(names, p.prefix+u.Name)
		}
		m, err := New(Config{Units: names, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		p.Manager = m
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = m.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done; m.Close() })
		install(t, m, p.prefix, units)
		return p
	})
}

// install writes, loads and starts the units, and takes them away in the end.
func install(t *testing.T, m *Manager, prefix string, units []workload.Unit) {
	t.Helper()
	conn, err := m.bus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	target := "[Unit]\n"
	for _, u := range units {
		u.Name = prefix + u.Name
		for i, a := range u.After {
			u.After = append([]string(nil), u.After...)
			u.After[i] = prefix + a
		}
		b, err := Render(u, Sandbox{ReadWrite: []string{filepath.Dir(u.LogFile)}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		f := filepath.Join("/run/systemd/system", FileName(u.Name))
		if err := os.WriteFile(f, b, 0o644); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
		target += "Wants=" + FileName(u.Name) + "\n"
	}
	f := filepath.Join("/run/systemd/system", prefix+"all.target")
	if err := os.WriteFile(f, []byte(target), 0o644); err != nil {
		t.Fatal(err)
	}
	files = append(files, f)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, u := range units {
			_ = conn.KillUnitWithTarget(ctx, FileName(prefix+u.Name), dbus.All, int32(syscall.SIGKILL))
			if err := m.Stop(ctx, prefix+u.Name); err != nil {
				t.Error(err)
			}
		}
		for _, f := range files {
			_ = os.Remove(f)
		}
		_ = conn.ReloadContext(ctx)
	})
	if err := conn.ReloadContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	// In one transaction, as at boot: After orders only what starts together.
	if _, err := conn.StartUnitContext(t.Context(), prefix+"all.target", "replace", nil); err != nil {
		t.Fatal(err)
	}
}
