package systemd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// Run follows systemd's signals until ctx ends, so that Units need not ask, and
// LastExit is known after a restart too. Without it the Manager works, asks each
// time, and forgets that.
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
	busName         = "org.freedesktop.systemd1"
	managerIface    = "org.freedesktop.systemd1.Manager"
	managerPath     = godbus.ObjectPath("/org/freedesktop/systemd1")
	unitPath        = "/org/freedesktop/systemd1/unit/"
	serviceIface    = "org.freedesktop.systemd1.Service"
	propertiesIface = "org.freedesktop.DBus.Properties"
)

// subscribe connects and makes systemd send the changes of the units at paths, and
// whatever else the matches say.
func subscribe(ctx context.Context, paths []godbus.ObjectPath, matches ...[]godbus.MatchOption) (*godbus.Conn, <-chan *godbus.Signal, error) {
	conn, err := godbus.ConnectSystemBus(godbus.WithContext(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNoSystemd, err)
	}
	signals := make(chan *godbus.Signal, 256)
	conn.Signal(signals)
	for _, p := range paths {
		matches = append(matches, []godbus.MatchOption{
			godbus.WithMatchInterface(propertiesIface), godbus.WithMatchMember("PropertiesChanged"), godbus.WithMatchObjectPath(p),
		})
	}
	for _, match := range matches {
		if err := conn.AddMatchSignalContext(ctx, match...); err != nil {
			_ = conn.Close()
			return nil, nil, fmt.Errorf("match signals: %w", err)
		}
	}
	if err := conn.Object(busName, managerPath).CallWithContext(ctx, managerIface+".Subscribe", 0).Err; err != nil {
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
	conn, signals, err := subscribe(ctx, []godbus.ObjectPath{path})
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

// follow records what changes until the connection or ctx ends.
func (m *Manager) follow(ctx context.Context) error {
	paths := make(map[godbus.ObjectPath]string, len(m.units))
	for _, u := range m.units {
		paths[godbus.ObjectPath(unitPath+dbus.PathBusEscape(FileName(u)))] = u
	}
	conn, signals, err := subscribe(ctx, slices.Collect(maps.Keys(paths)),
		[]godbus.MatchOption{godbus.WithMatchInterface(managerIface), godbus.WithMatchMember("Reloading")},
		[]godbus.MatchOption{godbus.WithMatchInterface("org.freedesktop.DBus"), godbus.WithMatchMember("NameOwnerChanged"), godbus.WithMatchArg(0, busName)})
	if err != nil {
		return err
	}
	defer conn.Close()
	m.following(true)
	defer m.following(false)
	for {
		select {
		case <-ctx.Done():
			return nil
		case s, ok := <-signals:
			if !ok {
				return ErrNoSystemd
			}
			m.heard(s, paths)
		}
	}
}

// heard takes one signal.
func (m *Manager) heard(s *godbus.Signal, paths map[godbus.ObjectPath]string) {
	unit, ours := paths[s.Path]
	if !ours { // systemd itself: whatever we knew may have changed
		m.following(true)
		return
	}
	if _, exit := exitIn(s, paths); exit != "" {
		m.mu.Lock()
		m.last[unit] = exit
		m.mu.Unlock()
	}
	m.touched(unit)
}

// Changed returns a channel that is closed when a unit changed, or may have. Only
// while Run follows the signals is it ever closed.
func (m *Manager) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// touched forgets what is known of a unit.
func (m *Manager) touched(unit string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known.forget(unit)
	close(m.changed)
	m.changed = make(chan struct{})
}

// following says that signals come from now on, or none any more.
func (m *Manager) following(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known.follow(on)
	close(m.changed)
	m.changed = make(chan struct{})
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
