package labdir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/test/hosts/internal/wire"
)

// makeLab makes a lab's folder as Up and a keeper would.
func makeLab(t *testing.T, root, name string) (dir string, lock *os.File) {
	t.Helper()
	dir = filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Join(dir, "m1", "upper"), 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Close() })
	err = Write(dir, State{Plan: wire.Plan{Name: name, Cgroup: "hactl-lab-test-that-never-was"}, KeeperPID: 7})
	if err != nil {
		t.Fatal(err)
	}
	return dir, lock
}

func TestSweepRemovesOnlyWhatIsStale(t *testing.T) {
	root := t.TempDir()
	live, _ := makeLab(t, root, "live")
	stale, lock := makeLab(t, root, "stale")
	if err := lock.Close(); err != nil { // its guard dies
		t.Fatal(err)
	}
	foreign := filepath.Join(root, "foreign")
	if err := os.MkdirAll(filepath.Join(foreign, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(root, "half") // its guard died at the last step
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	removed, err := Sweep(t.Context(), root)
	if err != nil || !slices.Equal(removed, []string{"stale"}) {
		t.Fatalf("removed %v, %v", removed, err)
	}
	for dir, want := range map[string]bool{live: true, foreign: true, stale: false, half: false} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: there: %v", dir, err == nil)
		}
	}
	if s, err := Read(live); err != nil || s.KeeperPID != 7 {
		t.Errorf("state of the live one: %+v, %v", s, err)
	}
}

func TestSweepOfNothing(t *testing.T) {
	if removed, err := Sweep(t.Context(), filepath.Join(t.TempDir(), "none")); err != nil || removed != nil {
		t.Fatalf("%v, %v", removed, err)
	}
}

func TestLockIsHeldOnce(t *testing.T) {
	dir, lock := makeLab(t, t.TempDir(), "l")
	if _, err := Lock(dir); !errors.Is(err, ErrHeld) {
		t.Fatalf("got %v", err)
	}
	if _, err := Create(dir); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("got %v", err)
	}
	_ = lock.Close()
	again, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
	if err := Remove(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	if err := Remove(t.Context(), dir); err != nil {
		t.Fatalf("a second time: %v", err)
	}
}

// A damaged state file must not lead to the removal of something else.
func TestRemoveRefuses(t *testing.T) {
	for name, content := range map[string]string{
		"no JSON":       "{",
		"no group":      "{}",
		"another group": `{"cgroup":"system.slice"}`,
		"a way out":     `{"cgroup":"hactl-lab-x/../.."}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := makeLab(t, t.TempDir(), "l")
			if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := Remove(t.Context(), dir); err == nil {
				t.Fatal("removed")
			}
			if _, err := os.Stat(filepath.Join(dir, "m1")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

const mountinfo = `22 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 22 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw
40 22 0:40 / /var/lib/hactl-lab/a/m1/root rw - overlay overlay rw
`

func TestMountinfo(t *testing.T) {
	if got := cgroup2(mountinfo); got != "/sys/fs/cgroup/unified" {
		t.Errorf("cgroup2 at %q", got)
	}
	if got := cgroup2(strings.ReplaceAll(mountinfo, "cgroup2", "x")); got != "" {
		t.Errorf("cgroup2 at %q", got)
	}
	for dir, want := range map[string]string{
		"/var/lib/hactl-lab/a": "/var/lib/hactl-lab/a/m1/root",
		"/var/lib/hactl-lab/":  "",
		"/var/lib/hactl-la":    "",
		"/proc":                "",
	} {
		if got := mountPoint(mountinfo, dir); got != want {
			t.Errorf("%s: got %q, want %q", dir, got, want)
		}
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add(mountinfo)
	f.Add("1 2 3 - cgroup2")
	f.Fuzz(func(t *testing.T, text string) {
		if at := cgroup2(text); at != "" && !strings.Contains(text, at) {
			t.Fatal(at)
		}
		if at := mountPoint(text, "/a"); at != "" && at != "/a" && !strings.HasPrefix(at, "/a/") {
			t.Fatal(at)
		}
	})
}

func TestPollTellsTheLastError(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	last := errors.New("still busy")
	err := poll(ctx, func() error { return last })
	if !errors.Is(err, last) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	tries := 0
	if err := poll(t.Context(), func() error {
		if tries++; tries < 3 {
			return last
		}
		return nil
	}); err != nil || tries != 3 {
		t.Fatalf("%v after %d", err, tries)
	}
}
