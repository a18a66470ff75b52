package preflight

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// readProcess says what a process is; it may be gone meanwhile, and then has
// only its number.
func readProcess(pid int) Process {
	p := Process{PID: pid}
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	if exe, err := os.Readlink(filepath.Join(dir, "exe")); err == nil {
		p.Name = filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	} else if comm, err := os.ReadFile(filepath.Join(dir, "comm")); err == nil {
		p.Name = strings.TrimSpace(string(comm))
	}
	if text, err := os.ReadFile(filepath.Join(dir, "cgroup")); err == nil {
		p.Unit = unitOf(string(text))
	}
	return p
}

// unitOf finds systemd's unit in /proc/PID/cgroup: the innermost element of the
// path that is a unit, in systemd's own hierarchy or the unified one.
func unitOf(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || (parts[1] != "" && parts[1] != "name=systemd") {
			continue
		}
		elements := strings.Split(parts[2], "/")
		for _, e := range slices.Backward(elements) {
			if strings.HasSuffix(e, ".service") || strings.HasSuffix(e, ".scope") {
				return e
			}
		}
	}
	return ""
}

// pids are all processes that this one sees.
func pids() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// sockets maps the inode of each socket that is open to a process that has it;
// PID 1, which keeps them for others, only if no one else has.
func sockets() map[string]int {
	out := map[string]int{}
	for _, pid := range pids() {
		fds, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd", "*"))
		if err != nil {
			continue
		}
		for _, fd := range fds {
			target, err := os.Readlink(fd)
			if err != nil {
				continue
			}
			if inode, ok := strings.CutPrefix(target, "socket:["); ok {
				inode = strings.TrimSuffix(inode, "]")
				if old, there := out[inode]; !there || old == 1 {
					out[inode] = pid
				}
			}
		}
	}
	return out
}

// bound is a socket that /proc/net shows as listening (TCP) or bound (UDP).
type bound struct {
	net   string
	local netip.AddrPort
	inode string
}

// boundSockets reads the sockets of this network namespace.
func boundSockets() []bound {
	var out []bound
	for _, network := range []string{"tcp", "udp"} {
		for _, family := range []string{"", "6"} {
			if text, err := os.ReadFile("/proc/self/net/" + network + family); err == nil {
				out = append(out, parseSockets(network, text)...)
			}
		}
	}
	return out
}

// parseSockets reads a table such as /proc/net/tcp: sl local_address rem_address
// st tx:rx tr:tm retrnsmt uid timeout inode. Of TCP only listeners (state 0A)
// count.
func parseSockets(network string, text []byte) []bound {
	var out []bound
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Scan() // the heading
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || (network == "tcp" && f[3] != "0A") {
			continue
		}
		if local, err := parseHexAddrPort(f[1]); err == nil {
			out = append(out, bound{network, local, f[9]})
		}
	}
	return out
}

// parseHexAddrPort reads 0100007F:1F90: the address as 32-bit words in the
// machine's (little-endian) order, the port in hexadecimal.
func parseHexAddrPort(s string) (netip.AddrPort, error) {
	host, port, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || (len(host) != 8 && len(host) != 32) {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", s)
	}
	raw := make([]byte, 0, 16)
	for i := 0; i < len(host); i += 8 {
		word, err := strconv.ParseUint(host[i:i+8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("%q is no address", s)
		}
		raw = append(raw, byte(word), byte(word>>8), byte(word>>16), byte(word>>24))
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}
