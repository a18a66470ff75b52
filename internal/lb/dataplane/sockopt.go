package dataplane

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

type sockOpt struct {
	level, opt int
	value      int32
}

// clientFactor is how much more silence a client's machine may have than a
// backend's: a laptop that changes its network comes back.
const clientFactor = 6

// deadPeerOpts are set on a TCP socket. Keep-alive probes find a silent path
// under an idle connection: the first at two fifths of after, then until after.
//
// TCP_USER_TIMEOUT is left alone on purpose: it also ends a connection whose
// peer acknowledges everything but does not read for a while (a paged `kubectl
// logs -f`, `kubectl exec` into a busy program). See sweep for unacknowledged bytes.
func deadPeerOpts(after time.Duration) []sockOpt {
	opts := []sockOpt{{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}}
	if after <= 0 {
		return opts
	}
	sec := int32((after + time.Second - 1) / time.Second)
	idle := max(1, sec*2/5)
	const probes = 3
	interval := max(1, (sec-idle)/probes)
	count := max(1, (sec-idle)/interval)
	return append(opts,
		sockOpt{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		sockOpt{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, idle},
		sockOpt{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, interval},
		sockOpt{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, count})
}

// setOpts prepares a backend's socket for a life of more than a moment: five
// calls that a short connection does not need. A failure leaves the kernel's default.
func (l *loop) setOpts(fd int32) {
	for i := range l.opts {
		o := &l.opts[i]
		_ = rawSetInt(fd, o.level, o.opt, &o.value)
	}
}

// PrepareListener sets on a listening TCP socket what accepted connections
// inherit. Other sockets are left as they are.
func PrepareListener(fd int, deadAfter time.Duration) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return fmt.Errorf("read the listener's domain: %w", err)
	}
	if domain != unix.AF_INET && domain != unix.AF_INET6 {
		return nil
	}
	for _, o := range deadPeerOpts(deadAfter * clientFactor) {
		if err := unix.SetsockoptInt(fd, o.level, o.opt, int(o.value)); err != nil {
			return fmt.Errorf("set option %d/%d of the listener: %w", o.level, o.opt, err)
		}
	}
	return nil
}

func zoneID(zone string) (uint32, error) {
	ifc, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("zone %q: %w", zone, err)
	}
	return uint32(ifc.Index), nil
}
