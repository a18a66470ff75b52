//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// processes lists the processes whose program has the given name and whose
// command line mentions dir.
func processes(dir, program string) []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(string(cmdline), "\x00")
		if filepath.Base(args[0]) == program && strings.Contains(string(cmdline), dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// singletonWatch counts the singletons' processes again and again.
type singletonWatch struct {
	mu      sync.Mutex
	samples int
	faults  []string
}

var singletons = []string{"kube-scheduler", "kube-controller-manager"}

// run samples until ctx ends. More than one process of a singleton is a fault
// at any time; none is one only while nothing is broken, which the test checks
// by itself.
func (w *singletonWatch) run(ctx context.Context, dir string) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, name := range singletons {
			if pids := processes(dir, name); len(pids) > 1 {
				w.fault(fmt.Sprintf("%s: %d processes of %s at once: %v", time.Now().Format("15:04:05.000"), len(pids), name, pids))
			}
		}
		w.mu.Lock()
		w.samples++
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *singletonWatch) fault(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, s)
}
