package dataplane

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// state is where a connection stands.
type state uint8

const (
	stFree      state = iota
	stHello           // waiting for the client's ClientHello
	stDialing         // waiting for the backend's accept
	stAnswering       // hello sent, waiting for the backend's first byte
	stStreaming       // both ways open; nothing can be repeated any more
)

// end is one socket of a connection.
type end struct {
	fd       int32
	readable bool // recv may give something
	writable bool // send may take something
	hup      bool // the peer will send nothing more (RDHUP seen)
	eof      bool // everything it sent was read
	shut     bool // we told it that nothing more comes
}

// flow is one direction. It holds what was read and not written yet.
type flow struct {
	pending []byte // after a short write
	pipe    *pipe  // only while a bulk transfer runs
	run     uint32 // bytes of large reads in a row, up to bulkAfter
	last    int32  // when bytes were last read, in ticks
}

// conn is a client's connection and its backend's. It is used again after its
// end, with another generation.
type conn struct {
	slot  uint32
	gen   uint32
	state state
	again bool // waits in the loop's ready list
	aged  bool // the backend's socket has its keep-alive options

	client, back end
	up, down     flow // client to backend, backend to client
	target       *Target

	hello   []byte // the client's first bytes, until the backend's first byte
	whole   int    // how many of them make the ClientHello (and may be sent now)
	sent    int    // how many of them went to the current backend
	replay  bool   // hello may be sent to another backend
	tried   []*Target
	slow    *Target // the first that was given up for silence
	final   bool    // nothing is left to try after the current one
	address netip.Addr
	born    int32 // ticks
	asked   bool  // the client spoke last
	rhythm  int32 // how long it had been quiet when the client spoke last; 0: never for long
	turns   uint8 // how often the client spoke after the backend, up to openingTurns

	queue      *queue
	prev, next *conn
	deadline   int64
}

const (
	sideClient = 0
	sideBack   = 1
)

// epoll events that every socket is registered for, once, edge-triggered.
const interest = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// ready notes what an event says about the end.
func (e *end) ready(events uint32) {
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		e.readable = true
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		e.writable = true
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0 {
		e.hup = true
	}
}

// take returns a free connection, a new one if there is none.
func (l *loop) take() *conn {
	var c *conn
	if n := len(l.free); n > 0 {
		c = l.free[n-1]
		l.free = l.free[:n-1]
	} else {
		c = &conn{slot: uint32(len(l.conns))}
		l.conns = append(l.conns, c)
	}
	*c = conn{slot: c.slot, gen: c.gen + 1, client: end{fd: -1}, back: end{fd: -1}}
	l.open++
	return c
}

// close ends c and both its sockets. With reset the peers see RST, without it
// an orderly end (or RST where the kernel still holds unread bytes).
func (l *loop) close(c *conn, reset bool) {
	c.leave()
	if c.state == stHello {
		l.held -= len(c.hello)
	}
	l.closeEnd(&c.client, reset)
	l.closeBack(c, reset)
	l.dropFlow(&c.up)
	l.dropFlow(&c.down)
	l.eng.limits.leave(c.address)
	l.eng.open.Add(-1)
	l.active.Add(-1)
	l.open--
	c.state, c.hello, c.tried, c.slow, c.again = stFree, nil, nil, nil, false
	c.gen++
	l.free = append(l.free, c)
}

func (l *loop) closeEnd(e *end, reset bool) {
	if e.fd < 0 {
		return
	}
	if reset {
		rawSetLinger(e.fd, l.lingerNone)
	}
	rawClose(e.fd)
	e.fd = -1
}

// closeBack ends the backend's side only, so that another may be tried.
func (l *loop) closeBack(c *conn, reset bool) {
	if c.target == nil {
		return
	}
	c.target.per[l.id].active.Add(-1)
	c.target = nil
	l.closeEnd(&c.back, reset)
	c.back = end{fd: -1}
}

func (l *loop) dropFlow(f *flow) {
	if f.pipe != nil {
		l.pipes.put(f.pipe)
		f.pipe = nil
	}
	f.pending = nil
}
