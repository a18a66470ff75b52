package systemd

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/hactl/hactl/internal/workload"
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
