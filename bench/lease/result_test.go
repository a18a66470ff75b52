package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every row has its line, with the greatest value, and its HDR file, in the row's unit.
func TestEveryRowIsKept(t *testing.T) {
	o := options{out: t.TempDir()}
	tab, err := newTable(o)
	if err != nil {
		t.Fatal(err)
	}
	gap, memory := newResult("planned hand-over", "podmaster", "≤ 100 ms"), newResult("memory (RSS)", "podmaster", "≤ 20 MB")
	for i := range 10 {
		for r, v := range map[*result]time.Duration{gap: time.Millisecond, memory: time.Millisecond} {
			if err := r.add(time.Duration(i+1) * v); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tab.put(gap); err != nil {
		t.Fatal(err)
	}
	if err := tab.putIn(memory, 1000, "%.1f MB"); err != nil {
		t.Fatal(err)
	}
	if err := tab.finish(); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"results.md":                        "| memory (RSS) | podmaster | 10 | 5.0 MB | 10.0 MB | 10.0 MB | ≤ 20 MB | |",
		"planned-hand-over--podmaster.hgrm": "#[Max     =       10.0",
		"memory-RSS--podmaster.hgrm":        "#[Max     =       10.0",
	} {
		got, err := os.ReadFile(filepath.Join(o.out, file))
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%s: %v\n%s", file, err, got)
		}
	}
}
