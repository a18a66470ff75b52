package agent

import (
	"context"
	"fmt"
	"syscall"

	"github.com/hactl/hactl/internal/health"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/watchdog"
)

// disks are the notices of the file systems that a master writes to, etcd's first.
// Two folders on one file system are one notice.
func disks(l layout.Layout, percent int) []watchdog.Notice {
	if percent <= 0 {
		return nil
	}
	var notices []watchdog.Notice
	seen := map[uint64]bool{}
	for _, dir := range []string{l.EtcdData(), l.State(), l.Logs(), l.Kubernetes()} {
		var st syscall.Stat_t
		if syscall.Stat(dir, &st) == nil {
			if seen[st.Dev] {
				continue
			}
			seen[st.Dev] = true
		}
		notices = append(notices, watchdog.Notice{Name: "disk:" + dir, Reason: watchdog.DiskLow, Check: diskCheck(dir, percent)})
	}
	return notices
}

// diskCheck errs while less than percent of dir's file system is free. Once it
// did, it errs until a fifth more than that is free.
func diskCheck(dir string, percent int) health.Check {
	low := false
	return func(context.Context) error {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(dir, &fs); err != nil {
			if err == syscall.ENOENT {
				return nil // not made yet
			}
			return fmt.Errorf("%s: %w", dir, err)
		}
		low = diskLow(low, fs.Bavail, fs.Blocks, percent)
		if !low {
			return nil
		}
		block := uint64(fs.Bsize)
		return fmt.Errorf("%d MiB of %d are free at %s, less than %d %%", fs.Bavail*block>>20, fs.Blocks*block>>20, dir, percent)
	}
}

// diskLow says whether too little is free, if it was so before or not. It is pure.
func diskLow(was bool, free, total uint64, percent int) bool {
	limit := uint64(percent) * 10
	if was {
		limit += limit / 5
	}
	return total > 0 && free*1000 < total*limit
}
