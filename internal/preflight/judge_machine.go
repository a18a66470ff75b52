package preflight

import (
	"fmt"
	"strings"
	"time"
)

// oldestSystemd has every line of our units that protects something
// (ProtectProc came with 247).
const oldestSystemd = 247

func judgeRoot(f *Facts, v *verdict) {
	if f.UID != 0 {
		v.add(Error, "sudo hactl …", "a master is set up by root, and this is user %d", f.UID)
	}
}

func judgeSystemd(f *Facts, v *verdict) {
	s := f.Systemd
	switch {
	case !s.Booted:
		v.add(Error, "use a machine that systemd has booted; to try hactl out: hactl dev up",
			"PID 1 is not systemd, which is to supervise the master's processes")
	case s.State == "stopping", s.State == "maintenance":
		v.add(Error, "systemctl is-system-running --wait", "systemd is %s", s.State)
	case s.Version != 0 && s.Version < oldestSystemd:
		v.add(Warning, "upgrade the machine's distribution",
			"systemd %d is older than %d: the units run, without some of their protection", s.Version, oldestSystemd)
	}
}

func judgeDBus(f *Facts, v *verdict) {
	if err := f.Systemd.BusErr; err != nil {
		v.add(Error, "apt-get install dbus && systemctl start dbus.socket (or your distribution's way)",
			"systemd does not answer over D-Bus: %v", err)
	}
}

func judgeFsync(f *Facts, v *verdict) {
	d := f.Fsync
	if d.Err != nil {
		v.add(Error, "look at the disk: dmesg | tail; mount | grep ro,", "the disk of %s could not be measured: %v", d.Dir, d.Err)
		return
	}
	if d.FS == "tmpfs" {
		v.add(Warning, "mount a disk there", "%s is in memory (tmpfs): a reboot loses the member", d.Dir)
	}
	ms := func(t time.Duration) string { return t.Round(100 * time.Microsecond).String() }
	switch {
	case d.P99 > FsyncError:
		v.add(Error, "use a faster disk (an SSD of its own), or stop what writes to it: iostat -x 1",
			"a synced write to %s takes %s (99th percentile of %d, worst %s), longer than etcd's heartbeat may",
			d.Dir, ms(d.P99), d.Writes, ms(d.Max))
	case d.P99 > FsyncWarning:
		v.add(Warning, "use a faster disk (an SSD of its own), or raise etcd.heartbeat and etcd.election",
			"a synced write to %s takes %s (99th percentile of %d, worst %s); etcd advises less than %s",
			d.Dir, ms(d.P99), d.Writes, ms(d.Max), FsyncWarning)
	}
}

func judgeSpace(f *Facts, v *verdict) {
	for _, d := range f.Volumes {
		what := strings.Join(d.Paths, ", ")
		switch {
		case d.Err != nil:
			v.unknown(fmt.Errorf("%s: %w", what, d.Err))
		case d.ReadOnly:
			v.add(Error, "mount -o remount,rw, after a look at why: dmesg | tail", "the file system of %s is read-only", what)
		case d.Free+d.Own < d.Least:
			v.add(Error, "make room, or mount a larger disk there", "%s free for %s: less than %s, with which one must not start",
				size(d.Free), what, size(d.Least))
		case d.Free+d.Own < d.Need:
			v.add(Warning, "make room, mount a larger disk there, or lower etcd.quota",
				"%s free for %s: etcd's quota twice (the database and its defragmented copy), its log and the logs can take %s; "+
					"on a full disk a member ends before its quota stops it", size(d.Free), what, size(d.Need))
		}
	}
}

func judgeFiles(f *Facts, v *verdict) {
	const cure = "raise fs.nr_open (sysctl), or in a container its limit of open files"
	switch n := f.OpenFiles; {
	case f.OpenFilesErr != nil:
		v.unknown(f.OpenFilesErr)
	case n < OpenFilesError:
		v.add(Error, cure, "a process can open %d files at most, and the API server needs %d to start working", n, OpenFilesError)
	case n < OpenFilesWarning:
		v.add(Warning, cure, "a process can open %d files at most: the balancer carries about %d connections with that", n, n/6)
	}
}

func judgeClock(f *Facts, v *verdict) {
	switch {
	case f.ClockErr != nil:
		v.unknown(f.ClockErr)
	case f.Unsynchronised:
		v.add(Warning, "timedatectl set-ntp true (or install chrony)",
			"the clock follows no time server: certificates and tokens depend on it")
	}
}

func judgeSkew(f *Facts, v *verdict) {
	for _, p := range f.Peers {
		level := ""
		switch skew := p.Skew.Abs(); {
		case skew > SkewError:
			level = Error
		case skew > SkewWarning:
			level = Warning
		default:
			continue
		}
		side := "ahead of"
		if p.Skew < 0 {
			side = "behind"
		}
		v.add(level, "on both: timedatectl; then timedatectl set-ntp true, or date --set",
			"the clock of master %s is %s %s this machine's", p.Name, p.Skew.Abs().Round(10*time.Millisecond), side)
	}
}

func judgeMemory(f *Facts, v *verdict) {
	switch {
	case f.MemoryErr != nil:
		v.unknown(f.MemoryErr)
	case f.Memory < MemoryLeast:
		v.add(Warning, "give the machine 2 GB or more", "%s of memory: a master's processes may be killed for lack of it", size(f.Memory))
	}
}

func judgeCPU(f *Facts, v *verdict) {
	if f.CPUs < 2 {
		v.add(Warning, "give the machine 2 processors or more", "one processor: an API server that is busy delays etcd's heartbeats")
	}
}

func judgeSwap(f *Facts, v *verdict) {
	if f.MemoryErr == nil && f.Swap > 0 {
		v.add(Warning, "swapoff -a, and take it out of /etc/fstab",
			"swap is on (%s): a member that is swapped out misses its heartbeats, and kubelet refuses to start by default", size(f.Swap))
	}
}

// size writes a number of bytes for people.
func size(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	default:
		return fmt.Sprintf("%d KiB", n>>10)
	}
}
