package hosts

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/test/hosts/internal/link"
	"github.com/hactl/hactl/test/hosts/internal/wire"
)

// Observer is the name of the lab's own end of the network, where the test's
// connections come from. It can be cut like a host.
const Observer = wire.Observer

// Slowness says how a slow way treats what passes.
type Slowness = link.Shape

// Cut lets nothing pass between a and b, in neither direction. Connections hang,
// as they do when a cable is pulled.
func (l *Lab) Cut(ctx context.Context, a, b string) error {
	return l.ways(ctx, wire.OpCut, nil, both(a, b)...)
}

// CutOneWay lets nothing pass from a to b.
func (l *Lab) CutOneWay(ctx context.Context, from, to string) error {
	return l.ways(ctx, wire.OpCut, nil, Way{From: from, To: to})
}

// Partition cuts every host of each group from every host of the other groups.
func (l *Lab) Partition(ctx context.Context, groups ...[]string) error {
	var ways []Way
	for i, group := range groups {
		for _, other := range groups[i+1:] {
			for _, a := range group {
				for _, b := range other {
					ways = append(ways, both(a, b)...)
				}
			}
		}
	}
	return l.ways(ctx, wire.OpCut, nil, ways...)
}

// Isolate cuts the host from all others and, if the observer is to be cut too,
// from the test.
func (l *Lab) Isolate(ctx context.Context, host string, observerToo bool) error {
	var ways []Way
	for _, h := range l.hosts {
		if h.name != host {
			ways = append(ways, both(host, h.name)...)
		}
	}
	if observerToo {
		ways = append(ways, both(host, Observer)...)
	}
	return l.ways(ctx, wire.OpCut, nil, ways...)
}

// Slow makes both directions between a and b slow, instead of how slow they were
// before. The time is added to each direction: a round trip gets it twice.
func (l *Lab) Slow(ctx context.Context, a, b string, s Slowness) error {
	return l.ways(ctx, wire.OpSlow, &s, both(a, b)...)
}

// SlowOneWay makes the way from a to b slow.
func (l *Lab) SlowOneWay(ctx context.Context, from, to string, s Slowness) error {
	return l.ways(ctx, wire.OpSlow, &s, Way{From: from, To: to})
}

// Heal undoes every cut and slowness.
func (l *Lab) Heal(ctx context.Context) error { return l.ways(ctx, wire.OpHeal, nil) }

// HealBetween undoes what was done between a and b.
func (l *Lab) HealBetween(ctx context.Context, a, b string) error {
	return l.ways(ctx, wire.OpHeal, nil, both(a, b)...)
}

func both(a, b string) []Way { return []Way{{From: a, To: b}, {From: b, To: a}} }

func (l *Lab) ways(ctx context.Context, op string, s *Slowness, ways ...Way) error {
	_, err := l.call(ctx, wire.Request{Op: op, Ways: ways, Shape: s})
	return err
}

// DialContext connects from the observer to an address of the lab; host names
// of the lab are known. It can be an http.Transport's or a gRPC dialer.
func (l *Lab) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	address, err := l.resolve(address)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	err = l.inside(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens at the observer, where hosts reach it at 10.245.1.1; the host
// part of address may be empty.
func (l *Lab) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var listener net.Listener
	err := l.inside(func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(ctx, network, address)
		return err
	})
	return listener, err
}

// resolve replaces a host's name by its address. Anything else must be an
// address of the lab, so that nothing is looked up outside.
func (l *Lab) resolve(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if h, err := l.Named(host); err == nil {
		return net.JoinHostPort(h.address.String(), port), nil
	}
	if host == Observer {
		return net.JoinHostPort(wire.Address(0).String(), port), nil
	}
	if ip, err := netip.ParseAddr(host); err != nil || !wire.Network().Contains(ip) && !ip.IsLoopback() {
		return "", fmt.Errorf("dial %s: neither a host nor an address of lab %s", address, l.Name())
	}
	return address, nil
}

// inside calls f on a thread that is in the lab's network namespace. Sockets that
// f makes, in its own goroutine, stay there.
func (l *Lab) inside(f func() error) error {
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", l.state.KeeperPID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("lab %s: its network: %w", l.Name(), err)
	}
	defer unix.Close(ns)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(home)
			err = unix.Setns(ns, unix.CLONE_NEWNET)
		}
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("lab %s: enter its network: %w", l.Name(), err)
			return
		}
		err = f()
		// A thread that cannot go home stays locked, and ends with this goroutine.
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Sealed returns nil if the lab's network has no way out: it is not the
// machine's, no interface in it is up but the lab's own, and no route is a
// default route. Up has called it; a test that sends harmful traffic, or trusts
// in being alone, calls it again.
func (l *Lab) Sealed() error {
	var v view
	machine, err := netns("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	lab, err := netns(fmt.Sprintf("/proc/%d/ns/net", l.state.KeeperPID))
	if err != nil {
		return err
	}
	v.machines = machine == lab
	if err := l.inside(v.read); err != nil {
		return err
	}
	if faults := v.faults(); len(faults) > 0 {
		return fmt.Errorf("lab %s: %w: %s", l.Name(), ErrNotSealed, strings.Join(faults, ", "))
	}
	return nil
}

// view is what Sealed looks at.
type view struct {
	machines bool // it is the network namespace of the calling process
	up       []string
	defaults int
}

func netns(path string) (id [2]uint64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return id, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return [2]uint64{st.Dev, st.Ino}, nil
}

// read reads interfaces and routes in the calling thread's namespace.
func (v *view) read() error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp != 0 {
			v.up = append(v.up, i.Name)
		}
	}
	table, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, syscall.AF_UNSPEC)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(table)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, m := range messages {
		// struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type.
		if m.Header.Type == syscall.RTM_NEWROUTE && len(m.Data) >= syscall.SizeofRtMsg && m.Data[1] == 0 && m.Data[7] == syscall.RTN_UNICAST {
			v.defaults++
		}
	}
	return nil
}

func (v *view) faults() (faults []string) {
	if v.machines {
		faults = append(faults, "it is the machine's own namespace")
	}
	for _, name := range v.up {
		if name != "lo" && name != wire.Bridge && name != Observer && !strings.HasPrefix(name, link.Port("")) {
			faults = append(faults, fmt.Sprintf("interface %s is up", name))
		}
	}
	if v.defaults > 0 {
		faults = append(faults, "there is a default route")
	}
	return faults
}
