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

// subscribe connects and makes systemd send the changes of units; the match says
// of which.
func subscribe(ctx context.Context, match ...godbus.MatchOption) (*godbus.Conn, <-chan *godbus.Signal, error) {
	conn, err := godbus.ConnectSystemBus(godbus.WithContext(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNoSystemd, err)
	}
	signals := make(chan *godbus.Signal, 256)
	conn.Signal(signals)
	match = append(match, godbus.WithMatchInterface(propertiesIface), godbus.WithMatchMember("PropertiesChanged"))
	if err := conn.AddMatchSignalContext(ctx, match...); err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("match signals: %w", err)
	}
	if err := conn.Object("org.freedesktop.systemd1", managerPath).CallWithContext(ctx, "org.freedesktop.systemd1.Manager.Subscribe", 0).Err; err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("subscribe: %w", err)
	}
	return conn, signals, nil
}

// Watch sends to changed, without waiting, whenever the unit may have changed,
// until ctx or the connection ends. Look once after the first one, which says that
// nothing is missed from now on.
func (b *Bound) Watch(ctx context.Context, changed chan<- struct{}) error {
	path := godbus.ObjectPath(unitPath + dbus.PathBusEscape(FileName(b.name)))
	conn, signals, err := subscribe(ctx, godbus.WithMatchObjectPath(path))
	if err != nil {
		return err
	}
	defer conn.Close()
	for {
		select {
		case changed <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-signals:
			if !ok {
				return ErrNoSystemd
			}
		}
	}
}

// follow records ends of main processes until the connection or ctx ends.
func (m *Manager) follow(ctx context.Context) error {
	conn, signals, err := subscribe(ctx, godbus.WithMatchPathNamespace("/org/freedesktop/systemd1/unit"), godbus.WithMatchArg(0, serviceIface))
	if err != nil {
		return err
	}
	defer conn.Close()
	paths := make(map[godbus.ObjectPath]string, len(m.units))
	for _, u := range m.units {
		paths[godbus.ObjectPath(unitPath+dbus.PathBusEscape(FileName(u)))] = u
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
