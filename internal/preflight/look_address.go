package preflight

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The probes of RFC 5227 (IPv4 address conflict detection), in a hurry: as many,
// closer together.
const (
	arpProbes = 3
	arpWait   = 200 * time.Millisecond // after each
)

// lookDuplicates asks the network whether another machine has this one's address
// too, and returns the hardware addresses of those that say so. An address that is
// on no interface, or a loopback one, is asked for nowhere.
func lookDuplicates(ctx context.Context, address string) ([]string, error) {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return nil, err
	}
	addr = addr.Unmap()
	ifi, own, err := interfaceOf(addr)
	switch {
	case err != nil:
		return nil, err
	case ifi == nil || ifi.Flags&net.FlagLoopback != 0 || len(ifi.HardwareAddr) != 6:
		return nil, nil
	case addr.Is6():
		return duplicate6(addr)
	}
	return probeARP(ctx, ifi, addr, own)
}

// interfaceOf finds the interface that has addr, and all hardware addresses of
// this machine: one interface may answer for another.
func interfaceOf(addr netip.Addr) (found *net.Interface, own []string, err error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, nil, err
	}
	for i := range all {
		own = append(own, all[i].HardwareAddr.String())
		list, err := all[i].Addrs()
		if err != nil {
			continue // it has gone
		}
		for _, a := range list {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == addr {
				found = &all[i]
			}
		}
	}
	return found, own, nil
}

// duplicate6 reads what the kernel itself found when the IPv6 address was added
// (RFC 4862): flag 0x08 is IFA_F_DADFAILED.
func duplicate6(addr netip.Addr) ([]string, error) {
	text, err := os.ReadFile("/proc/net/if_inet6")
	if err != nil {
		return nil, err
	}
	raw := addr.As16()
	want := fmt.Sprintf("%x", raw[:])
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) == 6 && f[0] == want {
			var flags int
			if _, err := fmt.Sscanf(f[4], "%x", &flags); err != nil {
				return nil, err
			}
			if flags&unix.IFA_F_DADFAILED != 0 {
				return []string{"the kernel's own probe on " + f[5] + " failed"}, nil
			}
		}
	}
	return nil, nil
}

func probeARP(ctx context.Context, ifi *net.Interface, addr netip.Addr, own []string) ([]string, error) {
	const etherARP = unix.ETH_P_ARP<<8&0xff00 | unix.ETH_P_ARP>>8 // network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, etherARP)
	if errors.Is(err, unix.EPERM) {
		return nil, errors.New("only root may ask the network")
	}
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	here := &unix.SockaddrLinklayer{Protocol: etherARP, Ifindex: ifi.Index}
	if err := unix.Bind(fd, here); err != nil {
		return nil, fmt.Errorf("bind to %s: %w", ifi.Name, err)
	}
	everyone := &unix.SockaddrLinklayer{Protocol: etherARP, Ifindex: ifi.Index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	var others []string
	for range arpProbes {
		if err := unix.Sendto(fd, arpProbe(ifi.HardwareAddr, addr), 0, everyone); err != nil {
			return others, fmt.Errorf("ask on %s: %w", ifi.Name, err)
		}
		for until := time.Now().Add(arpWait); ctx.Err() == nil && time.Now().Before(until); {
			packet, err := receive(fd, time.Until(until))
			if err != nil {
				return others, err
			}
			if packet == nil {
				break
			}
			if mac := claims(packet, addr); mac != "" && !slices.Contains(own, mac) && !slices.Contains(others, mac) {
				others = append(others, mac)
			}
		}
	}
	return others, ctx.Err()
}

// receive waits for a packet; nil when none came in time.
func receive(fd int, wait time.Duration) ([]byte, error) {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a file descriptor is small
	n, err := unix.Poll(poll, int(max(wait, 0)/time.Millisecond))
	switch {
	case errors.Is(err, unix.EINTR):
		return []byte{}, nil // no packet, and time left perhaps
	case err != nil:
		return nil, fmt.Errorf("wait for answers: %w", err)
	case n == 0:
		return nil, nil
	}
	buf := make([]byte, 128)
	if n, _, err = unix.Recvfrom(fd, buf, 0); err != nil {
		return nil, fmt.Errorf("read answers: %w", err)
	}
	return buf[:n], nil
}

// An ARP packet for Ethernet and IPv4 (RFC 826): hardware 1, protocol 0x0800,
// lengths 6 and 4, operation, then sender and target, each as hardware address
// and IP address.
const arpBytes = 28

var arpHead = []byte{0, 1, 8, 0, 6, 4}

// arpProbe asks who has addr, without saying that we do (RFC 5227, 2.1.1).
func arpProbe(mac net.HardwareAddr, addr netip.Addr) []byte {
	p := append(slices.Clone(arpHead), 0, 1)
	p = append(p, mac...)
	p = append(p, 0, 0, 0, 0)       // no sender's IP address
	p = append(p, 0, 0, 0, 0, 0, 0) // the hardware address asked for
	ip := addr.As4()
	return append(p, ip[:]...)
}

// claims returns the hardware address of who says to have addr, or asks for it as
// someone does who wants to have it; empty when the packet says neither.
func claims(packet []byte, addr netip.Addr) string {
	if len(packet) < arpBytes || !bytes.Equal(packet[:6], arpHead) {
		return ""
	}
	operation := binary.BigEndian.Uint16(packet[6:])
	sender, target := [4]byte(packet[14:18]), [4]byte(packet[24:28])
	ip := addr.As4()
	if sender == ip || (operation == 1 && sender == [4]byte{} && target == ip) {
		return net.HardwareAddr(packet[8:14]).String()
	}
	return ""
}
