package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// RuntimeWatchdogFile is where the drop-in of RenderRuntimeWatchdog belongs; systemd
// reads it at boot and by daemon-reexec.
const RuntimeWatchdogFile = "/etc/systemd/system.conf.d/50-hactl-watchdog.conf"

// The hardware watchdog's times: a host whose systemd hangs for RuntimeWatchdog is
// reset, and a shutdown that takes longer than RebootWatchdog too.
const (
	RuntimeWatchdog = 30 * time.Second
	RebootWatchdog  = 5 * time.Minute
)

// HasHardwareWatchdog reports whether the host has a watchdog device at the usual
// place, /dev/watchdog0 or /dev/watchdog.
func HasHardwareWatchdog() (bool, error) { return hasDevice("/dev/watchdog0", "/dev/watchdog") }

func hasDevice(paths ...string) (bool, error) {
	for _, p := range paths {
		fi, err := os.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return false, fmt.Errorf("look for a hardware watchdog: %w", err)
		case fi.Mode()&fs.ModeCharDevice != 0:
			return true, nil
		}
	}
	return false, nil
}

// RenderRuntimeWatchdog returns the drop-in that has systemd ping the hardware
// watchdog. Install it only where HasHardwareWatchdog: elsewhere systemd complains.
func RenderRuntimeWatchdog() []byte {
	return fmt.Appendf(nil, "# Rendered by hactl; changes are lost.\n\n[Manager]\nRuntimeWatchdogSec=%s\nRebootWatchdogSec=%s\n",
		seconds(RuntimeWatchdog), seconds(RebootWatchdog))
}

// Reboot asks systemd to shut the host down in order and start it again. It
// returns when that has begun.
func (m *Manager) Reboot(ctx context.Context) error {
	conn, err := m.bus(ctx)
	if err != nil {
		return err
	}
	if _, err := conn.StartUnitContext(ctx, "reboot.target", "replace-irreversibly", nil); err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return nil
}
