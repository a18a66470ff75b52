//go:build lab

package lease

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// someFaults are those in which clocks decide.
func someFaults(t *testing.T) []fault {
	t.Helper()
	names := []string{
		"kill podmaster", "freeze podmaster", "cut podmaster from etcd", "kill the etcd leader", "kill the etcd leader and podmaster", "clean stop",
	}
	var some []fault
	for _, f := range faults() {
		if slices.Contains(names, f.name) {
			some = append(some, f)
		}
	}
	if len(some) != len(names) {
		t.Fatalf("%d of %d faults", len(some), len(names))
	}
	return some
}

// clockFaults lets a term stand for a while, which it must, and then the faults happen.
func clockFaults(t *testing.T, w *world, prefix string) {
	for _, h := range w.hosts {
		h.start(plain)
	}
	w.holder()
	w.allThere()
	w.forget()
	w.wait(3 * ttl)
	if terms := w.reigns(); len(terms) != 1 {
		t.Errorf("%d terms while nothing happened but the clock: %+v", len(terms), terms)
	}
	table := newTable(t)
	for _, f := range someFaults(t) {
		t.Run(f.name, func(t *testing.T) {
			w.t = t
			row := table.row(prefix + f.name)
			defer func() { w.t = w.root; row.done(t) }()
			for range repeats(t) {
				w.suffer(f, row)
			}
		})
	}
}

// The wall clock of podmaster and its guard jumps at every 700 ms, by an hour and by
// ten years, to and fro. A machine's clock is everybody's, and a test must not set
// it: the program is built with a time.Now that jumps. What the program reads from
// the kernel itself, CLOCK_BOOTTIME and CLOCK_MONOTONIC, no setting of the clock moves.
func TestWallClockJumps(t *testing.T) {
	w := newWorld(t, jumping(t))
	clockFaults(t, w, "wall clock jumps: ")
}

// jumping builds podmaster with a wall clock that jumps.
func jumping(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(strings.TrimSpace(string(out)), "src/time/time.go")
	source, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	const call = "sec, nsec, mono := runtimeNow()\n"
	before, after, found := strings.Cut(string(source), "func Now() Time {\n\t"+call)
	if !found {
		t.Fatalf("%s has another Now", original)
	}
	jumps := before + `func jump(mono int64) int64 {
	return [...]int64{0, 3600, -3600, 10 * 365 * 86400, -10 * 365 * 86400}[mono/700e6%5]
}

func Now() Time {
	` + call + "\tsec += jump(mono)\n" + after
	dir := t.TempDir()
	file, overlay, bin := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "podmaster")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {original: file}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{file: []byte(jumps), overlay: replace} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("go", "build", "-overlay", overlay, "-o", bin, "../../../cmd/podmaster").CombinedOutput(); err != nil {
		t.Fatalf("build podmaster: %v\n%s", err, out)
	}
	return bin
}

// Each host has clocks of its own, days apart from the others': no two hosts' clocks
// are ever compared.
func TestClocksOfTheirOwn(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "podmaster")
	if out, err := exec.Command("go", "build", "-o", bin, "../../../cmd/podmaster").CombinedOutput(); err != nil {
		t.Fatalf("build podmaster: %v\n%s", err, out)
	}
	w := newWorld(t, bin)
	for i, h := range w.hosts {
		h.offset = time.Duration(i) * 1_000_000 * time.Second
		ahead := fmt.Sprint(int64(h.offset.Seconds()))
		w.lock.follow(h.name, h.history, h.offset)
		h.wrap = []string{"unshare", "--time", "--boottime", ahead, "--monotonic", ahead, "--"}
	}
	clockFaults(t, w, "clocks days apart: ")
}
