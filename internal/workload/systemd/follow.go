package systemd

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// Run follows systemd's signals until ctx ends, so that LastExit is known after a
// restart too. Without it the Manager works, and forgets that.
func (m *Manager) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := m.follow(ctx); err != nil && ctx.Err() == nil {
			m.log.Warn("following systemd's signals", "err", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	return nil
}

const (
	managerPath     = godbus.ObjectPath("/org/freedesktop/systemd1")
	unitPath        = "/org/freedesktop/systemd1/unit/"
	serviceIface    = "org.freedesktop.systemd1.Service"
	propertiesIface = "org.freedesktop.DBus.Properties"
)

// follow records ends of main processes until the connection or ctx ends.
func (m *Manager) follow(ctx context.Context) error {
	conn, err := godbus.ConnectSystemBus(godbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoSystemd, err)
	}
	defer conn.Close()
	paths := make(map[godbus.ObjectPath]string, len(m.units))
	for _, u := range m.units {
		paths[godbus.ObjectPath(unitPath+dbus.PathBusEscape(FileName(u)))] = u
	}
	signals := make(chan *godbus.Signal, 256)
	conn.Signal(signals)
	if err := conn.AddMatchSignalContext(ctx, godbus.WithMatchInterface(propertiesIface), godbus.WithMatchMember("PropertiesChanged"),
		godbus.WithMatchPathNamespace("/org/freedesktop/systemd1/unit"), godbus.WithMatchArg(0, serviceIface)); err != nil {
		return fmt.Errorf("match signals: %w", err)
	}
	if err := conn.Object("org.freedesktop.systemd1", managerPath).CallWithContext(ctx, "org.freedesktop.systemd1.Manager.Subscribe", 0).Err; err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case s, ok := <-signals:
			if !ok {
				return ErrNoSystemd
			}
			if unit, exit := exitIn(s, paths); exit != "" {
				m.mu.Lock()
				m.last[unit] = exit
				m.mu.Unlock()
			}
		}
	}
}

// exitIn returns the unit whose main process ended, by this signal, and how.
func exitIn(s *godbus.Signal, paths map[godbus.ObjectPath]string) (unit, exit string) {
	unit, ok := paths[s.Path]
	if !ok || s.Name != propertiesIface+".PropertiesChanged" || len(s.Body) < 2 {
		return "", ""
	}
	iface, _ := s.Body[0].(string)
	changed, _ := s.Body[1].(map[string]godbus.Variant)
	if iface != serviceIface {
		return "", ""
	}
	props := make(map[string]any, len(changed))
	for k, v := range changed {
		props[k] = v.Value()
	}
	return unit, lastExit(props)
}
