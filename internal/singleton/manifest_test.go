package singleton

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/leasetest"
	"github.com/hactl/hactl/internal/testwait"
)

// set is a manifest on a lock in memory. The pod of its test "runs" while the file
// is there, and for as long as slow is set.
type set struct {
	t        *testing.T
	src, dst string
	mem      leasetest.Memory
	slow     atomic.Bool
	cancel   context.CancelFunc
	res      chan error
}

func newSet(t *testing.T, edit func(*ManifestConfig)) *set {
	t.Helper()
	dir := t.TempDir()
	s := &set{t: t, src: filepath.Join(dir, "src.yaml"), dst: filepath.Join(dir, "dst.yaml"), res: make(chan error, 1)}
	s.write("one")
	cfg := ManifestConfig{
		Source: s.src, Dest: s.dst, Every: 10 * time.Millisecond, Guard: []string{os.Args[0], GuardArg},
		Stopped: func(context.Context) error {
			if s.slow.Load() {
				return errors.New("the pod still runs")
			}
			return nil
		},
	}
	if edit != nil {
		edit(&cfg)
	}
	m, err := NewManifest(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e, err := lease.New(lease.Config{Lock: &s.mem, Holder: "m1", LockDelay: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.res <- e.Run(ctx, m.Lead)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func (s *set) write(text string) {
	s.t.Helper()
	if err := os.WriteFile(s.src, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// want waits until the destination holds text; empty: until it is gone.
func (s *set) want(text string) {
	s.t.Helper()
	testwait.For(s.t, fmt.Sprintf("the destination to hold %q", text), 20*time.Second, func() error {
		got, err := os.ReadFile(s.dst)
		if string(got) != text || (text == "" && err == nil) {
			return fmt.Errorf("%q: %w", got, err)
		}
		return nil
	})
}

func TestManifestComesAndGoes(t *testing.T) {
	s := newSet(t, nil)
	s.want("one")
	if fi, err := os.Stat(s.dst); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	s.write("two") // bug 1 of the first podmaster: never refreshed
	s.want("two")
	if err := os.Remove(s.dst); err != nil {
		t.Fatal(err)
	}
	s.want("two")
	if err := os.Remove(s.src); err != nil { // no reason to stop what runs
		t.Fatal(err)
	}
	s.cancel()
	if err := <-s.res; err != nil {
		t.Error(err)
	}
	s.want("")
	if rec, _ := s.mem.Read(t.Context()); !rec.Ended {
		t.Error("stopped and confirmed, but not released")
	}
}

// Bug 12: what cannot be read is an error, and not a file of another content that is
// written again. Nothing is written over it, and the term goes on.
func TestUnreadableManifestIsAnError(t *testing.T) {
	var said logBuffer
	s := newSet(t, func(c *ManifestConfig) { c.Logger = slog.New(slog.NewTextHandler(&said, nil)) })
	s.want("one")
	loop := s.dst + ".loop"
	if err := os.Symlink(filepath.Base(s.dst), loop); err != nil { // it will point at itself
		t.Fatal(err)
	}
	if err := os.Rename(loop, s.dst); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, "three looks at it", 20*time.Second, func() error {
		if n := strings.Count(said.String(), "read installed manifest"); n < 3 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	if fi, err := os.Lstat(s.dst); err != nil || fi.Mode().Type() != fs.ModeSymlink {
		t.Errorf("written over: %v, %v", fi, err)
	}
	if rec, _ := s.mem.Read(t.Context()); rec.Ended {
		t.Error("the term ended")
	}
	s.cancel()
	if err := <-s.res; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(s.dst); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Bug 10: a deleted manifest is not a stopped process.
func TestManifestWaitsForThePod(t *testing.T) {
	s := newSet(t, nil)
	s.want("one")
	s.slow.Store(true)
	s.cancel()
	s.want("")
	if rec, _ := s.mem.Read(t.Context()); rec.Ended {
		t.Error("released while the pod still runs")
	}
	s.slow.Store(false)
	<-s.res
	if rec, _ := s.mem.Read(t.Context()); !rec.Ended {
		t.Error("not released after the pod stopped")
	}
}

func TestUnconfirmedManifestIsNotReleased(t *testing.T) {
	s := newSet(t, func(c *ManifestConfig) { c.Stopped = nil })
	s.want("one")
	s.cancel()
	<-s.res
	s.want("")
	rec, _ := s.mem.Read(t.Context())
	if rec.Ended || rec.LockDelay != time.Minute {
		t.Errorf("record %+v: the others must wait for the lock delay", rec)
	}
}

func TestManifestGoesWithALostTerm(t *testing.T) {
	s := newSet(t, nil)
	s.want("one")
	s.mem.Pause() // whatever ends the term; the next one cannot begin
	s.want("")
}

// Bug 5: the manifest of a podmaster that hangs or dies was never removed.
func TestGuardRemovesTheManifest(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "dst.yaml")
	for name, end := range map[string]func(*guarded){
		"podmaster died": func(g *guarded) { g.close() },
		"deadline":       func(*guarded) {},
		"guard asked to stop by signal": func(g *guarded) {
			_ = g.guard.Signal(syscall.SIGTERM) // not its business
			g.close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(dst, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			wait := time.Hour
			if name == "deadline" {
				wait = 200 * time.Millisecond
			}
			deadline := lease.Boottime{}.Now() + wait
			g, err := startGuarded(t.Context(), []string{os.Args[0], GuardArg}, guardOrder{Unlink: dst}, deadline, nil)
			if err != nil {
				t.Fatal(err)
			}
			// The clock is read after the look: on a busy machine the deadline may be over.
			if _, err := os.Stat(dst); err != nil && (lease.Boottime{}).Now() < deadline {
				t.Fatalf("removed too early: %v", err)
			}
			end(g)
			g.guard.Wait()
			g.close()
			if _, err := os.Stat(dst); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("still there: %v", err)
			}
		})
	}
}

// Who was frozen past the term's end must not write the file again.
func TestManifestIsNotInstalledLate(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	if err := os.WriteFile(src, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := NewManifest(ManifestConfig{Source: src, Dest: dst})
	if err != nil {
		t.Fatal(err)
	}
	now := lease.Boottime{}.Now()
	if err := m.install(now); err == nil {
		t.Error("installed after the end")
	}
	if _, err := os.Stat(dst); !errors.Is(err, os.ErrNotExist) {
		t.Error("written after the end")
	}
	if err := m.install(now + time.Hour); err != nil {
		t.Error(err)
	}
}

// Only a folder that a boot finds empty keeps kubelet from starting what a power
// cut has left.
func TestVolatile(t *testing.T) {
	for dir, want := range map[string]bool{"/dev/shm": true, "/proc": false, "/none": false} {
		if got := volatile(dir); got != want {
			t.Errorf("%s: %v", dir, got)
		}
	}
}

func TestCleanAtTheStart(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	for _, f := range []string{src, dst} {
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := NewManifest(ManifestConfig{Source: src, Dest: dst})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Clean(t.Context()); !errors.Is(err, lease.ErrUnconfirmed) {
		t.Errorf("clean: %v", err)
	}
	if _, err := os.Stat(dst); !errors.Is(err, os.ErrNotExist) {
		t.Error("left behind")
	}
}

func TestNewManifestRefuses(t *testing.T) {
	dir := t.TempDir()
	src, empty := filepath.Join(dir, "src"), filepath.Join(dir, "empty")
	if err := errors.Join(os.WriteFile(src, []byte("x"), 0o600), os.WriteFile(empty, []byte(" \n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ src, dst, want string }{
		"no source":          {"", dir + "/d", "both"},
		"no destination":     {src, "", "both"},
		"missing source":     {dir + "/none", dir + "/d", "no such file"},
		"empty source":       {empty, dir + "/d", "empty"},
		"same file":          {src, dir + "/./src", "same file"},
		"no folder":          {src, dir + "/none/d", "no such file"},
		"source is a folder": {dir, dir + "/d", "directory"},
		"unwritable":         {src, "/proc/d", "destination"},
	} {
		if _, err := NewManifest(ManifestConfig{Source: tc.src, Dest: tc.dst}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// Bug 12: written in place, so that kubelet could read half of it.
func TestManifestIsNeverHalf(t *testing.T) {
	s := newSet(t, func(c *ManifestConfig) { c.Every = time.Millisecond })
	s.want("one")
	whole := map[string]bool{"one": true}
	for i := range 20 {
		text := strings.Repeat(fmt.Sprintf("%08d\n", i), 100_000)
		whole[text] = true
		next := s.src + ".next" // the source, too, is replaced at once
		if err := errors.Join(os.WriteFile(next, []byte(text), 0o600), os.Rename(next, s.src)); err != nil {
			t.Fatal(err)
		}
		for seen := ""; seen != text; {
			got, err := os.ReadFile(s.dst)
			if err != nil {
				t.Fatal(err)
			}
			if seen = string(got); !whole[seen] {
				t.Fatalf("%d bytes that nobody wrote", len(seen))
			}
		}
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(s.dst), ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}
