//go:build systemd

package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/workloadtest"
)

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

// tests counts the managers of this process: no name of a unit comes twice.
var tests atomic.Int32

// TestManagerIsAManager fills the systemd that it runs under with units: compile
// it with -tags systemd and run it as root on a host of the lab.
func TestManagerIsAManager(t *testing.T) {
	workloadtest.Run(t, func(t *testing.T, units []workload.Unit) workload.Manager {
		p := prefixed{prefix: fmt.Sprintf("hactltest-%x-%d-", time.Now().UnixNano(), tests.Add(1))}
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

// install writes and starts the units, and takes them away in the end.
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
	})
	// No reload, neither here nor in the end: systemd finds names that it has not
	// met yet by itself, and a reload that meets another test's unit between two
	// of its processes makes systemd count that restart twice.
	// In one transaction, as at boot: After orders only what starts together.
	if _, err := conn.StartUnitContext(t.Context(), prefix+"all.target", "replace", nil); err != nil {
		t.Fatal(err)
	}
}
