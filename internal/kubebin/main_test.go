package kubebin

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// screen is a stderr that a test reads while others write.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// wants errs unless the screen shows all of subs.
func (s *screen) wants(subs ...string) error {
	for _, sub := range subs {
		if got := s.String(); !strings.Contains(got, sub) {
			return fmt.Errorf("no %q in:\n%s", sub, got)
		}
	}
	return nil
}

func env(kv ...string) func(string) string {
	return func(key string) string {
		for i := 0; i+1 < len(kv); i += 2 {
			if kv[i] == key {
				return kv[i+1]
			}
		}
		return ""
	}
}

func newStore(t *testing.T, cfg Config) (*Store, *screen) {
	t.Helper()
	out := &screen{}
	cfg.Stderr = out
	if cfg.Cache == "" {
		cfg.Cache = filepath.Join(t.TempDir(), "cache")
	}
	if cfg.Getenv == nil {
		cfg.Getenv = env()
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, out
}

func write(t *testing.T, path, content string, perm os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), perm); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, perm); err != nil {
		t.Fatal(err)
	}
}

// tiny is a set of two programs in a module without requirements.
func tiny(t *testing.T) Set {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "go.mod"), "module example.com/tiny\n\ngo 1.26.0\n", 0o644)
	for _, name := range []string{"one", "two"} {
		write(t, filepath.Join(dir, name, "main.go"), `package main

var version = "unset"

func main() { println("`+name+` version", version) }
`, 0o644)
	}
	return Set{
		Name: "tiny", Module: dir, Version: "v0.1.2", LDFlags: "-X main.version=v0.1.2",
		Programs: []Program{
			{Name: "first", Package: "./one", VersionArgs: []string{"--version"}},
			{Name: "second", Package: "example.com/tiny/two", VersionArgs: []string{"--version"}},
		},
	}
}

// leftovers errs if a folder of the cache's set name holds anything that is
// not whole.
func leftovers(cache, name string) error {
	found, err := filepath.Glob(filepath.Join(cache, name, "*"))
	if err != nil {
		return err
	}
	hidden, err := filepath.Glob(filepath.Join(cache, name, ".*"))
	if err != nil {
		return err
	}
	if all := append(found, hidden...); len(all) > 0 {
		return fmt.Errorf("left behind: %q", all)
	}
	return nil
}
