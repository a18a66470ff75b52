package dataplane

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	acceptBatch = 16  // per event, so that other loops and connections get their turn
	pauseMS     = 20  // without any descriptor left
	silentMS    = 100 // a client that has been silent for so long makes room for a newcomer
)

// watchListeners has epoll wake this loop for newcomers: one of the loops each.
func (l *loop) watchListeners() {
	for i, fd := range l.eng.listenerFDs() {
		l.watchListener(i, fd)
	}
}

func (l *loop) watchListener(i int, fd int32) {
	*l.ev = unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLEXCLUSIVE, Fd: dataListener, Pad: int32(i)}
	if errno := rawEpollAdd(l.ep, fd, l.ev); errno != 0 && errno != unix.EEXIST {
		l.eng.cfg.Logger.Error("watch listener", "err", errno)
	}
}

func (l *loop) unwatchListeners() {
	for _, fd := range l.eng.listenerFDs() {
		_ = unix.EpollCtl(l.ep, unix.EPOLL_CTL_DEL, int(fd), nil)
	}
}

// accept takes newcomers of listener i.
func (l *loop) accept(i int) {
	fds := l.eng.listenerFDs()
	if i >= len(fds) {
		return
	}
	for range acceptBatch {
		fd, errno := rawAccept(fds[i], l.peer)
		switch errno {
		case 0:
			l.admit(fd, peerAddr(&l.peer.sa))
		case unix.EAGAIN:
			return
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EMFILE, unix.ENFILE:
			if !l.shedWithReserve(fds[i]) {
				l.pause()
				return
			}
		default:
			l.pause() // no memory, or a broken listener: never spin
			return
		}
	}
}

// leaveListeners is this loop's part of StopAccepting. It may have begun to watch
// the listeners anew, after a pause, while they were being forgotten: a loop that
// watches one and does not accept from it would spin.
func (l *loop) leaveListeners(fds []int32) {
	for _, fd := range fds {
		_ = unix.EpollCtl(l.ep, unix.EPOLL_CTL_DEL, int(fd), nil)
		l.acceptAll(fd)
	}
}

// acceptAll takes everybody who waits at a listener that is about to be closed.
func (l *loop) acceptAll(listener int32) {
	for {
		fd, errno := rawAccept(listener, l.peer)
		switch errno {
		case 0:
			l.admit(fd, peerAddr(&l.peer.sa))
		case unix.EINTR, unix.ECONNABORTED:
		default:
			return
		}
	}
}

// admit keeps the newcomer if the limits allow, in the loop with the fewest.
func (l *loop) admit(fd int32, addr netip.Addr) {
	e := l.eng
	e.count.accepted.Add(1)
	if !e.limits.enter(addr) {
		e.count.perClient.Add(1)
		l.refuse(fd)
		return
	}
	if e.open.Add(1) > int64(e.cfg.MaxConns) && !l.dropSilent() {
		e.open.Add(-1)
		e.limits.leave(addr)
		e.count.shed.Add(1)
		l.refuse(fd)
		return
	}
	to := l.lightest()
	to.active.Add(1)
	if to == l {
		l.begin(fd, addr)
		return
	}
	if !to.post(func(to *loop) { to.begin(fd, addr) }) {
		to.active.Add(-1)
		e.open.Add(-1)
		e.limits.leave(addr)
		l.refuse(fd)
	}
}

// lightest returns this loop unless another has clearly fewer connections.
func (l *loop) lightest() *loop {
	best, least := l, l.active.Load()*4/5-4
	for _, o := range l.eng.loops {
		if n := o.active.Load(); n < least {
			best, least = o, n
		}
	}
	return best
}

// begin makes a connection of an accepted socket.
func (l *loop) begin(fd int32, addr netip.Addr) {
	c := l.take()
	c.client.fd, c.address, c.born = fd, addr, l.tick()
	c.up.last, c.down.last = c.born, c.born
	if !l.watch(fd, c, sideClient) {
		l.close(c, true)
		return
	}
	l.tokens = min(replayBurst, l.tokens+l.eng.cfg.ReplayBudget)
	if l.eng.cfg.Hello {
		c.state = stHello
		l.helloQ.push(c, l.now)
		return
	}
	l.dial(c)
}

func (l *loop) watch(fd int32, c *conn, side int32) bool {
	*l.ev = unix.EpollEvent{Events: interest, Fd: int32(c.slot<<1) | side, Pad: int32(c.gen)}
	return rawEpollAdd(l.ep, fd, l.ev) == 0
}

// dropSilent makes room by ending the connection that has said nothing longest.
func (l *loop) dropSilent() bool {
	c := l.helloQ.head
	if c == nil || l.now-(c.deadline-l.helloQ.after) < silentMS {
		return false
	}
	l.eng.count.silentDropped.Add(1)
	l.close(c, true)
	return true
}

func (l *loop) refuse(fd int32) {
	rawSetLinger(fd, l.lingerNone)
	rawClose(fd)
}

// shedWithReserve ends one newcomer when no descriptor is left for it: the
// reserve is given up for a moment. Otherwise the listener would stay readable
// and the loop would spin.
func (l *loop) shedWithReserve(listener int32) bool {
	if l.reserve < 0 {
		return false
	}
	rawClose(l.reserve)
	l.reserve = -1
	fd, errno := rawAccept(listener, l.peer)
	if errno == 0 {
		l.eng.count.accepted.Add(1)
		l.eng.count.shed.Add(1)
		l.refuse(fd)
	}
	l.openReserve()
	return errno == 0 || errno == unix.EAGAIN
}

func (l *loop) openReserve() {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fd = -1
	}
	l.reserve = int32(fd)
}

// pause leaves newcomers waiting in the kernel for a moment.
func (l *loop) pause() {
	l.eng.count.acceptPaused.Add(1)
	l.unwatchListeners()
	l.paused = l.now + pauseMS
	if l.reserve < 0 {
		l.openReserve()
	}
}

// peerAddr returns the address of an accepted peer, the zero Addr for unix.
func peerAddr(sa *unix.RawSockaddrAny) netip.Addr {
	switch sa.Addr.Family {
	case unix.AF_INET:
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr)
	case unix.AF_INET6:
		return netip.AddrFrom16((*unix.RawSockaddrInet6)(unsafe.Pointer(sa)).Addr).Unmap()
	}
	return netip.Addr{}
}

// limitKey is what one client is: an IPv4 address, or an IPv6 /64, because one
// machine has that many addresses.
func limitKey(a netip.Addr) uint64 {
	if a.Is4() {
		b := a.As4()
		return uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8])
}
