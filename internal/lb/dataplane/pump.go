package dataplane

import (
	"golang.org/x/sys/unix"
)

const (
	turnReads  = 8         // reads of one direction before others get their turn
	largeRead  = 16 << 10  // a read of this size speaks for a bulk transfer
	bulkAfter  = 128 << 10 // so many bytes of large reads in a row start splicing
	spliceMax  = 1 << 20
	spliceTurn = 4
)

// outcome of a direction's turn.
type outcome int

const (
	waits  outcome = iota // nothing more to do before the next event
	yields                // there is more to do, after others had their turn
	breaks                // a socket failed
)

// stream moves what can be moved in both directions. The backend's bytes come
// first: a server that answers and closes without reading must not lose its
// answer to our failing write.
func (l *loop) stream(c *conn) {
	down := l.pump(c, &c.down, &c.back, &c.client)
	up := outcome(breaks)
	if down != breaks {
		up = l.pump(c, &c.up, &c.client, &c.back)
	}
	switch {
	case up == breaks:
		l.close(c, true)
	case c.client.eof && c.back.eof && c.up.empty() && c.down.empty():
		l.close(c, false)
	case (up == yields || down == yields) && !c.again:
		c.again = true
		l.again = append(l.again, c)
	}
}

func (f *flow) empty() bool { return len(f.pending) == 0 && (f.pipe == nil || f.pipe.bytes == 0) }

// pump moves bytes of one direction until the source is empty, the sink is full
// or its turn is over.
func (l *loop) pump(c *conn, f *flow, from, to *end) outcome {
	for turn := 0; ; turn++ {
		if !f.empty() {
			if !to.writable {
				return waits
			}
			if !l.flush(f, to) {
				return breaks
			}
			if !f.empty() {
				return waits
			}
		}
		if from.eof {
			l.endStream(c, f, to)
			return waits
		}
		if !from.readable || !to.writable {
			return waits
		}
		if turn == turnReads || f.pipe != nil && turn == spliceTurn {
			return yields
		}
		if f.run >= bulkAfter {
			if ok, broken := l.spliceIn(c, f, from); broken {
				return breaks
			} else if ok {
				continue
			}
		}
		n, errno := rawRecv(from.fd, l.buf)
		switch {
		case errno == unix.EAGAIN:
			from.readable = false
			return waits
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return breaks
		case n == 0:
			from.eof, from.readable = true, false
			continue
		}
		l.received(c, f, n)
		if n < len(l.buf) {
			l.drained(from)
		}
		if n >= largeRead {
			f.run = min(f.run+uint32(n), bulkAfter)
		} else {
			f.run = 0
		}
		if !l.write(f, to, l.buf[:n]) {
			return breaks
		}
	}
}

// endStream passes the end of from's bytes on. When the other direction has
// ended too, closing both sockets says the same in fewer calls.
func (l *loop) endStream(c *conn, f *flow, to *end) {
	if f.pipe != nil {
		l.pipes.put(f.pipe)
		f.pipe = nil
	}
	if to.shut {
		return
	}
	to.shut = true
	if !to.eof || !c.up.empty() || !c.down.empty() {
		rawShutdownWrite(to.fd)
	}
}

// received counts n bytes read from one side.
func (l *loop) received(c *conn, f *flow, n int) {
	now := l.tick()
	p := &c.target.per[l.id]
	if f == &c.up {
		if !c.asked {
			c.turns = min(c.turns+1, openingTurns)
			if quiet := now - c.lastBytes(); quiet >= rhythmTicks {
				c.rhythm = quiet
			}
		}
		c.asked = true
		p.bytesUp.Add(int64(n))
	} else {
		c.asked = false
		p.bytesDown.Add(int64(n))
		p.heard.Store(l.eng.birthMS + l.now)
	}
	f.last = now
}

// drained notes that a read got everything there was. If the peer had already
// said that nothing more comes, that was the end and needs no further read.
func (l *loop) drained(e *end) {
	e.readable = false
	if e.hup {
		e.eof = true
	}
}

// write sends p and keeps what the socket does not take. It reports false when
// the socket failed.
func (l *loop) write(f *flow, to *end, p []byte) bool {
	if to.writable {
		n, errno := rawSend(to.fd, p)
		switch {
		case errno == unix.EAGAIN:
			to.writable = false
		case errno == unix.EINTR:
		case errno != 0:
			return false
		default:
			if n == len(p) {
				return true
			}
			to.writable = false
			p = p[n:]
		}
	}
	f.pending = append([]byte(nil), p...)
	return true
}

// flush writes what is kept. It reports false when the socket failed.
func (l *loop) flush(f *flow, to *end) bool {
	for len(f.pending) > 0 && to.writable {
		n, errno := rawSend(to.fd, f.pending)
		switch {
		case errno == unix.EAGAIN:
			to.writable = false
		case errno == unix.EINTR:
		case errno != 0:
			return false
		default:
			f.pending = f.pending[n:]
		}
	}
	if len(f.pending) > 0 {
		return true
	}
	f.pending = nil
	if f.pipe == nil {
		return true
	}
	return l.spliceOut(f, to)
}

// spliceIn fills the direction's pipe. ok is false when there is no pipe to be had.
func (l *loop) spliceIn(c *conn, f *flow, from *end) (ok, broken bool) {
	if f.pipe == nil {
		if f.pipe = l.pipes.get(); f.pipe == nil {
			f.run = 0
			return false, false
		}
	}
	n, errno := rawSplice(from.fd, f.pipe.w, spliceMax)
	switch {
	case errno == unix.EAGAIN: // the pipe is empty here, so it is the socket
		from.readable = false
		l.restPipe(f)
	case errno == unix.EINTR:
	case errno != 0:
		return false, true
	case n == 0:
		from.eof, from.readable = true, false
	default:
		f.pipe.bytes += n
		if n < largeRead {
			f.run = 0 // small messages again: after this one, copy
		}
		l.received(c, f, n)
	}
	return true, false
}

// spliceOut empties the direction's pipe. It reports false when the socket failed.
func (l *loop) spliceOut(f *flow, to *end) bool {
	for f.pipe.bytes > 0 && to.writable {
		n, errno := rawSplice(f.pipe.r, to.fd, f.pipe.bytes)
		switch {
		case errno == unix.EAGAIN:
			to.writable = false
		case errno == unix.EINTR:
		case errno != 0:
			return false
		default:
			f.pipe.bytes -= n
		}
	}
	if f.pipe.bytes == 0 && f.run < bulkAfter {
		l.restPipe(f)
	}
	return true
}

// restPipe gives the pipe back while the direction is quiet.
func (l *loop) restPipe(f *flow) {
	if f.pipe != nil && f.pipe.bytes == 0 {
		l.pipes.put(f.pipe)
		f.pipe = nil
	}
}
