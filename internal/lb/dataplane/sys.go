package dataplane

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The non-blocking calls below skip the Go scheduler: they never wait, and
// telling the scheduler of each would cost more than the call. Every pointer
// handed to the kernel points into the heap (loop and conn fields), because a
// stack may move while only a uintptr refers to it.

func rawRecv(fd int32, p []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0, 0, 0)
	return int(n), e
}

// rawWaiting reports whether there is anything to read from fd, an end included.
// It uses the first byte of p.
func rawWaiting(fd int32, p []byte) bool {
	_, _, e := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), 1, unix.MSG_PEEK, 0, 0)
	return e != unix.EAGAIN
}

func rawSend(fd int32, p []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
	return int(n), e
}

func rawSplice(from, to int32, max int) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(max), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	return int(n), e
}

func rawClose(fd int32) { _, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func rawShutdownWrite(fd int32) {
	_, _, _ = syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
}

func rawSocket(family, proto int) (int32, syscall.Errno) {
	fd, _, e := syscall.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, uintptr(proto))
	return int32(fd), e
}

func rawConnect(fd int32, sa []byte) syscall.Errno {
	_, _, e := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(sa))), uintptr(len(sa)))
	return e
}

func rawSetInt(fd int32, level, opt int, v *int32) syscall.Errno {
	_, _, e := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(opt), uintptr(unsafe.Pointer(v)), 4, 0)
	return e
}

func rawSetLinger(fd int32, v *unix.Linger) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(v)), unsafe.Sizeof(*v), 0)
}

func rawEpollAdd(ep int, fd int32, ev *unix.EpollEvent) syscall.Errno {
	_, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(ep), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(ev)), 0, 0)
	return e
}

// rawEpollWait waits at most ms milliseconds while holding its scheduler slot.
func rawEpollWait(ep int, evs []unix.EpollEvent, ms int) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(unsafe.SliceData(evs))), uintptr(len(evs)), uintptr(ms), 0, 0)
	return int(n), e
}

// acceptBuf receives the peer's address.
type acceptBuf struct {
	sa  unix.RawSockaddrAny
	len uint32
}

func rawAccept(fd int32, b *acceptBuf) (int32, syscall.Errno) {
	b.len = uint32(unsafe.Sizeof(b.sa))
	n, _, e := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&b.sa)), uintptr(unsafe.Pointer(&b.len)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int32(n), e
}

// rawTCPInfo fills b and reports whether the kernel did.
func rawTCPInfo(fd int32, b *tcpInfoBuf) bool {
	b.len = uint32(unsafe.Sizeof(b.info))
	_, _, e := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO, uintptr(unsafe.Pointer(&b.info)), uintptr(unsafe.Pointer(&b.len)), 0)
	return e == 0
}

type tcpInfoBuf struct {
	info unix.TCPInfo
	len  uint32
}
