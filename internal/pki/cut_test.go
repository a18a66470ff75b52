package pki

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// errCut stands for the loss of power.
var errCut = errors.New("cut")

// The power fails at each write in turn; the next run completes the set, and
// what was written before the cut stays.
func TestCutAtEachWrite(t *testing.T) {
	prepared := t.TempDir()
	s, _ := newStore(t, filepath.Join(prepared, "pki"))
	mustEnsure(t, s, prepared)
	scenarios := map[string]struct {
		from string
		at   time.Time
		lose []string // files' endings
	}{
		"first making":      {"", start, nil},
		"leaves expired":    {prepared, start.Add(leafLifetime + time.Hour), nil},
		"leaves' keys lost": {prepared, start, leafNames},
	}
	for name, sc := range scenarios {
		t.Run(name, func(t *testing.T) {
			for n := 0; ; n++ {
				conf := t.TempDir()
				if sc.from != "" {
					if err := os.CopyFS(conf, os.DirFS(sc.from)); err != nil {
						t.Fatal(err)
					}
				}
				s, clk := newStore(t, filepath.Join(conf, "pki"))
				clk.t = sc.at
				for _, l := range sc.lose {
					remove(t, s.file(l+".key"))
				}
				if done := cutAt(t, s, conf, n); done {
					if n == 0 {
						t.Fatal("nothing was written at all")
					}
					return
				}
			}
		})
	}
}

// cutAt fails write n and all later ones, checks the next run's repair, and
// tells whether there was no write n.
func cutAt(t *testing.T, s *Store, conf string, n int) (done bool) {
	t.Helper()
	writes := 0
	s.write = func(path string, data []byte, perm fs.FileMode) error {
		if writes++; writes <= n {
			return fastWrite(path, data, perm)
		}
		// A temporary file is left behind, as by a real cut.
		put(t, filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp-123"), string(data[:len(data)/2]))
		return errCut
	}
	_, err := ensureAll(s, conf)
	if writes <= n {
		if err != nil {
			t.Fatal(err)
		}
		return true
	}
	if !errors.Is(err, errCut) {
		t.Fatalf("cut %d: %v", n, err)
	}
	before := tree(t, s.dir)
	s.write = fastWrite
	mustEnsure(t, s, conf)
	if again := mustEnsure(t, s, conf); len(again) > 0 {
		t.Errorf("cut %d: not whole after one run: %v", n, again)
	}
	now := tree(t, conf)
	for _, f := range caFiles() {
		if old, ok := before[f]; ok && old != now["pki/"+f] {
			t.Errorf("cut %d: %s was made a second time", n, f)
		}
	}
	for f := range now {
		if strings.Contains(f, "tmp-") || strings.Contains(f, makingMark) {
			t.Errorf("cut %d: %s is left", n, f)
		}
	}
	return false
}
