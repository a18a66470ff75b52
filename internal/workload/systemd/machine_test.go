package systemd

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRuntimeWatchdog(t *testing.T) {
	want := "# Rendered by hactl; changes are lost.\n\n[Manager]\nRuntimeWatchdogSec=30\nRebootWatchdogSec=300\n"
	if got := string(RenderRuntimeWatchdog()); got != want {
		t.Errorf("drop-in:\n%s\nwant:\n%s", got, want)
	}
}

func TestTheWatchdogInUseIsLeftAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "system.conf.d", "50-hactl-watchdog.conf")
	for i, c := range []struct{ inUse, written bool }{
		{true, false}, // somebody else's
		{false, true},
		{true, false}, // ours
		{false, false},
	} {
		written, err := useWatchdog(file, c.inUse)
		if _, stat := os.Stat(file); err != nil || written != c.written || (stat == nil) != (i > 0) {
			t.Errorf("%d: %v, %v, %v; want %v", i, written, err, stat, c.written)
		}
	}
}

func TestHasDevice(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "watchdog")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"/dev/null": true, plain: false, "/dev/no-such-device": false} {
		if got, err := hasDevice("/nowhere", path); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", path, got, err, want)
		}
	}
}
