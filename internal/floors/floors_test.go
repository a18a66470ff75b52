package floors

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Every import of our own packages in the tree, test files excepted, keeps the
// floors.
func TestTheTreeKeepsTheFloors(t *testing.T) {
	root := filepath.Join("..", "..")
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || nestedModule(path)) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, imp := range f.Imports {
			p, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			if to, ok := strings.CutPrefix(p, Module); ok {
				seen++
				if err := Allowed(filepath.ToSlash(rel), to); err != nil {
					t.Errorf("%s: %v", path, err)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 5 {
		t.Fatalf("only %d imports of our own seen: the walk is broken", seen)
	}
}

func nestedModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil && filepath.Clean(dir) != filepath.Join("..", "..")
}

func TestAllowed(t *testing.T) {
	cases := []struct {
		from, to string
		ok       bool
	}{
		{"internal/lease", "internal/health", true},
		{"internal/lease/etcdlock", "internal/lease", true},
		{"internal/lease", "internal/lease/etcdlock", false},
		{"internal/workload/child", "internal/workload/systemd", false},
		{"internal/lb", "internal/watchdog", false},
		{"internal/health", "internal/config", false},
		{"cmd/hactl", "internal/agent", true},
		{"internal/agent", "cmd/hactl", false},
		{"internal/nowhere", "internal/health", false},
	}
	for _, c := range cases {
		if err := Allowed(c.from, c.to); (err == nil) != c.ok {
			t.Errorf("%s → %s: %v, want ok=%v", c.from, c.to, err, c.ok)
		}
	}
}
