//go:build faults

package lease

import (
	"os/exec"
	"path/filepath"
	"testing"
)

func TestFaults(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "podmaster")
	if out, err := exec.Command("go", "build", "-o", bin, "../../../cmd/podmaster").CombinedOutput(); err != nil {
		t.Fatalf("build podmaster: %v\n%s", err, out)
	}
	w := newWorld(t, bin)
	for _, h := range w.hosts {
		h.start(plain)
	}
	table := newTable(t)
	for _, f := range faults() {
		t.Run(f.name, func(t *testing.T) {
			w.t = t
			row := table.row(f.name)
			defer func() { w.t = w.root; row.done(t) }()
			for range repeats(t) {
				w.suffer(f, row)
			}
		})
	}
}
