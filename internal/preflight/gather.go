package preflight

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/version"
)

// Config says what to look at. The zero value, with a Cluster, is the machine as
// it is.
type Config struct {
	// Cluster is the configuration; nil when it could not be read, with the reason
	// in ClusterErr.
	Cluster    *config.Cluster
	ClusterErr error
	Name       string        // of the master that this machine is to be; default: found out (Self)
	Layout     layout.Layout // where the master's files lie, or will
	Hactl      string        // program; default: the running one
	Podmaster  string        // program; default: podmaster beside Hactl
	// Peers are the other machines heard, this one's own card left out; Machine is
	// this one's. They are the rendezvous's; without them names and clocks are not
	// compared.
	Peers   []Peer
	Machine string
}

// gatherTimeout bounds each look.
const gatherTimeout = 10 * time.Second

// Gather looks at the machine. It takes a second or two, and ends soon after ctx.
func Gather(ctx context.Context, cfg Config) Facts {
	f := Facts{
		Cluster: cfg.Cluster, ConfigErr: cfg.ClusterErr, Wanted: cfg.Name,
		Peers: cfg.Peers, Machine: cfg.Machine,
		UID: os.Geteuid(), Release: version.String(), CPUs: cpus(),
	}
	if f.Cluster == nil && f.ConfigErr == nil {
		f.ConfigErr = fmt.Errorf("there is no configuration")
	}
	f.Hostname, _ = os.Hostname() // without one the address decides
	f.Addresses = addresses()
	if f.Cluster != nil {
		if m, err := Self(f.Cluster, cfg.Name, f.Hostname, f.Addresses); err == nil {
			f.Master = m
		}
		f.TokenFile = cfg.Layout.Under(f.Cluster.Token.File)
		f.TokenErr = checkToken(f.TokenFile)
	}
	// Alone, so that nothing of ours disturbs the measure.
	f.Fsync = measureFsync(ctx, cfg.Layout.EtcdData(), fsyncWrites, fsyncTime)
	if f.Fsync.Err == nil && f.Fsync.P99 > FsyncError {
		// A slow disk is slow again; what only was in the way for a moment is not.
		if again := measureFsync(ctx, cfg.Layout.EtcdData(), fsyncWrites, fsyncTime); again.Err == nil && again.P99 < f.Fsync.P99 {
			f.Fsync = again
		}
	}

	var wg sync.WaitGroup
	look := func(g func(context.Context)) {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, gatherTimeout)
			defer cancel()
			g(ctx)
		})
	}
	var ports []PortUse
	look(func(ctx context.Context) { f.Systemd = lookSystemd(ctx) })
	look(func(ctx context.Context) { f.Programs, f.Kubelet = lookPrograms(ctx, cfg) })
	look(func(ctx context.Context) { f.Old = lookOld(cfg.Layout) })
	if f.Master.Name != "" {
		look(func(ctx context.Context) { ports = lookPorts(ctx, f.Cluster, f.Master) })
		look(func(ctx context.Context) { f.Duplicates, f.DuplicatesErr = lookDuplicates(ctx, f.Master.Address) })
	}
	wg.Wait()
	f.Ports = ports
	f.Volumes = lookVolumes(cfg.Layout, f.Cluster)
	f.OpenFiles, f.OpenFilesErr = lookOpenFiles()
	f.Unsynchronised, f.ClockErr = lookClock()
	f.Memory, f.Swap, f.MemoryErr = lookMemory()
	return f
}

// addresses are those of this machine's interfaces; empty when they cannot be
// listed, which the check of the address then tells.
func addresses() []netip.Addr {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr())
		}
	}
	return out
}

// cpus are those that this process may use, not those that Go was told to use.
func cpus() int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 1
	}
	return set.Count()
}

func lookClock() (unsynchronised bool, err error) {
	// Modes 0 only reads. The state TIME_ERROR is the same as the status bit.
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false, fmt.Errorf("adjtimex: %w", err)
	}
	return t.Status&unix.STA_UNSYNC != 0, nil
}

func lookMemory() (memory, swap uint64, err error) {
	var s unix.Sysinfo_t
	if err := unix.Sysinfo(&s); err != nil {
		return 0, 0, fmt.Errorf("sysinfo: %w", err)
	}
	unit := uint64(s.Unit)
	return uint64(s.Totalram) * unit, uint64(s.Totalswap) * unit, nil //nolint:unconvert // 32-bit machines have other types
}

// existing is the nearest folder at or above path that is there.
func existing(path string) string {
	for {
		if fi, err := os.Stat(path); err == nil && fi.IsDir() {
			return path
		}
		up := filepath.Dir(path)
		if up == path {
			return path
		}
		path = up
	}
}

func checkToken(file string) error {
	text, err := pki.ReadToken(file)
	if err != nil {
		return err
	}
	if err := pki.TokenValid(text, time.Now()); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
