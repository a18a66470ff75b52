package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/config"
)

// lookPorts tries every port of the master, and finds out who has those that are
// taken.
func lookPorts(ctx context.Context, c *config.Cluster, m config.Master) []PortUse {
	var out []PortUse
	for _, p := range c.Ports(m) {
		for _, network := range networks(p) {
			out = append(out, PortUse{Port: p, Net: network})
		}
	}
	// A holder that is not found may just have let go, or have begun anew, as an
	// agent does that reads a new configuration: then it is looked at once more.
	for range holderTries {
		if unknown := lookAtPorts(ctx, out); !unknown {
			break
		}
		select {
		case <-ctx.Done():
			return out
		case <-time.After(holderPause):
		}
	}
	return out
}

// How often, and after what pause, a taken port without a holder is tried again:
// together longer than one of our own parts takes to restart.
const (
	holderTries = 6
	holderPause = 250 * time.Millisecond
)

// lookAtPorts tries those of the ports whose holder is not known; it reports
// whether one that is taken has none still.
func lookAtPorts(ctx context.Context, ports []PortUse) (unknown bool) {
	var table []bound
	var owners map[string]int
	for i := range ports {
		u := &ports[i]
		if u.Holder.PID != 0 {
			continue
		}
		if u.Taken, u.Err = tryPort(u.Net, u.Port); !u.Taken {
			continue
		}
		if table == nil {
			table, owners = boundSockets(), sockets()
		}
		u.Holder = holder(ctx, *u, table, owners)
		unknown = unknown || u.Holder.PID == 0
	}
	return unknown
}

// networks are what a port is used with: memberlist speaks both.
func networks(p config.Port) []string {
	if p.Path == "agent.gossipPort" || p.Path == "agent.joinPort" {
		return []string{"tcp", "udp"}
	}
	return []string{"tcp"}
}

// tryPort binds the port, without listening on it. An address that is not on
// this machine is no fault of the port: it counts as free.
func tryPort(network string, p config.Port) (taken bool, err error) {
	addr, err := netip.ParseAddr(p.Address)
	if err != nil {
		return false, err
	}
	kind := unix.SOCK_STREAM
	if network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	family, to := sockaddr(addr, p.Port)
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if network == "tcp" {
		// Otherwise a port counts as taken while old connections linger.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return false, fmt.Errorf("SO_REUSEADDR: %w", err)
		}
	}
	switch err := unix.Bind(fd, to); {
	case err == nil, errors.Is(err, unix.EADDRNOTAVAIL):
		return false, nil
	case errors.Is(err, unix.EADDRINUSE):
		return true, nil
	default:
		return false, fmt.Errorf("bind: %w", err)
	}
}

func sockaddr(a netip.Addr, port int) (family int, to unix.Sockaddr) {
	if a.Unmap().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: a.Unmap().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: a.As16()}
}

// holder finds the process that has the port.
func holder(ctx context.Context, u PortUse, table []bound, owners map[string]int) Process {
	addr, err := netip.ParseAddr(u.Address)
	if err != nil {
		return Process{}
	}
	for _, b := range table {
		if b.net != u.Net || int(b.local.Port()) != u.Port.Port {
			continue
		}
		if b.local.Addr() != addr.Unmap() && !b.local.Addr().IsUnspecified() {
			continue
		}
		pid, ok := owners[b.inode]
		if !ok {
			continue
		}
		p := readProcess(pid)
		if pid == 1 {
			if unit := socketUnit(ctx, u.Port.Port); unit != "" {
				p.Unit = unit
			}
		}
		return p
	}
	return Process{}
}

// socketUnit is the socket unit for which systemd itself listens on a port; empty
// when there is none.
func socketUnit(ctx context.Context, port int) string {
	if !booted() {
		return ""
	}
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return ""
	}
	defer conn.Close()
	units, err := conn.ListUnitsByPatternsContext(ctx, []string{"active"}, []string{"*.socket"})
	if err != nil {
		return ""
	}
	for _, u := range units {
		listen, err := conn.GetUnitTypePropertyContext(ctx, u.Name, "Socket", "Listen")
		if err != nil {
			continue
		}
		pairs, _ := listen.Value.Value().([][]any)
		for _, pair := range pairs { // ("Stream", "10.0.0.1:6443")
			if len(pair) != 2 {
				continue
			}
			if address, _ := pair[1].(string); portOf(address) == port {
				return u.Name
			}
		}
	}
	return ""
}

func portOf(address string) int {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		port = address
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return -1
	}
	return n
}

// booted is sd_booted(3).
func booted() bool {
	fi, err := os.Lstat("/run/systemd/system")
	return err == nil && fi.IsDir()
}

func lookSystemd(ctx context.Context) Systemd {
	s := Systemd{Booted: booted()}
	if !s.Booted {
		return s
	}
	// The message bus, not systemd's private socket: that is what everyone else on
	// the machine needs as well, and what a user without root can see.
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		s.BusErr = err
		return s
	}
	defer conn.Close()
	if version, err := conn.GetManagerProperty("Version"); err == nil {
		s.Version = major(version)
	} else {
		s.BusErr = err
	}
	if state, err := conn.SystemStateContext(ctx); err == nil {
		s.State, _ = state.Value.Value().(string)
	}
	return s
}

// major reads the number from a version such as "252.39-1~deb12u2", quoted as in
// a D-Bus text.
func major(version string) int {
	digits := strings.TrimLeft(version, "\"v")
	end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		digits = digits[:end]
	}
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return n
}
