package lb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrListenAddress is in the error for an address that nobody can listen on.
var ErrListenAddress = errors.New("want IP:port, :port or unix:/PATH")

// Listen returns listening sockets for the addresses (IP:port, :port or
// unix:PATH): an inherited one where it is bound to that address, a new one
// else. 0.0.0.0:port is IPv4 alone, :port and [::]:port are both families. Without addresses it returns the inherited ones. What is inherited and
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
		want, err := parseListen(addr)
		if err != nil {
			return files, err
		}
		if f := want.takeFrom(have); f != nil {
			files = append(files, f)
			continue
		}
		f, err := want.listen(ctx)
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
	want, err := parseListen(addr)
	if err != nil {
		return nil, inherited, err
	}
	have := map[string]*os.File{}
	for _, f := range inherited {
		bound, err := boundTo(f)
		if err != nil {
			return nil, inherited, fmt.Errorf("inherited socket %s: %w", f.Name(), err)
		}
		have[bound] = f
	}
	taken = want.takeFrom(have)
	rest = slices.DeleteFunc(slices.Clone(inherited), func(f *os.File) bool { return f == taken })
	return taken, rest, nil
}

// listenAddress is an address to listen on.
type listenAddress struct {
	network, address string   // for net.Listen
	bound            []string // what boundTo says of sockets that serve it, the best one first
}

// parseListen reads IP:port, :port, *:port or unix:/PATH. Host names are refused: what
// they lead to may be something else when a successor looks for its socket.
func parseListen(addr string) (listenAddress, error) {
	wrong := fmt.Errorf("listen address %q: %w", addr, ErrListenAddress)
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if !strings.HasPrefix(path, "/") {
			return listenAddress{}, wrong
		}
		return listenAddress{"unix", path, []string{addr}}, nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return listenAddress{}, wrong
	}
	if host == "" || host == "*" {
		host = "::"
	}
	ip, err1 := netip.ParseAddr(host)
	n, err2 := strconv.ParseUint(port, 10, 16)
	if err1 != nil || err2 != nil {
		return listenAddress{}, wrong
	}
	at := func(ip netip.Addr) string { return netip.AddrPortFrom(ip.WithZone(""), uint16(n)).String() }
	var (
		v4   = at(netip.IPv4Unspecified())
		both = at(netip.IPv6Unspecified())
	)
	switch ip = ip.Unmap(); {
	case ip == netip.IPv6Unspecified():
		// Without a host Go serves both families, or IPv4 where the kernel has no IPv6.
		return listenAddress{"tcp", ":" + port, []string{both, v4}}, nil
	case ip == netip.IPv4Unspecified():
		return listenAddress{"tcp4", v4, []string{v4, both}}, nil
	}
	return listenAddress{"tcp", netip.AddrPortFrom(ip, uint16(n)).String(), []string{at(ip)}}, nil
}

// takeFrom takes the socket that serves a out of have, by where they are bound; nil
// if there is none.
func (a listenAddress) takeFrom(have map[string]*os.File) *os.File {
	for _, bound := range a.bound {
		if f := have[bound]; f != nil {
			delete(have, bound)
			return f
		}
	}
	return nil
}

func (a listenAddress) listen(ctx context.Context) (*os.File, error) {
	if a.network == "unix" {
		// A socket left behind by a dead process would make every start fail.
		if c, err := net.Dial("unix", a.address); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("listen on unix:%s: another process serves there", a.address)
		}
		_ = os.Remove(a.address)
	}
	lc := net.ListenConfig{KeepAlive: -1} // see dataplane.PrepareListener
	lc.SetMultipathTCP(false)             // its sockets cannot be spliced
	ln, err := lc.Listen(ctx, a.network, a.address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a.address, err)
	}
	defer ln.Close()
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	f, err := ln.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a.address, err)
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
			if oap.Addr().Is4() && !ap.Addr().Unmap().Is4() {
				continue // 0.0.0.0 is IPv4 alone
			}
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
