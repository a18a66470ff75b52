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
// else. 0.0.0.0:port is IPv4 alone, :port and [::]:port are both families, except
// that [::]:port takes an inherited socket that is IPv6 alone as it is. Without addresses it returns
// the inherited ones. What is inherited and not asked for is closed; unused says where it was bound.
func Listen(ctx context.Context, addrs []string, inherited []*os.File) (files []*os.File, unused []string, err error) {
	if len(addrs) == 0 {
		return inherited, nil, nil
	}
	have, err := boundSockets(inherited)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		for _, s := range have {
			unused = append(unused, s.at.String())
			_ = s.Close()
		}
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
		}
	}()
	wants, err := parseAll(addrs)
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i < len(wants); i++ {
		s := wants[i].takeFrom(&have)
		if s.File == nil {
			if s.File, err = wants[i].listen(ctx); err != nil {
				return files, nil, err
			}
		}
		files = append(files, s.File)
		if four := wants[i].v4; s.at.v6only && four != nil && !slices.ContainsFunc(wants, func(a listenAddress) bool { return a.address == four.address }) {
			wants = append(wants, *four)
		}
	}
	return files, nil, nil
}

// TakeInherited takes the socket that is bound to addr out of those inherited; the
// first result is nil if there is none.
func TakeInherited(addr string, inherited []*os.File) (taken *os.File, rest []*os.File, err error) {
	want, err := parseListen(addr)
	if err != nil {
		return nil, inherited, err
	}
	have, err := boundSockets(inherited)
	if err != nil {
		return nil, inherited, err
	}
	taken = want.takeFrom(&have).File
	rest = slices.DeleteFunc(slices.Clone(inherited), func(f *os.File) bool { return f == taken })
	return taken, rest, nil
}

// IPv4Alone are those of addrs that mean IPv6 too, or alone, and are served by one of
// files that does not have it.
func IPv4Alone(addrs []string, files []*os.File) (alone []string) {
	have, err := boundSockets(files)
	wants, err2 := parseAll(addrs)
	if err != nil || err2 != nil {
		return nil
	}
	for i, a := range wants {
		six := a.bound[0].address
		if netip.AddrPortFrom(netip.IPv6Unspecified(), portOf(six)).String() != six {
			continue
		}
		if !slices.ContainsFunc(have, func(s boundSocket) bool { return s.at.address == six }) {
			alone = append(alone, addrs[i])
		}
	}
	return alone
}

func portOf(address string) uint16 {
	ap, _ := netip.ParseAddrPort(address)
	return ap.Port()
}

// endpoint is where a listening socket is bound.
type endpoint struct {
	address string // IP:port or unix:PATH
	v6only  bool   // the address is [::], and IPv4 does not come in there
}

func (e endpoint) String() string {
	if e.v6only {
		return e.address + " (IPv6 only)"
	}
	return e.address
}

// boundSocket is a listening socket and where it is bound.
type boundSocket struct {
	*os.File
	at endpoint
}

func boundSockets(files []*os.File) (all []boundSocket, err error) {
	for _, f := range files {
		at, err := boundTo(f)
		if err != nil {
			return nil, fmt.Errorf("inherited socket %s: %w", f.Name(), err)
		}
		all = append(all, boundSocket{f, at})
	}
	return all, nil
}

// listenAddress is an address to listen on.
type listenAddress struct {
	network, address string         // for net.Listen
	bound            []endpoint     // where sockets are bound that serve it, the best one first
	v4               *listenAddress // what it wants beside a socket that is IPv6 alone; nil: nothing
}

func parseAll(addrs []string) (all []listenAddress, err error) {
	for _, addr := range addrs {
		a, err := parseListen(addr)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// parseListen reads IP:port, :port, *:port or unix:/PATH. Host names are refused: what
// they lead to may be something else when a successor looks for its socket.
func parseListen(addr string) (listenAddress, error) {
	wrong := fmt.Errorf("listen address %q: %w", addr, ErrListenAddress)
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if !strings.HasPrefix(path, "/") {
			return listenAddress{}, wrong
		}
		return listenAddress{network: "unix", address: path, bound: []endpoint{{address: addr}}}, nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return listenAddress{}, wrong
	}
	both := host == "" || host == "*"
	if both {
		host = "::"
	}
	ip, err1 := netip.ParseAddr(host)
	n, err2 := strconv.ParseUint(port, 10, 16)
	if err1 != nil || err2 != nil {
		return listenAddress{}, wrong
	}
	at := func(ip netip.Addr) endpoint {
		return endpoint{address: netip.AddrPortFrom(ip.WithZone(""), uint16(n)).String()}
	}
	var (
		v4   = at(netip.IPv4Unspecified())
		dual = at(netip.IPv6Unspecified())
		v6   = endpoint{address: dual.address, v6only: true}
		four = listenAddress{network: "tcp4", address: v4.address, bound: []endpoint{v4, dual}}
	)
	switch ip = ip.Unmap(); {
	case ip == netip.IPv4Unspecified():
		return four, nil
	case ip == netip.IPv6Unspecified():
		// Without a host Go serves both families, or IPv4 where the kernel has no IPv6.
		a := listenAddress{network: "tcp", address: ":" + port, bound: []endpoint{dual, v6, v4}}
		if both {
			a.v4 = &four
		}
		return a, nil
	}
	return listenAddress{network: "tcp", address: netip.AddrPortFrom(ip, uint16(n)).String(), bound: []endpoint{at(ip)}}, nil
}

// takeFrom takes the socket that serves a out of have, by where they are bound; one
// without a file if there is none.
func (a listenAddress) takeFrom(have *[]boundSocket) boundSocket {
	for _, at := range a.bound {
		if i := slices.IndexFunc(*have, func(s boundSocket) bool { return s.at == at }); i >= 0 {
			s := (*have)[i]
			*have = slices.Delete(*have, i, i+1)
			return s
		}
	}
	return boundSocket{}
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

// boundTo is where a listening socket is bound.
func boundTo(f *os.File) (endpoint, error) {
	sa, err := unix.Getsockname(int(f.Fd()))
	if err != nil {
		return endpoint{}, fmt.Errorf("read the address of a socket: %w", err)
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return endpoint{address: netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()}, nil
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr).Unmap()
		e := endpoint{address: netip.AddrPortFrom(ip, uint16(a.Port)).String()}
		if ip == netip.IPv6Unspecified() { // any other address is of one family anyway
			only, err := unix.GetsockoptInt(int(f.Fd()), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
			e.v6only = err == nil && only != 0 // some kernels do not tell it of an MPTCP socket
		}
		return e, nil
	case *unix.SockaddrUnix:
		return endpoint{address: "unix:" + a.Name}, nil
	}
	return endpoint{}, fmt.Errorf("socket of an unknown family: %T", sa)
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
type ownAddresses []endpoint

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

func (own ownAddresses) String() string { return strings.Join(own.texts(), ", ") }

func (own ownAddresses) texts() (all []string) {
	for _, at := range own {
		all = append(all, at.String())
	}
	return all
}

// has says whether connections to address would come back here.
func (own ownAddresses) has(address string) bool {
	ap, err := netip.ParseAddrPort(address)
	for _, o := range own {
		if o.address == address {
			return true
		}
		at, oerr := netip.ParseAddrPort(o.address)
		if err == nil && oerr == nil && at.Port() == ap.Port() && at.Addr().IsUnspecified() && isLocal(ap.Addr()) {
			if v4 := ap.Addr().Unmap().Is4(); v4 && o.v6only || !v4 && at.Addr().Is4() {
				continue // the other family
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
