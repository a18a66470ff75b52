package dataplane

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Target is one backend as the data path sees it: an address, and counters that
// the loops keep. Make it with NewTarget or NewUnixTarget.
type Target struct {
	// Name is for logs and metrics.
	Name string

	family int
	sa     []byte       // ready for connect(2)
	streak atomic.Int32 // tries since the last answer that were refused or broken
	mute   atomic.Int32 // tries since the last answer that were silent
	per    []targetCounters
	loops  atomic.Int32 // so many of per have ever been used
}

// targetCounters belong to one loop, so that loops do not share a cache line.
type targetCounters struct {
	active, total      atomic.Int64
	bytesUp, bytesDown atomic.Int64
	failed, replayed   atomic.Int64
	heard              atomic.Int64 // when bytes last came from it, in milliseconds of the Unix time
	_                  [8]byte
}

// of returns loop's counters. Those who add all up look at no more than are used:
// each choice of a backend does.
func (t *Target) of(loop int) *targetCounters {
	for n := t.loops.Load(); int(n) <= loop; n = t.loops.Load() {
		t.loops.CompareAndSwap(n, int32(loop)+1)
	}
	return &t.per[loop]
}

// used are the counters that may differ from zero.
func (t *Target) used() []targetCounters { return t.per[:t.loops.Load()] }

// maxLoops bounds the loops of an engine and so the counters of a target.
const maxLoops = 64

// NewTarget makes a target from an address and port.
func NewTarget(name string, ap netip.AddrPort) (*Target, error) {
	if !ap.IsValid() || ap.Port() == 0 {
		return nil, fmt.Errorf("backend %s: address %s: want an IP address and a port", name, ap)
	}
	t := &Target{Name: name, per: make([]targetCounters, maxLoops)}
	addr := ap.Addr().Unmap()
	if addr.Is4() {
		sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: htons(ap.Port()), Addr: addr.As4()}
		t.family, t.sa = unix.AF_INET, bytesOf(unsafe.Pointer(&sa), unsafe.Sizeof(sa))
		return t, nil
	}
	sa := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: htons(ap.Port()), Addr: addr.As16()}
	if zone := addr.Zone(); zone != "" {
		id, err := zoneID(zone)
		if err != nil {
			return nil, fmt.Errorf("backend %s: %w", name, err)
		}
		sa.Scope_id = id
	}
	t.family, t.sa = unix.AF_INET6, bytesOf(unsafe.Pointer(&sa), unsafe.Sizeof(sa))
	return t, nil
}

// NewUnixTarget makes a target from the path of a unix socket.
func NewUnixTarget(name, path string) (*Target, error) {
	var sa unix.RawSockaddrUnix
	if path == "" || len(path) >= len(sa.Path) {
		return nil, fmt.Errorf("backend %s: unix socket path of %d bytes: want 1 to %d", name, len(path), len(sa.Path)-1)
	}
	sa.Family = unix.AF_UNIX
	for i := range len(path) {
		sa.Path[i] = int8(path[i])
	}
	n := unsafe.Offsetof(sa.Path) + uintptr(len(path)) + 1
	return &Target{Name: name, family: unix.AF_UNIX, sa: bytesOf(unsafe.Pointer(&sa), n), per: make([]targetCounters, maxLoops)}, nil
}

// Active is the number of connections that are at the target now, those being
// connected included.
func (t *Target) Active() int64 {
	var n int64
	per := t.used()
	for i := range per {
		n += per[i].active.Load()
	}
	return n
}

// Streak is how many tries have failed since a backend's last first byte (or, for
// plain connections, since its last accepted connect): those that were refused or
// broken, and those that were silent. An overloaded backend is silent too.
func (t *Target) Streak() (broken, silent int) { return int(t.streak.Load()), int(t.mute.Load()) }

// Heard is when the last bytes came from the target, to some milliseconds; the
// zero time if none ever did.
func (t *Target) Heard() time.Time {
	var ms int64
	per := t.used()
	for i := range per {
		ms = max(ms, per[i].heard.Load())
	}
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// TargetStats are counts since the target was made.
type TargetStats struct {
	Active    int64 // connections now
	Total     int64 // connections sent there, tries included
	BytesUp   int64 // client to backend
	BytesDown int64 // backend to client
	Failed    int64 // tries that ended in refusal, reset or end before the first byte
	Replayed  int64 // tries given up for another backend because no byte came in time
}

// Stats adds up the loops' counters.
func (t *Target) Stats() TargetStats {
	var s TargetStats
	per := t.used()
	for i := range per {
		p := &per[i]
		s.Active += p.active.Load()
		s.Total += p.total.Load()
		s.BytesUp += p.bytesUp.Load()
		s.BytesDown += p.bytesDown.Load()
		s.Failed += p.failed.Load()
		s.Replayed += p.replayed.Load()
	}
	return s
}

func bytesOf(p unsafe.Pointer, n uintptr) []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(p), n)...)
}

func htons(p uint16) uint16 {
	b := [2]byte{byte(p >> 8), byte(p)}
	return *(*uint16)(unsafe.Pointer(&b))
}
