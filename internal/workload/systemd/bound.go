package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/workload"
)

// BindConfig is a unit that may run only while somebody permits it.
type BindConfig struct {
	Unit string // with or without ".service"
	// StopTimeout is what the unit's own stop may take before systemd kills what
	// is left of it. Default 10s.
	StopTimeout time.Duration
	Logger      *slog.Logger // nil: nothing is logged
}

// Bound is a foreign unit that runs only while its owner, this process, permits it.
//
// A drop-in in /run/systemd/system binds it: it can be started only while the
// permit, a file that the owner writes, is there (so an administrator, a
// dependency or a boot cannot start it); it never restarts by itself; and when the
// owner's own unit ends in whatever way, systemd stops it. Whether its stop hangs,
// End kills it.
type Bound struct {
	m       *Manager
	name    string // without ".service"
	own     string // the unit that this process belongs to; empty: none
	timeout time.Duration
	target  Target
	log     *slog.Logger
}

// Target is what End needs to know of a unit; it can be handed to another process.
type Target struct {
	Unit  string `json:"unit"`  // without ".service"
	Group string `json:"group"` // its control group, relative to the root of the hierarchy
	File  string `json:"file"`  // the permit
}

// The folders of permits and of drop-ins. Both are empty after a boot.
const (
	permitDir = "/run/podmaster"
	dropInDir = "/run/systemd/system"
	// dropInName sorts behind the user's own drop-ins, which it must outdo.
	dropInName = "zz-podmaster.conf"
)

// ErrEnabled is returned for a unit that systemd starts by itself at a boot, when
// nobody has permitted it yet.
var ErrEnabled = errors.New("is enabled: it would be started at every boot without the lock")

// NewBound checks that the unit exists and is one that can be bound. It changes
// nothing: Bind does.
func NewBound(ctx context.Context, cfg BindConfig) (*Bound, error) {
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = logging.Discard()
	}
	b := &Bound{name: strings.TrimSuffix(cfg.Unit, ".service"), timeout: cfg.StopTimeout, log: cfg.Logger}
	if !unitName.MatchString(b.name) || slices.Contains([]string{".socket", ".timer", ".target", ".mount", ".scope", ".slice", ".path"}, filepath.Ext(b.name)) {
		return nil, fmt.Errorf("unit %q: want NAME.service", cfg.Unit)
	}
	var err error
	if b.m, err = New(Config{Units: []string{b.name}, Logger: cfg.Logger}); err != nil {
		return nil, err
	}
	if err := b.check(ctx); err != nil {
		b.m.Close()
		return nil, err
	}
	return b, nil
}

// Close ends the connection to systemd.
func (b *Bound) Close() { b.m.Close() }

// check looks at the unit as it is installed.
func (b *Bound) check(ctx context.Context) error {
	conn, err := b.m.bus(ctx)
	if err != nil {
		return err
	}
	props, err := conn.GetAllPropertiesContext(ctx, FileName(b.name))
	if err != nil {
		return fmt.Errorf("ask for %s: %w", b.name, err)
	}
	str := func(k string) string { s, _ := props[k].(string); return s }
	switch load := str("LoadState"); {
	case load == "not-found":
		return fmt.Errorf("%s: %w", FileName(b.name), workload.ErrNoUnit)
	case load != "loaded":
		return fmt.Errorf("%s is %s: see systemctl status %s", FileName(b.name), load, FileName(b.name))
	case str("UnitFileState") == "enabled", str("UnitFileState") == "enabled-runtime":
		return fmt.Errorf("%s %w", FileName(b.name), ErrEnabled)
	}
	own, err := conn.GetUnitNameByPID(ctx, uint32(os.Getpid()))
	if err == nil && strings.HasSuffix(own, ".service") {
		b.own = own
	}
	if b.own == FileName(b.name) {
		return fmt.Errorf("%s is the unit of this very process", b.own)
	}
	b.target = Target{Unit: b.name, Group: groupOf(str("Slice"), FileName(b.name)), File: filepath.Join(permitDir, FileName(b.name))}
	return nil
}

// groupOf is the control group of a unit in a slice: "a-b.slice" lies in "a.slice".
func groupOf(slice, unit string) string {
	path := "/"
	name := strings.TrimSuffix(slice, ".slice")
	if name == "-" {
		name = ""
	}
	parts := strings.Split(name, "-")
	for i := range parts {
		if name != "" {
			path = filepath.Join(path, strings.Join(parts[:i+1], "-")+".slice")
		}
	}
	return filepath.Join(path, unit)
}

// Own is the unit that this process belongs to, to which Bind binds; empty when it
// is none that systemd would restart, such as a login session.
func (b *Bound) Own() string { return b.own }

// Target is what End needs.
func (b *Bound) Target() Target { return b.target }

// Bind writes the drop-in and loads it. It stays until the next boot: a unit that
// lost its owner must not be started without one.
func (b *Bound) Bind(ctx context.Context) error {
	conn, err := b.m.bus(ctx)
	if err != nil {
		return err
	}
	props, err := conn.GetAllPropertiesContext(ctx, FileName(b.name))
	if err != nil {
		return fmt.Errorf("ask for %s: %w", b.name, err)
	}
	mode, _ := props["KillMode"].(string)
	file := dropInPath(b.name)
	text := dropIn(b.target, b.own, mode, b.timeout)
	if have, err := os.ReadFile(file); err == nil && string(have) == text {
		if again, _ := props["NeedDaemonReload"].(bool); !again {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("bind %s: %w", b.name, err)
	}
	if err := atomicfile.Write(file, []byte(text), 0o644); err != nil {
		return fmt.Errorf("bind %s: %w", b.name, err)
	}
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("bind %s: reload systemd: %w", b.name, err)
	}
	return nil
}

func dropInPath(unit string) string { return filepath.Join(dropInDir, FileName(unit)+".d", dropInName) }

// dropIn binds a unit to its owner. A kill mode that leaves processes alive would
// leave some beyond the term; systemd's other two differ only in politeness.
func dropIn(t Target, own, killMode string, timeout time.Duration) string {
	var s strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	line("# podmaster's: this unit runs only while podmaster holds the lock. To take the unit back: stop")
	line("# podmaster, remove this file, systemctl daemon-reload.")
	line("[Unit]")
	if own != "" {
		// Without After=: both get their stop at once, and podmaster awaits the unit's.
		line("BindsTo=%s", own)
	}
	line("AssertPathExists=%s", t.File)
	line("StartLimitIntervalSec=0")
	line("[Service]")
	line("EnvironmentFile=%s", t.File)
	line("Restart=no")
	if killMode != "mixed" && killMode != "control-group" {
		killMode = "control-group"
	}
	line("KillMode=%s", killMode)
	line("SendSIGKILL=yes")
	line("TimeoutStopSec=%s", seconds(timeout))
	line("TimeoutStopFailureMode=kill")
	return s.String()
}

// Permit lets the unit be started, by anybody, with env (KEY=value) added to its
// environment.
func (t Target) Permit(env []string) error {
	var text strings.Builder
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		if strings.ContainsAny(v, "\n\x00") {
			return fmt.Errorf("permit %s: %s has a line break", t.Unit, k)
		}
		fmt.Fprintf(&text, "%s=\"%s\"\n", k, strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", "$", `\$`).Replace(v))
	}
	if err := os.MkdirAll(filepath.Dir(t.File), 0o700); err != nil {
		return fmt.Errorf("permit %s: %w", t.Unit, err)
	}
	if err := atomicfile.Write(t.File, []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("permit %s: %w", t.Unit, err)
	}
	return nil
}

// Start starts the unit, and returns when systemd knows how that went. Without a
// permit it fails. A queued stop of the unit or of its owner is not overruled.
func (b *Bound) Start(ctx context.Context) error {
	return b.m.job(ctx, "start", b.name, func(c *dbus.Conn, ch chan<- string) error {
		_, err := c.StartUnitContext(ctx, FileName(b.name), "fail", ch)
		return err
	})
}

// Stop forbids the unit and stops it as it is meant to be stopped; it returns nil
// when nothing of it is left.
func (b *Bound) Stop(ctx context.Context) error {
	if err := b.target.Forbid(); err != nil {
		return err
	}
	if err := b.m.Stop(ctx, b.name); err != nil {
		return err
	}
	return b.target.gone(ctx, b.m)
}

// BoundState is how a bound unit is.
type BoundState struct {
	workload.State
	Ended  bool // it does not run, and no job of systemd's is under way for it
	OK     bool // when Ended: with success
	Code   int  // when Ended: its main process' exit status; -1: a signal, or none
	Signal syscall.Signal
}

// State asks systemd.
func (b *Bound) State(ctx context.Context) (BoundState, error) {
	conn, err := b.m.bus(ctx)
	if err != nil {
		return BoundState{}, err
	}
	props, err := conn.GetAllPropertiesContext(ctx, FileName(b.name))
	if err != nil {
		return BoundState{}, fmt.Errorf("ask for %s: %w", b.name, err)
	}
	return boundState(b.name, props), nil
}

func boundState(unit string, props map[string]any) BoundState {
	s := BoundState{State: stateOf(unit, props), Code: -1}
	s.Ended = s.Active == workload.Inactive || s.Active == workload.Failed
	result, _ := props["Result"].(string)
	s.OK = s.Ended && s.Active == workload.Inactive && result == "success"
	code, _ := props["ExecMainCode"].(int32)
	status, _ := props["ExecMainStatus"].(int32)
	switch code { // of waitid(2)
	case 1:
		s.Code = int(status)
	case 2, 3:
		s.Signal = syscall.Signal(status)
	}
	return s
}

// Forbid takes the permit away: from now on nobody can start the unit.
func (t Target) Forbid() error {
	if err := os.Remove(t.File); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forbid %s: %w", t.Unit, err)
	}
	return nil
}
