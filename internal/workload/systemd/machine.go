package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/hactl/hactl/internal/atomicfile"
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

// UseHardwareWatchdog has the host's hardware watchdog, where there is one, reset
// the host when systemd hangs: now, and from each boot on. Where somebody has set
// one up already, that is left as it is. It returns what it has done, for people;
// empty: nothing.
func (in *Installer) UseHardwareWatchdog(ctx context.Context) (string, error) {
	if has, err := HasHardwareWatchdog(); err != nil || !has {
		return "", err
	}
	conn, err := in.m.bus(ctx)
	if err != nil {
		return "", err
	}
	now, err := conn.GetManagerProperty("RuntimeWatchdogUSec")
	if err != nil {
		return "", fmt.Errorf("ask for systemd's watchdog: %w", err)
	}
	switch written, err := useWatchdog(RuntimeWatchdogFile, strings.TrimPrefix(now, "@t ") != "0"); {
	case err != nil:
		return "", err
	case !written:
		return "", nil
	}
	if err := setManagerProperty(ctx, "RuntimeWatchdogUSec", uint64(RuntimeWatchdog.Microseconds())); err != nil {
		return "the hardware watchdog resets this host when systemd hangs, from its next boot on", nil //nolint:nilerr // the file is what counts
	}
	return "the hardware watchdog resets this host when systemd hangs", nil
}

// useWatchdog writes the drop-in, unless it is there, or somebody else has a
// watchdog in use; it reports whether it did.
func useWatchdog(file string, inUse bool) (bool, error) {
	_, err := os.Stat(file)
	switch {
	case err == nil, inUse && errors.Is(err, fs.ErrNotExist):
		return false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	return true, atomicfile.MkdirWrite(file, RenderRuntimeWatchdog(), 0o644, 0o755)
}

// LeaveHardwareWatchdog removes what UseHardwareWatchdog wrote; what was set up
// without it stays.
func (in *Installer) LeaveHardwareWatchdog(ctx context.Context) error {
	err := os.Remove(RuntimeWatchdogFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_ = setManagerProperty(ctx, "RuntimeWatchdogUSec", uint64(0)) // else until the next boot
	return nil
}

// setManagerProperty sets a property of systemd itself, until it is restarted.
func setManagerProperty(ctx context.Context, name string, value any) error {
	bus, err := godbus.ConnectSystemBus(godbus.WithContext(ctx))
	if err != nil {
		return err
	}
	defer bus.Close()
	return bus.Object(busName, managerPath).SetProperty(managerIface+"."+name, godbus.MakeVariant(value))
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
