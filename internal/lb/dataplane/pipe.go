package dataplane

import "golang.org/x/sys/unix"

const (
	pipeSize  = 1 << 20 // what an unprivileged user may ask for
	pipesIdle = 8       // kept for the next bulk transfer
)

// pipe carries the bytes of a bulk transfer inside the kernel.
type pipe struct {
	r, w  int32
	bytes int // in it now
}

// pipeCache lends pipes to directions in a bulk transfer, at most max.
type pipeCache struct {
	idle []*pipe
	lent int
	max  int
}

// get returns an empty pipe, or nil when all are lent or none can be made.
func (pc *pipeCache) get() *pipe {
	if n := len(pc.idle); n > 0 {
		p := pc.idle[n-1]
		pc.idle = pc.idle[:n-1]
		pc.lent++
		return p
	}
	if pc.lent >= pc.max {
		return nil
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC) != nil {
		return nil
	}
	// Refused for an unprivileged user with many pipes: a smaller one works too.
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize)
	pc.lent++
	return &pipe{r: int32(fds[0]), w: int32(fds[1])}
}

// put takes a pipe back; one with bytes left in it is closed.
func (pc *pipeCache) put(p *pipe) {
	pc.lent--
	if p.bytes > 0 || len(pc.idle) >= pipesIdle {
		p.close()
		return
	}
	pc.idle = append(pc.idle, p)
}

func (pc *pipeCache) clear() {
	for _, p := range pc.idle {
		p.close()
	}
	pc.idle = nil
}

func (p *pipe) close() {
	rawClose(p.r)
	rawClose(p.w)
}
