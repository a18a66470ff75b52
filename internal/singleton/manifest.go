package singleton

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/process"
	"github.com/hactl/hactl/internal/workload/systemd"
)

// The defaults of ManifestConfig.
const (
	DefaultManifestEvery     = 5 * time.Second
	DefaultManifestLockDelay = 30 * time.Second
)

// ManifestConfig is a file that lies at a place while the lock is held: a static
// pod's manifest in kubelet's folder.
type ManifestConfig struct {
	Source, Dest string
	// Every is the pause between two looks at Source, and at Dest. Default 5s.
	Every time.Duration
	// Stopped tells whether what the manifest started has stopped: nil when it
	// has. A removed manifest is not a stopped pod. Without it a stop is never
	// confirmed, and a successor waits for the lock delay.
	Stopped func(ctx context.Context) error
	// StopGrace is how long Stopped may take to say so when the term ends in
	// order; renewals go on meanwhile. Default 40s: a pod's grace is 30s unless its
	// manifest says otherwise.
	StopGrace time.Duration
	Health    *Health       // of the pod; failing, the term is handed over. nil: none
	StopTime  time.Duration // the lease's
	Guard     []string      // see ChildConfig
	// Systemd gives the guard a unit of its own, so that what freezes or kills ours
	// does not reach it. nil: the guard is our child.
	Systemd   *systemd.Manager
	UnitGuard []string // with Systemd: see UnitConfig.Guard
	Logger    *slog.Logger
	Events    Events
}

// Manifest installs and removes a file, as a lease's lead.
type Manifest struct{ cfg ManifestConfig }

// NewManifest checks cfg: a source that can be read, a folder that can be written.
func NewManifest(cfg ManifestConfig) (*Manifest, error) {
	if cfg.Source == "" || cfg.Dest == "" {
		return nil, errors.New("manifest: give both the source and the destination file")
	}
	src, err := filepath.Abs(cfg.Source)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	dst, err := filepath.Abs(cfg.Dest)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if src == dst {
		return nil, errors.New("manifest: source and destination are the same file")
	}
	if data, err := os.ReadFile(src); err != nil {
		return nil, fmt.Errorf("manifest: source: %w", err)
	} else if len(bytes.TrimSpace(data)) == 0 {
		return nil, fmt.Errorf("manifest: source %s: empty", src)
	}
	if err := writable(filepath.Dir(dst)); err != nil {
		return nil, fmt.Errorf("manifest: destination: %w", err)
	}
	setDefault(&cfg.Every, DefaultManifestEvery)
	setDefault(&cfg.StopGrace, 40*time.Second)
	setDefault(&cfg.StopTime, lease.DefaultStopTime)
	if cfg.Guard == nil {
		cfg.Guard = defaultGuard()
	}
	if cfg.UnitGuard == nil && cfg.Systemd != nil {
		self, err := systemd.Executable()
		if err != nil {
			return nil, err
		}
		cfg.UnitGuard = []string{self, UnitGuardArg}
	}
	if cfg.Logger == nil {
		cfg.Logger = logging.Discard()
	}
	cfg.Source, cfg.Dest = src, dst
	if dir := filepath.Dir(dst); !volatile(dir) {
		cfg.Logger.Warn("a power cut leaves the manifest, and kubelet starts its pod at the next boot before podmaster can take it away",
			"path", dst, "hint", "a staticPodPath below /run, and tmpfiles.d to make it")
	}
	return &Manifest{cfg: cfg}, nil
}

// volatile tells whether what is in dir goes with the power.
func volatile(dir string) bool {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return false
	}
	return fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC
}

// writable tries to make a file in dir. Its name begins with a dot: kubelet does
// not read such files.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".podmaster-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// Clean removes the file that an earlier podmaster left: whoever does not hold
// the lock must not have it. It returns lease.ErrUnconfirmed when what it started
// may still run.
func (m *Manifest) Clean(ctx context.Context) error { return m.remove(ctx) }

// Lead keeps the file in place for one term; see lease.Elector.Run. A guard
// removes it at the term's deadline, or when podmaster dies.
func (m *Manifest) Lead(ctx context.Context, term *lease.Term) error {
	margin := m.cfg.StopTime / 2
	deadline, _ := term.Deadline()
	g, err := m.guard(ctx, deadline-margin)
	if err != nil {
		return errors.Join(&lease.Yield{Reason: err.Error()}, err)
	}
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go g.follow(watch, term, margin)
	why := m.hold(ctx, watch, term, g)
	err = m.end(ctx, term)
	// The guard ends, and removes the file once more. One in a unit of its own that
	// hangs may remove a later term's file, which is then written again.
	if err := g.finish(m.cfg.StopTime / 4); err != nil {
		m.cfg.Logger.Warn("the guard of the manifest does not end", "err", err)
	}
	call(m.cfg.Events.Ended, why.Error())
	if err != nil || errors.Is(why, errStopped) {
		return err
	}
	return why
}

// guard starts the guard, in a unit of its own where that can be had.
func (m *Manifest) guard(ctx context.Context, deadline time.Duration) (*guarded, error) {
	first := guardOrder{Unlink: m.cfg.Dest}
	if m.cfg.Systemd != nil {
		g, err := armGuard(ctx, first, deadline, func(orders, reports *os.File) (*process.Process, error) {
			return nil, m.cfg.Systemd.StartHelper(ctx, systemd.Helper{
				Unit: "podmaster-guard-" + rand.Text()[:10], Text: "podmaster's guard of " + m.cfg.Dest,
				Exec: m.cfg.UnitGuard, Stdin: orders, Stdout: reports,
			})
		})
		if err == nil || ctx.Err() != nil {
			return g, err
		}
		m.cfg.Logger.Warn("the manifest's guard has no unit of its own: what freezes podmaster's freezes it too", "err", err)
	}
	return startGuarded(ctx, m.cfg.Guard, first, deadline, nil)
}

// hold installs and refreshes the file until there is a reason to stop.
func (m *Manifest) hold(ctx, watch context.Context, term *lease.Term, g *guarded) error {
	install := func() error {
		deadline, _ := term.Deadline()
		return m.install(deadline - m.cfg.StopTime/2)
	}
	if err := install(); err != nil {
		return &lease.Yield{Reason: err.Error()}
	}
	m.cfg.Logger.Info("the manifest is installed", "path", m.cfg.Dest)
	call(m.cfg.Events.Started, 0)
	sick := make(chan error, 1)
	if m.cfg.Health != nil {
		go m.cfg.Health.watch(watch, sick, m.cfg.Events.Health)
	}
	tick := time.NewTicker(m.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			// A source that cannot be read for a moment is no reason to stop what runs.
			if err := install(); err != nil {
				m.cfg.Logger.Warn("the manifest cannot be refreshed", "err", err)
			}
		case err := <-sick:
			return &lease.Yield{Reason: "unhealthy: " + err.Error()}
		case <-g.ended:
			return &lease.Yield{Reason: "the guard ended and took the manifest away"}
		case <-ctx.Done():
			return errStopped
		}
	}
}

var errStopped = errors.New("stopped")

// end removes the file and waits for the confirmation: long when there is time,
// until the term's end when there is none.
func (m *Manifest) end(ctx context.Context, term *lease.Term) error {
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.cfg.StopGrace)
	defer cancel()
	go func() {
		select {
		case <-term.Lost():
			// A quarter of the stop time: then the elector must have its answer.
			if sleep(wait, m.cfg.StopTime/4) {
				cancel()
			}
		case <-wait.Done():
		}
	}()
	return m.remove(wait)
}

// install writes the source's content to the destination if it is another one,
// unless it is later than until: whoever was frozen must not write it again when he
// goes on. Temporary file and rename, mode 0600: a manifest may hold secrets.
func (m *Manifest) install(until time.Duration) error {
	want, err := os.ReadFile(m.cfg.Source)
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	have, err := os.ReadFile(m.cfg.Dest)
	switch {
	case err == nil && bytes.Equal(have, want):
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read installed manifest: %w", err)
	}
	if (lease.Boottime{}).Now() >= until {
		return errors.New("install manifest: the term has ended")
	}
	if err := atomicfile.Write(m.cfg.Dest, want, 0o600); err != nil {
		return fmt.Errorf("install manifest: %w", err)
	}
	return nil
}

// remove takes the file away and waits until what it started has stopped.
func (m *Manifest) remove(ctx context.Context) error {
	err := os.Remove(m.cfg.Dest)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: remove manifest: %w", lease.ErrUnconfirmed, err)
	}
	if err := atomicfile.SyncDir(filepath.Dir(m.cfg.Dest)); err != nil {
		return fmt.Errorf("%w: remove manifest: %w", lease.ErrUnconfirmed, err)
	}
	if m.cfg.Stopped == nil {
		return fmt.Errorf("%w: no health URL tells when the pod has stopped", lease.ErrUnconfirmed)
	}
	for {
		err := m.cfg.Stopped(ctx)
		if err == nil {
			return nil
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return fmt.Errorf("%w: %w", lease.ErrUnconfirmed, err)
		}
	}
}
