package dataplane

import (
	"slices"

	"golang.org/x/sys/unix"
)

const (
	replayBurst     = 128.0 // replays that a loop may do at once
	replayPerSecond = 5.0   // and those that it may always do
)

// readClient collects the ClientHello.
func (l *loop) readClient(c *conn) {
	for c.client.readable {
		room := l.buf[:MaxHello+1-len(c.hello)]
		n, errno := rawRecv(c.client.fd, room)
		switch {
		case errno == unix.EAGAIN:
			c.client.readable = false
			return
		case errno == unix.EINTR:
			continue
		case errno != 0, n == 0:
			l.eng.count.helloAborted.Add(1)
			l.close(c, errno != 0)
			return
		}
		if n < len(room) && !c.client.hup {
			c.client.readable = false
		}
		c.hello = append(c.hello, room[:n]...)
		l.held += n
		c.up.last = l.tick()
		switch v, whole := readHello(c.hello); v {
		case helloMore:
			if l.held > l.mostHeld && len(c.hello) > ordinaryHello {
				l.eng.count.silentDropped.Add(1)
				l.close(c, true)
				return
			}
			continue
		case helloWhole:
			c.whole, c.replay = whole, true
		case helloNot:
			l.eng.count.notTLS.Add(1)
			c.whole, c.replay = len(c.hello), l.eng.cfg.ReplayPlain && len(c.hello) <= MaxHello
		case helloTooBig:
			l.eng.count.helloTooBig.Add(1)
			c.whole, c.replay = len(c.hello), false
		}
		l.held -= len(c.hello)
		c.hello, c.state = slices.Clip(c.hello), stDialing
		c.leave()
		l.dial(c)
		return
	}
}

// dial connects c to the next backend, or ends it if there is none.
func (l *loop) dial(c *conn) {
	for {
		t := l.eng.cfg.Router.Pick(c.address, c.tried)
		if t == nil && c.slow != nil {
			// All others failed; the one that was only slow gets the time it needs.
			t, c.slow, c.final = c.slow, nil, true
		}
		if t == nil {
			l.eng.count.noBackend.Add(1)
			l.close(c, true)
			return
		}
		fd, errno := rawSocket(t.family, 0)
		if errno != 0 { // no descriptor left: the newest goes
			l.eng.count.shed.Add(1)
			l.close(c, true)
			return
		}
		p := t.of(l.id)
		p.active.Add(1)
		p.total.Add(1)
		c.target, c.state, c.sent = t, stDialing, 0
		c.back = end{fd: fd}
		if t.family != unix.AF_UNIX {
			_ = rawSetInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, l.one)
		}
		errno = rawConnect(fd, t.sa)
		if (errno == 0 || errno == unix.EINPROGRESS) && l.watch(fd, c, sideBack) {
			if c.final {
				l.lastQ.push(c, l.now)
			} else {
				l.tryQ.push(c, l.now)
			}
			return
		}
		l.failed(c, Refused)
	}
}

// canMove says whether another backend may still take the current one's place.
func (l *loop) canMove(c *conn) bool {
	return c.state == stDialing && c.sent == 0 || c.replay
}

// failed gives up the current backend.
func (l *loop) failed(c *conn, why Trouble) {
	t := c.target
	c.leave()
	if why == Silent {
		t.mute.Add(1)
		t.per[l.id].replayed.Add(1)
	} else {
		t.streak.Add(1)
		t.per[l.id].failed.Add(1)
	}
	l.eng.cfg.Router.Trouble(t, why)
	c.tried = append(c.tried, t)
	l.closeBack(c, true)
}

// retry goes on with another backend after the current one failed, if nothing
// was sent that must not be sent twice.
func (l *loop) retry(c *conn, why Trouble) {
	move := l.canMove(c)
	l.failed(c, why)
	if !move {
		l.close(c, true)
		return
	}
	l.eng.count.retries.Add(1)
	l.dial(c)
}

// silent is called when the current backend has not answered in time.
func (l *loop) silent(c *conn) {
	l.scratch = append(append(l.scratch[:0], c.tried...), c.target)
	if !l.canMove(c) || l.eng.cfg.Router.Competitor(c.address, l.scratch) == nil {
		l.eng.cfg.Router.Trouble(c.target, Silent)
		l.lastQ.push(c, l.now)
		return
	}
	// A backend that did not even accept has no work from this client: moving
	// on costs nobody anything and needs no budget.
	if c.state == stAnswering {
		if l.tokens < 1 {
			l.eng.count.replayDenied.Add(1)
			l.eng.cfg.Router.Trouble(c.target, Silent)
			l.tryQ.push(c, l.now) // it may answer yet, or be ejected
			return
		}
		l.tokens--
	}
	l.eng.count.replays.Add(1)
	if c.slow == nil {
		c.slow = c.target
	}
	l.failed(c, Silent)
	l.dial(c)
}

func (l *loop) refillBudget(seconds float64) {
	l.tokens = min(replayBurst, l.tokens+replayPerSecond*seconds)
}

// talk goes on with a backend that has not sent its first byte yet.
func (l *loop) talk(c *conn, events uint32) {
	if c.state == stDialing {
		if events&unix.EPOLLERR != 0 || events&unix.EPOLLHUP != 0 && c.target.family != unix.AF_UNIX {
			l.retry(c, Refused)
			return
		}
		// A unix socket is connected at once. Its hang-up alone says that the server
		// has spoken and gone already: what it said is still to be read.
		if !c.back.writable {
			return
		}
		if !c.replay {
			l.establish(c)
			l.stream(c)
			return
		}
		c.state = stAnswering
	}
	if c.sent < c.whole && c.back.writable && !l.sendHello(c) {
		return
	}
	if c.back.readable {
		l.firstByte(c)
	}
}

// sendHello reports false when c was moved or ended.
func (l *loop) sendHello(c *conn) bool {
	n, errno := rawSend(c.back.fd, c.hello[c.sent:c.whole])
	switch {
	case errno == unix.EAGAIN:
		c.back.writable = false
	case errno == unix.EINTR:
	case errno != 0:
		l.retry(c, Broken)
		return false
	default:
		c.sent += n
		c.target.per[l.id].bytesUp.Add(int64(n))
		if c.sent < c.whole {
			c.back.writable = false
		}
	}
	return true
}

// firstByte reads the backend's answer to the hello: the point of no return.
func (l *loop) firstByte(c *conn) {
	n, errno := rawRecv(c.back.fd, l.buf)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		c.back.readable = false
		return
	case errno != 0 || n == 0:
		l.retry(c, Broken)
		return
	}
	if n < len(l.buf) {
		l.drained(&c.back)
	}
	l.establish(c)
	l.received(c, &c.down, n)
	if l.write(&c.down, &c.client, l.buf[:n]) {
		l.stream(c)
		return
	}
	l.close(c, true)
}

// establish opens both directions. What is kept of the client's first bytes and
// was not sent yet goes up like everything else.
func (l *loop) establish(c *conn) {
	c.leave()
	c.state = stStreaming
	if c.sent > 0 {
		c.turns = 1 // the hello
	}
	if t := c.target; t.streak.Load()|t.mute.Load() != 0 {
		t.streak.Store(0)
		t.mute.Store(0)
	}
	if rest := c.hello[c.sent:]; len(rest) > 0 {
		c.up.pending = rest
		c.target.per[l.id].bytesUp.Add(int64(len(rest)))
	}
	c.hello, c.tried, c.slow = nil, nil, nil
}
