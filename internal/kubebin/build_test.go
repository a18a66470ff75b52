package kubebin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/testwait"
)

func TestFindBuildsOnce(t *testing.T) {
	set := tiny(t)
	s, out := newStore(t, Config{Every: time.Nanosecond})
	dir, err := s.Find(t.Context(), set)
	if err != nil {
		t.Fatal(err)
	}
	if err := out.wants("building tiny v0.1.2 from source, once: first, second", "first (1 of 2): built", "second (2 of 2): built", "is ready in "+dir); err != nil {
		t.Error(err)
	}
	for _, p := range set.Programs {
		said, err := exec.Command(filepath.Join(dir, p.Name)).CombinedOutput()
		if err != nil || !strings.Contains(string(said), "version v0.1.2") {
			t.Errorf("%s: %v, said %q", p.Name, err, said)
		}
	}
	if !strings.HasPrefix(filepath.Base(dir), "v0.1.2-") || !filepath.IsAbs(dir) {
		t.Errorf("folder %s", dir)
	}

	before := out.String()
	again, err := s.Find(t.Context(), set)
	if err != nil || again != dir {
		t.Errorf("second Find: %s, %v; want %s", again, err, dir)
	}
	if after := out.String(); after != before {
		t.Errorf("second Find was not silent: %s", strings.TrimPrefix(after, before))
	}
}

func TestTheKeyCoversWhatDecidesTheResult(t *testing.T) {
	set := tiny(t)
	s, _ := newStore(t, Config{})
	seen := map[string]string{}
	note := func(what string, set Set) {
		t.Helper()
		dir, err := s.Where(t.Context(), set)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[dir]; ok {
			t.Errorf("%s and %s share the folder %s", what, other, dir)
		}
		seen[dir] = what
	}
	note("as it is", set)
	other := set
	other.Tags = "x"
	note("other tags", other)
	other = set
	other.LDFlags = ""
	note("other ldflags", other)
	other = set
	other.Version = "v0.1.3"
	note("other version", other)
	write(t, filepath.Join(set.Module, "go.sum"), "\n", 0o644)
	note("a go.sum", set)
	write(t, filepath.Join(set.Module, "one", "more.go"), "package main\n", 0o644)
	note("one more file", set)
	if _, err := os.Stat(s.cfg.Cache); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Where made the cache: %v", err)
	}
	write(t, filepath.Join(set.Module, "README"), "no source\n", 0o644)
	dir, err := s.Where(t.Context(), set)
	if err != nil || seen[dir] != "one more file" {
		t.Errorf("a README changed the key: %s, %v", dir, err)
	}
}

func TestDamagedProgramsAreBuiltAgain(t *testing.T) {
	set := tiny(t)
	s, out := newStore(t, Config{})
	dir, err := s.Find(t.Context(), set)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, says string
		damage     func() error
	}{
		{"missing", "second is missing", func() error { return os.Remove(filepath.Join(dir, "second")) }},
		{"truncated", "first has 10 bytes", func() error { return os.Truncate(filepath.Join(dir, "first"), 10) }},
		{"not executable", "first is not executable", func() error { return os.Chmod(filepath.Join(dir, "first"), 0o644) }},
		{"no manifest", "manifest.json is not readable", func() error { return os.Remove(filepath.Join(dir, manifestFile)) }},
		{"bad manifest", "manifest.json: ", func() error { return os.Truncate(filepath.Join(dir, manifestFile), 5) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.damage(); err != nil {
				t.Fatal(err)
			}
			again, err := s.Find(t.Context(), set)
			if err != nil || again != dir {
				t.Fatalf("%s, %v", again, err)
			}
			if err := out.wants("is damaged (" + c.says); err != nil {
				t.Error(err)
			}
			if err := intact(dir, set); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBuildFailures(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(t *testing.T, set *Set, cfg *Config)
		want []string // in the error
		hint string
	}{
		{
			"compile error", func(t *testing.T, set *Set, _ *Config) {
				write(t, filepath.Join(set.Module, "two", "main.go"), "package main\n\nfunc main() { nonsense() }\n", 0o644)
			},
			[]string{"build second v0.1.2", "exit status 1", "undefined: nonsense"}, "",
		},
		{
			"no such package", func(_ *testing.T, set *Set, _ *Config) { set.Programs[0].Package = "./three" },
			[]string{"find the packages of tiny v0.1.2", "three"}, "",
		},
		{
			"wrong version stamped", func(_ *testing.T, set *Set, _ *Config) { set.LDFlags = "-X main.version=v0.1.1" },
			[]string{"tiny first", `says "one version v0.1.1", want v0.1.2`}, "",
		},
		{
			"no go", func(_ *testing.T, _ *Set, cfg *Config) { cfg.Go = "go-that-is-not-there" },
			[]string{"ask go for its version", "executable file not found"}, "install Go",
		},
		{
			"no proxy", func(t *testing.T, set *Set, cfg *Config) {
				cfg.Go = fakeGo(t, "echo 'go: example.com/x@v1.0.0: Get \"https://proxy\": dial tcp: lookup proxy: no such host' >&2; exit 1")
			},
			[]string{"find the packages of tiny", "no such host"}, "HACTL_KUBE_BIN=DIR",
		},
		{
			"full disk", func(t *testing.T, set *Set, cfg *Config) {
				cfg.Go = fakeGo(t, "echo 'write /x: no space left on device' >&2; exit 1")
			},
			[]string{"no space left on device"}, "free some space",
		},
		{
			"out of memory", func(t *testing.T, set *Set, cfg *Config) {
				cfg.Go = fakeGo(t, "echo 'x: link: signal: killed' >&2; exit 1")
			},
			[]string{"signal: killed"}, "GOFLAGS=-p=1",
		},
		{
			"tampered module", func(t *testing.T, set *Set, cfg *Config) {
				cfg.Go = fakeGo(t, "echo 'verifying x@v1.0.0: checksum mismatch' >&2; exit 1")
			},
			[]string{"checksum mismatch"}, "do not use it",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			set, cfg := tiny(t), Config{Cache: filepath.Join(t.TempDir(), "cache")}
			c.edit(t, &set, &cfg)
			s, _ := newStore(t, cfg)
			dir, err := s.Find(t.Context(), set)
			if err == nil {
				t.Fatalf("built %s", dir)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
			var e *exitcode.Error
			if c.hint != "" && (!errors.As(err, &e) || !strings.Contains(e.Hint, c.hint)) {
				t.Errorf("hint of %#v does not say %q", err, c.hint)
			}
			if err := leftovers(cfg.Cache, set.Name); err != nil {
				t.Error(err)
			}
		})
	}
}

// fakeGo answers `go env` like the real one and runs script for anything else.
func fakeGo(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "go")
	write(t, path, "#!/bin/sh\nif [ \"$1\" = env ]; then exec go \"$@\"; fi\n"+script+"\n", 0o755)
	return path
}

func TestASecondBuildWaits(t *testing.T) {
	set := tiny(t)
	s, out := newStore(t, Config{})
	if err := os.MkdirAll(s.cfg.Cache, 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, err := s.lock(t.Context(), "something long")
	if err != nil {
		t.Fatal(err)
	}
	built := make(chan error, 1)
	go func() {
		_, err := s.Find(t.Context(), set)
		built <- err
	}()
	testwait.For(t, "the message of the second build", 10*time.Second, func() error {
		return out.wants(fmt.Sprintf("waiting for another build to end (pid %d, building something long has the lock", os.Getpid()))
	})
	select {
	case err := <-built:
		t.Fatalf("did not wait: %v", err)
	default:
	}
	if strings.Contains(out.String(), "from source") {
		t.Error("built in spite of the lock")
	}
	unlock()
	if err := <-built; err != nil {
		t.Fatal(err)
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	set := tiny(t)
	s, out := newStore(t, Config{})
	if err := os.MkdirAll(s.cfg.Cache, 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, err := s.lock(t.Context(), "something long")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	built := make(chan error, 1)
	go func() {
		_, err := s.Find(ctx, set)
		built <- err
	}()
	testwait.For(t, "the message", 10*time.Second, func() error { return out.wants("waiting for another build") })
	cancel()
	if err := <-built; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Two at once build once: the later one finds what the first one made.
func TestConcurrentFindsBuildOnce(t *testing.T) {
	set := tiny(t)
	s, out := newStore(t, Config{})
	type result struct {
		dir string
		err error
	}
	results := make(chan result, 3)
	for range cap(results) {
		go func() {
			dir, err := s.Find(t.Context(), set)
			results <- result{dir, err}
		}()
	}
	first := <-results
	if first.err != nil {
		t.Fatal(first.err)
	}
	for range cap(results) - 1 {
		if r := <-results; r != first {
			t.Errorf("got %v, want %v", r, first)
		}
	}
	if n := strings.Count(out.String(), "from source, once"); n != 1 {
		t.Errorf("%d builds:\n%s", n, out)
	}
}

// Ctrl-C ends the compilers, leaves nothing behind and gives the lock back.
func TestCancelEndsTheBuild(t *testing.T) {
	set := tiny(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	s, out := newStore(t, Config{Go: fakeGo(t, `
if [ "$1" = list ]; then echo a; exit 0; fi
sleep 1000 &
echo $! > `+pidFile+`.new && mv `+pidFile+`.new `+pidFile+`
echo some/package >&2
wait`), Every: time.Nanosecond})
	ctx, cancel := context.WithCancel(t.Context())
	built := make(chan error, 1)
	go func() {
		_, err := s.Find(ctx, set)
		built <- err
	}()
	var child int
	testwait.For(t, "the build to run", 10*time.Second, func() error {
		data, err := os.ReadFile(pidFile)
		if err != nil {
			return err
		}
		if _, err := fmt.Sscan(string(data), &child); err != nil {
			return err
		}
		return out.wants("first (1 of 2): 1 packages compiled of at most 1")
	})
	cancel()
	err := <-built
	var e *exitcode.Error
	if !errors.Is(err, context.Canceled) || !errors.As(err, &e) || !strings.Contains(e.Hint, "is kept") {
		t.Errorf("got %v", err)
	}
	testwait.For(t, "the compiler to end", 10*time.Second, func() error {
		if err := syscall.Kill(child, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("pid %d is still there: %w", child, err)
		}
		return nil
	})
	if err := leftovers(s.cfg.Cache, set.Name); err != nil {
		t.Error(err)
	}
	unlock, err := s.lock(t.Context(), "next")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// What a killed build left is removed by the next one.
func TestLeftoversAreRemoved(t *testing.T) {
	set := tiny(t)
	s, _ := newStore(t, Config{})
	left := filepath.Join(s.cfg.Cache, "kube", ".new-123")
	write(t, filepath.Join(left, "kube-apiserver"), "half", 0o755)
	if _, err := s.Find(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", left, err)
	}
}

func TestTerminalProgressRewritesOneLine(t *testing.T) {
	out := &screen{}
	s, err := New(Config{Cache: t.TempDir(), Stderr: out, Terminal: true, Getenv: env()})
	if err != nil {
		t.Fatal(err)
	}
	bar := s.progress()
	bar.update("x: %d", 1)
	bar.update("x: %d", 2)
	bar.done("x: built")
	if got, want := out.String(), "\r\x1b[Kkubebin: x: 1, 0s\r\x1b[Kkubebin: x: 2, 0s\r\x1b[Kkubebin: x: built, 0s\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if IsTerminal(out, env("TERM", "xterm")) {
		t.Error("a buffer is no terminal")
	}
}

func TestUserFlagsThatChangeTheResultAreDropped(t *testing.T) {
	s, _ := newStore(t, Config{Getenv: env("GOFLAGS", "-race -p=1 -mod=vendor -modcacherw -tags=x")})
	got := s.goEnv()
	if last := got[len(got)-1]; last != "GOFLAGS=-mod=readonly -p=1 -modcacherw" {
		t.Error(last)
	}
}
