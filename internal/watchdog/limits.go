package watchdog

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
)

// Limits are what a process may use before that counts as a leak. A zero field is
// no limit.
type Limits struct {
	Memory     uint64 // bytes that are its own: without mapped files, such as etcd's database
	Files      int    // open files, in percent of the process's own limit
	Goroutines int
}

// Usage is what a process uses. A zero field is not known.
type Usage struct {
	Memory     uint64 // bytes, without mapped files
	Files      int    // open files
	MaxFiles   int    // as many as it may open
	Goroutines int
}

// Over says, for people, what of u is past its limit; empty: nothing. It is pure.
func (l Limits) Over(u Usage) string {
	var over []string
	if l.Memory > 0 && u.Memory > l.Memory {
		over = append(over, fmt.Sprintf("memory %d MiB of %d", u.Memory>>20, l.Memory>>20))
	}
	if l.Files > 0 && u.MaxFiles > 0 && u.Files*100 > u.MaxFiles*l.Files {
		over = append(over, fmt.Sprintf("open files %d of %d", u.Files, u.MaxFiles))
	}
	if l.Goroutines > 0 && u.Goroutines > l.Goroutines {
		over = append(over, fmt.Sprintf("goroutines %d of %d", u.Goroutines, l.Goroutines))
	}
	return strings.Join(over, ", ")
}

// usageOf reads what the kernel tells of pid.
func usageOf(pid int) Usage {
	var u Usage
	p, err := procfs.NewProc(pid)
	if err != nil {
		return u
	}
	u.Memory = ownMemory(pid)
	if n, err := p.FileDescriptorsLen(); err == nil {
		u.Files = n
	}
	if l, err := p.Limits(); err == nil {
		u.MaxFiles = int(min(l.OpenFiles, 1<<30))
	}
	return u
}

// ownMemory is RssAnon and VmSwap of /proc/PID/status, in bytes.
func ownMemory(pid int) uint64 {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	var sum uint64
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		if key != "RssAnon" && key != "VmSwap" {
			continue
		}
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err == nil {
			sum += kib << 10
		}
	}
	return sum
}

// goroutines asks how many the unit has, if there is a limit; 0: not known.
func (t *target) goroutines(ctx context.Context, timeout time.Duration) int {
	if t.Goroutines == nil || t.Limits.Goroutines == 0 {
		return 0
	}
	answer := make(chan int, 1)
	err := t.sampler.probe(ctx, timeout, func(ctx context.Context) error {
		n, err := t.Goroutines(ctx)
		answer <- n
		return err
	})
	if err != nil {
		return 0
	}
	return <-answer
}
