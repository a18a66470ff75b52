package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
)

// three is a valid configuration of three masters on machines of their own.
func three() *config.Cluster {
	c := config.Default()
	c.Name = "prod"
	c.Masters = []config.Master{
		{Name: "m1", Address: "10.245.1.11"},
		{Name: "m2", Address: "10.245.1.12"},
		{Name: "m3", Address: "10.245.1.13"},
	}
	return c
}

// loopback is a configuration of masters on this machine.
func loopback(n int) *config.Cluster {
	c := three()
	for i, a := range []string{"127.0.1.1", "127.0.1.2", "127.0.1.3"} {
		c.Masters[i].Address = a
	}
	c.Masters = c.Masters[:n]
	return c
}

// args returns the flags of a command line by their names.
func args(t *testing.T, argv []string, err error) map[string]string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, a := range argv[1:] {
		name, value, ok := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		if !ok || !strings.HasPrefix(a, "--") || name == "" {
			t.Fatalf("argument %q is not --name=value", a)
		}
		if _, twice := out[name]; twice {
			t.Errorf("--%s is given twice", name)
		}
		out[name] = value
	}
	return out
}

func apiServer(t *testing.T, c *config.Cluster) map[string]string {
	t.Helper()
	argv, err := APIServer(layout.Layout{}, c, "m1")
	return args(t, argv, err)
}

func scheduler(t *testing.T, c *config.Cluster) map[string]string {
	t.Helper()
	argv, err := Scheduler(layout.Layout{}, c, "m1")
	return args(t, argv, err)
}

func controllerManager(t *testing.T, c *config.Cluster) map[string]string {
	t.Helper()
	argv, err := ControllerManager(layout.Layout{}, c, "m1")
	return args(t, argv, err)
}

func write(t *testing.T, path, content string, perm os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), perm); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
