package lb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrListenAddress is in the error for an address that nobody can listen on.
var ErrListenAddress = errors.New("want IP:port, :port or unix:/PATH")

// Listen returns listening sockets for the addresses (IP:port, :port or
// unix:PATH): an inherited one where it is bound to that address, a new one
// else. Without addresses it returns the inherited ones. What is inherited and
// not asked for is closed.
func Listen(ctx context.Context, addrs []string, inherited []*os.File) (files []*os.File, err error) {
	if len(addrs) == 0 {
		return inherited, nil
	}
	have := map[string]*os.File{}
	for _, f := range inherited {
		a, err := boundTo(f)
		if err != nil {
			return nil, fmt.Errorf("inherited socket %s: %w", f.Name(), err)
		}
		have[a] = f
	}
	defer func() {
		for _, f := range have {
			_ = f.Close()
		}
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
		}
	}()
	for _, addr := range addrs {
		a, err := canonicalListen(addr)
		if err != nil {
			return files, err
		}
		if f := have[a]; f != nil {
			delete(have, a)
			files = append(files, f)
			continue
		}
		f, err := listenNew(ctx, a)
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

// TakeInherited takes the socket that is bound to addr out of those inherited; the
// first result is nil if there is none.
func TakeInherited(addr string, inherited []*os.File) (taken *os.File, rest []*os.File, err error) {
	want, err := canonicalListen(addr)
	if err != nil {
		return nil, inherited, err
	}
	for _, f := range inherited {
		bound, err := boundTo(f)
		if err != nil {
			return nil, inherited, fmt.Errorf("inherited socket %s: %w", f.Name(), err)
		}
		if bound == want && taken == nil {
			taken = f
			continue
		}
		rest = append(rest, f)
	}
	return taken, rest, nil
}

// canonicalListen writes addr the way boundTo does, where that needs no resolving.
func canonicalListen(addr string) (string, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if !strings.HasPrefix(path, "/") {
			return "", fmt.Errorf("listen address %q: %w", addr, ErrListenAddress)
		}
		return addr, nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("listen address %q: %w", addr, ErrListenAddress)
	}
	if host == "" || host == "*" {
		return "[::]:" + port, nil
	}
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String(), nil
	}
	return addr, nil // a host name: bound to its address
}

func listenNew(ctx context.Context, addr string) (*os.File, error) {
	network := "tcp"
	address, isUnix := strings.CutPrefix(addr, "unix:")
	if isUnix {
		network = "unix"
		// A socket left behind by a dead process would make every start fail.
		if c, err := net.Dial("unix", address); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("listen on %s: another process serves there", addr)
		}
		_ = os.Remove(address)
	}
	lc := net.ListenConfig{KeepAlive: -1} // see dataplane.PrepareListener
	lc.SetMultipathTCP(false)             // its sockets cannot be spliced
	ln, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	defer ln.Close()
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	f, err := ln.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return f, nil
}

// boundTo is the address that a listening socket is bound to.
func boundTo(f *os.File) (string, error) {
	sa, err := unix.Getsockname(int(f.Fd()))
	if err != nil {
		return "", fmt.Errorf("read the address of a socket: %w", err)
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String(), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)).String(), nil
	case *unix.SockaddrUnix:
		return "unix:" + a.Name, nil
	}
	return "", fmt.Errorf("socket of an unknown family: %T", sa)
}

// detach takes the descriptor out of f, which is closed.
func detach(f *os.File) (int, error) {
	fd, err := dup(f)
	if err != nil {
		return -1, err
	}
	return fd, f.Close()
}

func dup(f *os.File) (int, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return -1, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return fd, nil
}

// ownAddresses are where this balancer listens; a backend there would be a loop.
type ownAddresses []string

func addressesOf(files []*os.File) (own ownAddresses, err error) {
	for _, f := range files {
		if on, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
			return nil, fmt.Errorf("%s is not a listening stream socket", f.Name())
		}
		a, err := boundTo(f)
		if err != nil {
			return nil, err
		}
		own = append(own, a)
	}
	return own, nil
}

func (own ownAddresses) String() string { return strings.Join(own, ", ") }

// has says whether connections to address would come back here.
func (own ownAddresses) has(address string) bool {
	ap, err := netip.ParseAddrPort(address)
	for _, o := range own {
		if o == address {
			return true
		}
		oap, oerr := netip.ParseAddrPort(o)
		if err == nil && oerr == nil && oap.Port() == ap.Port() && oap.Addr().IsUnspecified() && isLocal(ap.Addr()) {
			return true
		}
	}
	return false
}

// among refuses a list with this balancer itself in it.
func (own ownAddresses) among(list []Backend) error {
	for _, be := range list {
		if own.has(be.Address) {
			return fmt.Errorf("backend %s: %s is this balancer's own address: connections would go in a circle", be.Name, be.Address)
		}
	}
	return nil
}

func isLocal(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, i := range addrs {
		if n, ok := i.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == a {
				return true
			}
		}
	}
	return false
}
