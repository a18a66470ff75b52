package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
)

// The measure of the disk: as many synced writes of an etcd entry's order of
// size as fit into fsyncTime.
const (
	fsyncWrites = 200
	fsyncBytes  = 8 << 10
	fsyncTime   = 2 * time.Second
	// fsyncHung is when one write that does not come back counts as a fault.
	fsyncHung = 10 * time.Second
)

// measureFsync times writes made durable where dir is or will be. The file has
// no name, so that nothing is left however this ends.
func measureFsync(ctx context.Context, dir string, writes int, most time.Duration) Fsync {
	where := existing(dir)
	got := make(chan Fsync, 1)
	go func() { got <- fsyncs(ctx, where, writes, most) }() // a dead disk may never answer
	select {
	case f := <-got:
		return f
	case <-ctx.Done():
		return Fsync{Dir: where, Err: ctx.Err()}
	case <-time.After(most + fsyncHung):
		return Fsync{Dir: where, Err: fmt.Errorf("a synced write takes more than %v", fsyncHung)}
	}
}

func fsyncs(ctx context.Context, dir string, writes int, most time.Duration) Fsync {
	out := Fsync{Dir: dir}
	file, err := os.CreateTemp(dir, ".hactl-preflight-*")
	if err != nil {
		out.Err = err
		return out
	}
	defer file.Close()
	if out.Err = os.Remove(file.Name()); out.Err != nil {
		return out
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &st); err == nil && int64(st.Type) == unix.TMPFS_MAGIC { //nolint:unconvert // its type differs between machines
		out.FS = "tmpfs"
	}
	// As etcd's log is: preallocated, so that a write changes no metadata. Not every
	// file system can.
	size := int64(writes) * fsyncBytes
	if err := unix.Fallocate(int(file.Fd()), 0, 0, size); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		out.Err = fmt.Errorf("take %d KiB: %w", size>>10, err)
		return out
	}
	out.Err = file.Sync()
	buf := make([]byte, fsyncBytes)
	var took []time.Duration
	for begin := time.Now(); out.Err == nil && len(took) < writes && ctx.Err() == nil && (len(took) == 0 || time.Since(begin) < most); {
		sent := time.Now()
		if _, out.Err = file.WriteAt(buf, int64(len(took))*fsyncBytes); out.Err == nil {
			out.Err = unix.Fdatasync(int(file.Fd()))
		}
		took = append(took, time.Since(sent))
	}
	if out.Err == nil && len(took) == 0 {
		out.Err = ctx.Err()
	}
	out.Writes = len(took)
	out.P99, out.Max = percentile99(took)
	return out
}

// percentile99 is the time that 99 of 100 did not exceed, and the longest.
func percentile99(took []time.Duration) (p99, longest time.Duration) {
	if len(took) == 0 {
		return 0, 0
	}
	sorted := slices.Sorted(slices.Values(took))
	return sorted[(len(sorted)*99+99)/100-1], sorted[len(sorted)-1]
}

const (
	logsNeed = 1 << 30 // a master's logs with what rotation keeps
	// walNeed are etcd's log and snapshots: five of each (max-wals), the log's of
	// 64 MiB and one more that is preallocated.
	walNeed   = 512 << 20
	etcdLeast = 1 << 30
	logsLeast = 64 << 20
)

// lookVolumes measures the file systems that the master's folders are or will be
// on.
func lookVolumes(l layout.Layout, c *config.Cluster) []Volume {
	quota := uint64(config.Default().Etcd.Quota)
	if c != nil {
		quota = uint64(c.Etcd.Quota)
	}
	etcd := 2*quota + walNeed
	var out []Volume
	byDevice := map[uint64]int{}
	for _, d := range []struct {
		path        string
		need, least uint64
	}{
		{l.EtcdData(), etcd, min(etcd, etcdLeast)},
		{l.Logs(), logsNeed, logsLeast},
	} {
		dev, v := lookVolume(existing(d.path))
		i, known := byDevice[dev]
		if v.Err != nil || !known {
			i = len(out)
			out = append(out, v)
			if v.Err == nil {
				byDevice[dev] = i
			}
		}
		out[i].Paths = append(out[i].Paths, d.path)
		out[i].Need += d.need
		out[i].Least += d.least
		if d.path == l.EtcdData() {
			out[i].Own, _ = usage(d.path) // what cannot be read counts as nothing: the stricter way
		}
	}
	return out
}

func lookVolume(dir string) (device uint64, v Volume) {
	var st unix.Stat_t
	if v.Err = unix.Stat(dir, &st); v.Err != nil {
		return 0, v
	}
	var fs unix.Statfs_t
	if v.Err = unix.Statfs(dir, &fs); v.Err != nil {
		return 0, v
	}
	v.Free = fs.Bavail * uint64(fs.Bsize) //nolint:gosec // a block's size is positive
	v.ReadOnly = fs.Flags&unix.ST_RDONLY != 0
	return uint64(st.Dev), v //nolint:unconvert // its type differs between machines
}

// usage is how many bytes the files below dir take on the disk.
func usage(dir string) (uint64, error) {
	total := uint64(0)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		total += uint64(st.Blocks) * 512 //nolint:gosec // never negative
		return nil
	})
	return total, err
}
