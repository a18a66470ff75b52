package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/workload"
)

// UnitDir is where a machine's own unit files lie.
const UnitDir = "/etc/systemd/system"

// Installer puts unit files into systemd and starts and stops them. Unlike a
// Manager's, its names are whole: "hactl-lb.socket". It needs root.
type Installer struct {
	dir string
	m   *Manager
}

// NewInstaller returns an Installer of the files in dir (empty: UnitDir). It
// connects at the first call.
func NewInstaller(dir string, log *slog.Logger) (*Installer, error) {
	if dir == "" {
		dir = UnitDir
	}
	m, err := New(Config{Logger: log})
	if err != nil {
		return nil, err
	}
	return &Installer{dir: dir, m: m}, nil
}

// Close ends the connection to systemd; a later call opens a new one.
func (in *Installer) Close() { in.m.Close() }

// Version is systemd's main version, such as 252.
func (in *Installer) Version(ctx context.Context) (int, error) {
	conn, err := in.m.bus(ctx)
	if err != nil {
		return 0, err
	}
	text, err := conn.GetManagerProperty("Version")
	if err != nil {
		return 0, fmt.Errorf("ask for systemd's version: %w", err)
	}
	text = strings.Trim(text, `"`)
	digits := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if digits > 0 {
		text = text[:digits]
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("systemd's version %q: %w", text, err)
	}
	return n, nil
}

// Changed lists the files of want that are not there, or differ, by name.
func (in *Installer) Changed(want map[string][]byte) ([]string, error) {
	var changed []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		have, err := os.ReadFile(filepath.Join(in.dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err != nil || !bytes.Equal(have, want[name]) {
			changed = append(changed, name)
		}
	}
	return changed, nil
}

// rendered is how every file of ours begins.
const rendered = "Rendered by hactl; changes are lost."

// Rendered lists the unit files that were rendered by this package, by name.
func (in *Installer) Rendered() ([]string, error) {
	entries, err := os.ReadDir(in.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		text, err := os.ReadFile(filepath.Join(in.dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if bytes.HasPrefix(text, []byte("# "+rendered)) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Install writes the files that differ and lets systemd read them. It enables and
// starts nothing.
func (in *Installer) Install(ctx context.Context, want map[string][]byte) error {
	changed, err := in.Changed(want)
	if err != nil {
		return err
	}
	for _, name := range changed {
		if err := atomicfile.Write(filepath.Join(in.dir, name), want[name], 0o644); err != nil {
			return fmt.Errorf("install %s: %w", name, err)
		}
	}
	// Always: a run before may have been cut between writing and this.
	return in.reload(ctx)
}

// Enable lets the units start at boot. Systemd reads that at the next one.
func (in *Installer) Enable(ctx context.Context, names ...string) error {
	conn, err := in.m.bus(ctx)
	if err != nil {
		return err
	}
	if _, _, err := conn.EnableUnitFilesContext(ctx, names, false, true); err != nil {
		return fmt.Errorf("enable %s: %w", strings.Join(names, ", "), err)
	}
	return nil
}

// Disable keeps the units from starting at boot. Units that are not installed
// are none.
func (in *Installer) Disable(ctx context.Context, names ...string) error {
	conn, err := in.m.bus(ctx)
	if err != nil {
		return err
	}
	if _, err := conn.DisableUnitFilesContext(ctx, names, false); err != nil {
		return fmt.Errorf("disable %s: %w", strings.Join(names, ", "), err)
	}
	return nil
}

// Remove disables the units and deletes their files. They must be stopped.
func (in *Installer) Remove(ctx context.Context, names ...string) error {
	if err := in.Disable(ctx, names...); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(filepath.Join(in.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return in.reload(ctx)
}

func (in *Installer) reload(ctx context.Context) error {
	conn, err := in.m.bus(ctx)
	if err != nil {
		return err
	}
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("let systemd read its units: %w", err)
	}
	return nil
}

// Start starts a unit and returns when systemd knows the result: a service of
// Type=notify serves then.
func (in *Installer) Start(ctx context.Context, name string) error {
	return in.job(ctx, "start", name, (*dbus.Conn).StartUnitContext)
}

// Stop stops a unit and returns when it is stopped. One that is not installed is
// stopped.
func (in *Installer) Stop(ctx context.Context, name string) error {
	s, err := in.State(ctx, name)
	if errors.Is(err, workload.ErrNoUnit) || err == nil && s.Active == workload.Inactive {
		return nil
	}
	if err != nil {
		return err
	}
	if err := in.job(ctx, "stop", name, (*dbus.Conn).StopUnitContext); err != nil {
		return err
	}
	// It was to end. Whatever its process said then, a machine is not degraded for it.
	if s, err := in.State(ctx, name); err == nil && s.Active == workload.Failed {
		if conn, err := in.m.bus(ctx); err == nil {
			_ = conn.ResetFailedUnitContext(ctx, name)
		}
	}
	return nil
}

// Restart stops and starts a unit, and returns as Start does.
func (in *Installer) Restart(ctx context.Context, name string) error {
	return in.job(ctx, "restart", name, (*dbus.Conn).RestartUnitContext)
}

type queueFunc func(*dbus.Conn, context.Context, string, string, chan<- string) (int, error)

func (in *Installer) job(ctx context.Context, what, name string, queue queueFunc) error {
	conn, err := in.m.bus(ctx)
	if err != nil {
		return err
	}
	// A unit that is held as failed would not start; one that is not is no error.
	if s, err := in.State(ctx, name); err == nil && s.Active == workload.Failed {
		_ = conn.ResetFailedUnitContext(ctx, name)
	}
	result := make(chan string, 1)
	if _, err := queue(conn, ctx, name, "replace", result); err != nil {
		return fmt.Errorf("%s %s: %w", what, name, err)
	}
	for {
		select {
		case r := <-result:
			if r == "done" || r == "skipped" {
				return nil
			}
			return in.failed(ctx, what, name, r)
		case <-time.After(time.Second):
			if !conn.Connected() {
				return fmt.Errorf("%s %s: the result is not known: %w", what, name, ErrNoSystemd)
			}
		case <-ctx.Done():
			return fmt.Errorf("%s %s: no result yet: %w", what, name, ctx.Err())
		}
	}
}

func (in *Installer) failed(ctx context.Context, what, name, result string) error {
	why := "job " + result
	if s, err := in.State(ctx, name); err == nil && s.LastExit != "" {
		why += ", " + s.LastExit
	}
	return fmt.Errorf("%s %s: %s; see journalctl -u %s", what, name, why, name)
}

// State asks how a unit is; ErrNoUnit when it is not installed.
func (in *Installer) State(ctx context.Context, name string) (workload.State, error) {
	conn, err := in.m.bus(ctx)
	if err != nil {
		return workload.State{}, err
	}
	props, err := conn.GetAllPropertiesContext(ctx, name)
	if err != nil {
		return workload.State{}, fmt.Errorf("ask for %s: %w", name, err)
	}
	s := stateOf(name, props)
	if load, _ := props["LoadState"].(string); load == "not-found" || load == "masked" {
		return s, fmt.Errorf("%s: %w", name, workload.ErrNoUnit)
	}
	return s, nil
}

// RenderTarget returns a target that starts the units in one transaction, so
// that their order holds. It does not wait for them: a machine's boot must not
// hang on one that waits for other machines.
func RenderTarget(name, description string, units ...string) ([]byte, error) {
	r := &renderer{unit: name}
	if !unitName.MatchString(name) || len(units) == 0 {
		r.fault("not a unit's name, or without units")
	}
	r.comment(rendered)
	r.section("Unit")
	r.text("Description", description)
	r.comment("Started together, and not waited for.")
	r.set("DefaultDependencies", "no")
	r.set("Conflicts", "shutdown.target")
	r.set("Before", "shutdown.target")
	r.words("Wants", false, units...)
	r.section("Install")
	r.set("WantedBy", "multi-user.target")
	if err := errors.Join(r.errs...); err != nil {
		return nil, err
	}
	return r.out.Bytes(), nil
}
