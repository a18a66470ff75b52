package dataplane

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bufSize   = 64 << 10
	spinMS    = 2    // longest wait that holds a scheduler slot
	restMS    = 500  // longest wait at all, so that the heartbeat goes on
	tickMS    = 100  // unit of conn.born and flow.last
	sweepMS   = 1000 // between two looks at quiet connections
	maxEvents = 256

	dataListener = -1 // in the event's slot: a listener; its index is in the generation's place
	dataMailbox  = -2
)

// loop owns some of the connections; everything below belongs to its
// goroutine unless it says otherwise.
type loop struct {
	id  int
	eng *Engine
	ep  int

	now      int64 // milliseconds since the engine's birth, at the last wake-up
	swept    int64
	sweeps   int
	conns    []*conn // by slot
	free     []*conn
	again    []*conn // ran out of their turn with work left
	spare    []*conn
	scratch  []*Target
	open     int
	pipes    pipeCache
	held     int     // bytes of unfinished ClientHellos
	mostHeld int     // bound of held
	tokens   float64 // replays that the budget allows now
	paused   int64   // accept again at this time; 0: not paused
	reserve  int32   // a descriptor to give up when there is no other

	helloQ, tryQ, lastQ queue

	buf        []byte
	events     []unix.EpollEvent
	ev         *unix.EpollEvent
	peer       *acceptBuf
	tcpInfo    *tcpInfoBuf
	one        *int32
	opts       []sockOpt
	lingerNone *unix.Linger

	active atomic.Int64  // connections; read by other loops
	beats  atomic.Uint64 // wake-ups; read by the watchdog

	wake  int32 // eventfd
	mu    sync.Mutex
	mail  []func(*loop) // guarded by mu
	ended bool          // guarded by mu; no more mail is taken
}

func newLoop(id int, e *Engine) (_ *loop, err error) {
	l := &loop{
		id: id, eng: e, ep: -1, wake: -1, reserve: -1,
		buf: make([]byte, bufSize), events: make([]unix.EpollEvent, maxEvents),
		ev: new(unix.EpollEvent), peer: new(acceptBuf), tcpInfo: new(tcpInfoBuf), one: new(int32),
		lingerNone: &unix.Linger{Onoff: 1},
		tokens:     replayBurst,
	}
	l.helloQ.after = e.cfg.HelloTimeout.Milliseconds()
	l.tryQ.after = e.cfg.ReplayAfter.Milliseconds()
	l.lastQ.after = e.cfg.AnswerTimeout.Milliseconds()
	l.mostHeld = e.cfg.HelloMemory / e.cfg.Loops
	l.pipes.max = max(1, e.cfg.MaxPipes/e.cfg.Loops)
	l.opts = deadPeerOpts(e.cfg.DeadAfter)
	*l.one = 1
	defer func() {
		if err != nil {
			l.release()
		}
	}()
	if l.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	l.wake = int32(wake)
	if err := unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: dataMailbox}); err != nil {
		return nil, fmt.Errorf("watch the mailbox: %w", err)
	}
	l.openReserve()
	return l, nil
}

// release closes what the loop itself opened.
func (l *loop) release() {
	for _, fd := range []int32{l.wake, l.reserve, int32(l.ep)} {
		if fd >= 0 {
			rawClose(fd)
		}
	}
	l.pipes.clear()
	l.wake, l.reserve, l.ep = -1, -1, -1
}

// run serves until the engine stops. It returns an error when epoll fails.
func (l *loop) run() error {
	defer l.finish()
	for !l.eng.stopping.Load() {
		n, err := l.wait()
		if err != nil {
			return err
		}
		l.now = time.Since(l.eng.birth).Milliseconds()
		l.beats.Add(1)
		for i := range n {
			l.dispatch(&l.events[i])
		}
		l.continueReady()
		l.expire()
	}
	return nil
}

// finish takes the last mail and resets whatever is left.
func (l *loop) finish() {
	l.readMail(true)
	for _, c := range l.conns {
		if c.state != stFree {
			l.close(c, true)
		}
	}
}

// wait returns the number of events. A short wait without the Go scheduler comes
// first, because leaving and entering it costs a tenth of the throughput; when
// nothing happens for spinMS, the loop gives its slot back and waits longer.
func (l *loop) wait() (int, error) {
	limit := l.untilNext()
	n, errno := rawEpollWait(l.ep, l.events, min(limit, spinMS))
	if n > 0 && errno == 0 {
		return n, nil
	}
	if errno != 0 && errno != unix.EINTR {
		return 0, fmt.Errorf("epoll wait: %w", errno)
	}
	if errno == 0 && limit > spinMS {
		n, err := unix.EpollWait(l.ep, l.events, limit-spinMS)
		if err == nil {
			return n, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("epoll wait: %w", err)
		}
	}
	return 0, nil
}

// untilNext is how many milliseconds nothing is due.
func (l *loop) untilNext() int {
	if len(l.again) > 0 {
		return 0
	}
	next := l.now + restMS
	for _, q := range [...]*queue{&l.helloQ, &l.tryQ, &l.lastQ} {
		if q.head != nil {
			next = min(next, q.head.deadline)
		}
	}
	if l.paused != 0 {
		next = min(next, l.paused)
	}
	return int(max(0, next-l.now))
}

func (l *loop) dispatch(ev *unix.EpollEvent) {
	switch ev.Fd {
	case dataListener:
		l.accept(int(ev.Pad))
		return
	case dataMailbox:
		l.readMail(false)
		return
	}
	slot, side := uint32(ev.Fd)>>1, ev.Fd&1
	c := l.conns[slot]
	if c.state == stFree || c.gen != uint32(ev.Pad) {
		return // closed earlier in this batch
	}
	if side == sideClient {
		c.client.ready(ev.Events)
	} else {
		c.back.ready(ev.Events)
	}
	l.advance(c, side, ev.Events)
}

// advance does what c's state asks for after an event.
func (l *loop) advance(c *conn, side int32, events uint32) {
	gen := c.gen
	switch c.state {
	case stStreaming:
		l.stream(c)
		if side == sideClient && events&unix.EPOLLERR != 0 && c.state == stStreaming && c.gen == gen {
			l.close(c, true) // nobody is left to send to, even if the backend is blocked
		}
	case stHello:
		l.readClient(c)
	case stDialing, stAnswering:
		if side == sideClient {
			if events&unix.EPOLLERR != 0 {
				l.close(c, true) // the client has reset it
			}
			return // one on a unix socket that has said everything and left only hangs up
		}
		l.talk(c, events)
	}
}

// continueReady goes on with connections whose turn ended before their work.
func (l *loop) continueReady() {
	if len(l.again) == 0 {
		return
	}
	list := l.again
	l.again = l.spare[:0]
	for _, c := range list {
		if c.again && c.state == stStreaming {
			c.again = false
			l.stream(c)
		}
	}
	l.spare = list[:0]
}

// expire acts on everything whose time is over.
func (l *loop) expire() {
	for c := l.helloQ.expired(l.now); c != nil; c = l.helloQ.expired(l.now) {
		l.eng.count.helloTimeout.Add(1)
		l.close(c, true)
	}
	for c := l.tryQ.expired(l.now); c != nil; c = l.tryQ.expired(l.now) {
		l.silent(c)
	}
	for c := l.lastQ.expired(l.now); c != nil; c = l.lastQ.expired(l.now) {
		l.eng.count.noAnswer.Add(1)
		l.eng.cfg.Router.Trouble(c.target, Silent)
		l.close(c, true)
	}
	if l.paused != 0 && l.now >= l.paused {
		l.paused = 0
		l.watchListeners()
	}
	if l.now-l.swept >= sweepMS {
		l.refillBudget(float64(l.now-l.swept) / 1000)
		l.swept = l.now
		l.sweep()
	}
}

// post puts f into the mailbox. It reports false when the loop has ended.
func (l *loop) post(f func(*loop)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.mail = append(l.mail, f)
	if len(l.mail) == 1 {
		one := [8]byte{1}
		_, _ = unix.Write(int(l.wake), one[:])
	}
	return true
}

func (l *loop) readMail(last bool) {
	var n [8]byte
	_, _ = unix.Read(int(l.wake), n[:])
	l.mu.Lock()
	mail := l.mail
	l.mail = nil
	l.ended = last
	l.mu.Unlock()
	for _, f := range mail {
		f(l)
	}
}

func (l *loop) tick() int32 { return int32(l.now / tickMS) }
