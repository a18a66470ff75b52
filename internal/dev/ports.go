package dev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/prometheus/procfs"

	"github.com/hactl/hactl/internal/exitcode"
)

// checkFree returns an error that names every address in addrs that something
// else listens on, and who that is.
func checkFree(addrs []string) error {
	var errs []error
	for _, a := range addrs {
		ln, err := net.Listen("tcp", a)
		if err == nil {
			ln.Close()
			continue
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			errs = append(errs, fmt.Errorf("%s is taken by %s", a, listener(a)))
			continue
		}
		errs = append(errs, fmt.Errorf("cannot listen on %s: %w", a, err))
	}
	if len(errs) == 0 {
		return nil
	}
	return exitcode.Errorf(exitcode.Failed, "%w", errors.Join(errs...)).
		WithHint("end that process, or choose other addresses: hactl dev up --dir OTHER --network 127.0.7.0 --front-door 127.0.7.100:6443")
}

// listener names the process that listens on addr, as well as /proc tells.
func listener(addr string) string {
	const unknown = "another process"
	want, err := netip.ParseAddrPort(addr)
	if err != nil {
		return unknown
	}
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return unknown
	}
	inode := listenInode(fs, want)
	if inode == 0 {
		return unknown
	}
	procs, err := fs.AllProcs()
	if err != nil {
		return unknown
	}
	target := "socket:[" + strconv.FormatUint(inode, 10) + "]"
	for _, p := range procs {
		fds, err := p.FileDescriptorTargets()
		if err != nil {
			continue // ended, or not ours to look at
		}
		for _, fd := range fds {
			if fd == target {
				exe, _ := p.Executable()
				return fmt.Sprintf("process %d (%s)", p.PID, filepath.Base(exe))
			}
		}
	}
	return unknown
}

// listenInode finds the listening socket that keeps want from being bound: on
// the very address or on all of them.
func listenInode(fs procfs.FS, want netip.AddrPort) uint64 {
	const listen = 10                                                // TCP_LISTEN in the kernel's tcp_states.h
	tables := []func() (procfs.NetTCP, error){fs.NetTCP, fs.NetTCP6} //nolint:staticcheck // netlink is quicker and a dependency more; this is for one error message
	for _, table := range tables {
		lines, err := table()
		if err != nil {
			continue
		}
		for _, l := range lines {
			ip, ok := netip.AddrFromSlice(l.LocalAddr)
			if !ok || l.St != listen || l.LocalPort != uint64(want.Port()) {
				continue
			}
			if ip = ip.Unmap(); ip == want.Addr() || ip.IsUnspecified() {
				return l.Inode
			}
		}
	}
	return 0
}
