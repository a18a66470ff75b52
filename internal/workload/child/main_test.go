package child

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/workloadtest"
)

func TestMain(m *testing.M) {
	if code, ok := workloadtest.Helper(os.Args); ok {
		os.Exit(code)
	}
	if code, ok := supervisorProcess(os.Args); ok {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

// shortDir is a temporary folder whose path fits into a socket's address.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "child")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func configFor(t *testing.T, units ...workload.Unit) Config {
	t.Helper()
	dir := shortDir(t)
	return Config{Units: units, Socket: filepath.Join(dir, "s.sock"), NotifySocket: filepath.Join(dir, "n.sock")}
}

// running starts a supervisor that ends with the test, and returns it with a
// channel that gets Run's result.
func running(t *testing.T, cfg Config) (*Supervisor, <-chan error) {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		result <- s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(workloadtest.Limit):
			t.Error("Run did not return")
		}
	})
	awaitOpen(t, cfg.Socket)
	return s, result
}
