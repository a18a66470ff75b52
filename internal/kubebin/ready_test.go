package kubebin

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/exitcode"
)

func script(said string) string { return "#!/bin/sh\necho '" + said + "'\n" }

func TestReadyPrograms(t *testing.T) {
	set := tiny(t)
	for _, c := range []struct {
		name          string
		first, second string // content; "": not there
		perm          os.FileMode
		want          []string // in the error; none: it is taken
	}{
		{"right", script("Kubernetes v0.1.2"), script("Client Version: v0.1.2"), 0o755, nil},
		{"version without v", script("etcd Version: 0.1.2"), script("0.1.2"), 0o755, nil},
		{"one missing", script("v0.1.2"), "", 0o755, []string{"second: not there"}},
		{"all faults at once", script("v0.1.1"), "", 0o755, []string{`first: says "v0.1.1", want v0.1.2`, "second: not there"}},
		{"longer version", script("v0.1.2-rc.1"), script("v0.1.2"), 0o755, []string{`first: says "v0.1.2-rc.1"`}},
		{"version in a later line only", "#!/bin/sh\necho first; echo v0.1.2\n", script("v0.1.2"), 0o755, []string{`first: says "first"`}},
		{"not executable", script("v0.1.2"), script("v0.1.2"), 0o644, []string{"first: not an executable file"}},
		{"fails", "#!/bin/sh\necho boom >&2\nexit 3\n", script("v0.1.2"), 0o755, []string{"first: --version: exit status 3", "boom"}},
		{"no program", "\x7fELF but not really", script("v0.1.2"), 0o755, []string{"first: --version:"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range map[string]string{"first": c.first, "second": c.second} {
				if content != "" {
					write(t, filepath.Join(dir, name), content, c.perm)
				}
			}
			s, _ := newStore(t, Config{Go: "/nonexistent/go", Getenv: env("HACTL_TINY_BIN", dir)})
			got, err := s.Find(t.Context(), set)
			if len(c.want) == 0 {
				if err != nil || got != dir {
					t.Fatalf("got %s, %v", got, err)
				}
				return
			}
			if err == nil {
				t.Fatal("taken")
			}
			for _, w := range append(c.want, "HACTL_TINY_BIN="+dir) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
			var e *exitcode.Error
			if !errors.As(err, &e) || !strings.Contains(e.Hint, "unset HACTL_TINY_BIN") {
				t.Errorf("hint %+v", e)
			}
		})
	}
}

func TestLink(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "bin", "kube")
	for _, to := range []string{"/some/where", "/some/where", "/else/where"} {
		if err := Link(link, to); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(link); err != nil || got != to {
			t.Errorf("leads to %s, %v; want %s", got, err, to)
		}
	}
	real := filepath.Join(dir, "real")
	write(t, filepath.Join(real, "precious"), "x", 0o644)
	err := Link(real, "/some/where")
	if exitcode.Of(err) != exitcode.Refused {
		t.Errorf("a folder was replaced: %v", err)
	}
	if _, err := os.Stat(filepath.Join(real, "precious")); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "bin")); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestNewNeedsACache(t *testing.T) {
	t.Setenv("HOME", "")
	t.Setenv("XDG_CACHE_HOME", "")
	_, err := New(Config{Getenv: env()})
	var e *exitcode.Error
	if !errors.As(err, &e) || !strings.Contains(e.Hint, "HACTL_CACHE") {
		t.Errorf("got %v", err)
	}
	s, err := New(Config{Getenv: env("HACTL_CACHE", "/x")})
	if err != nil || s.cfg.Cache != "/x" {
		t.Errorf("got %+v, %v", s, err)
	}
}
