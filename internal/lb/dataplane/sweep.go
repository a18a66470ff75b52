package dataplane

import (
	"slices"
	"time"
)

const (
	clientSweep   = 5   // sweeps between two looks at clients
	quietTicks    = 20  // a side that has sent nothing for 2s is looked at
	halfOpenTicks = 600 // a client may keep its half open for 60s after the backend ended
)

// sweep looks at connections with a quiet side for peers whose machine is gone.
func (l *loop) sweep() {
	now := l.tick()
	dead := l.eng.cfg.DeadAfter.Milliseconds()
	// What is not old enough now is looked at again a sweep later, or clientSweep.
	deadBack, deadClient := dead-sweepMS, dead*clientFactor-clientSweep*sweepMS
	// Clients have much longer, so they are looked at less often: most idle
	// connections have just been sent something.
	l.sweeps++
	clients := l.sweeps%clientSweep == 0
	for _, c := range l.conns {
		if c.state != stStreaming {
			continue
		}
		if !c.aged {
			c.aged = true
			l.setOpts(c.back.fd)
		}
		if c.back.eof && now-max(c.up.last, c.down.last) > halfOpenTicks {
			l.close(c, false)
			continue
		}
		if dead <= 0 {
			continue
		}
		if suspicious(&c.up, &c.down, now, dead) && l.unacked(c.back.fd, deadBack) ||
			clients && suspicious(&c.down, &c.up, now, dead*clientFactor) && l.unacked(c.client.fd, deadClient) {
			l.eng.count.deadPeer.Add(1)
			l.close(c, true)
		}
	}
}

// suspicious: bytes went to a peer, it has sent nothing for a while since, and
// it is worth asking the kernel whether it acknowledged them. Once limit (in
// milliseconds) has gone by without finding anything, it did.
func suspicious(to, from *flow, now int32, limit int64) bool {
	return now-from.last > quietTicks && to.last >= from.last &&
		(!to.empty() || int64(now-to.last) < limit/tickMS+2*quietTicks)
}

// unacked reports whether the peer of fd has left bytes or window probes
// unacknowledged for more than limit milliseconds. A peer that merely does not
// read acknowledges the probes.
func (l *loop) unacked(fd int32, limit int64) bool {
	if !rawTCPInfo(fd, l.tcpInfo) {
		return false // not TCP
	}
	i := &l.tcpInfo.info
	waiting := i.Unacked > 0 && i.Retransmits > 0 || i.Probes > 0
	return waiting && int64(i.Last_ack_recv) > limit
}

// openRequestMS is how long the silence after a client's bytes may still be a
// request that waits for its answer: kube-apiserver's limit for one is 60 s.
// After it they were no request, or one like a watch, which starts again.
const openRequestMS = 60_000

// openingTurns is how often a client must have spoken for the backend's last
// bytes to be an answer: a TLS 1.3 server sends session tickets right behind the
// client's first request, which look like one.
const openingTurns = 3

// rhythmTicks is the shortest silence between two requests that is remembered, and
// sparedTicks how far from the client's next request an end must be.
const (
	rhythmTicks = 5
	sparedTicks = 2
)

// quietest returns up to n streaming connections at t that have been quiet for
// at least quiet, first those whose client is least likely to speak just now. Left
// out are those on which a request may wait for a slow answer, or which may get
// one any moment: ending them would fail it.
func (l *loop) quietest(t *Target, n int, quiet time.Duration) []*conn {
	var found []*conn
	limit := l.tick() - int32(quiet.Milliseconds()/tickMS)
	open := l.tick() - openRequestMS/tickMS
	for _, c := range l.conns {
		if c.state != stStreaming || t != nil && c.target != t || c.lastBytes() > limit {
			continue
		}
		if (c.answered() || c.lastBytes() <= open) && c.spare(l.tick()) >= sparedTicks {
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b *conn) int { return int(b.spare(l.tick()) - a.spare(l.tick())) })
	return found[:min(n, len(found))]
}

// spare is how far the client's next request is likely to be, in ticks. Most
// clients of an API server speak in a rhythm (leases, polls), so that the one that
// has been quiet longest is the one whose next request is on its way. One that is
// far beyond its rhythm, or has none, has stopped speaking.
func (c *conn) spare(now int32) int32 {
	quiet := now - c.lastBytes()
	return max(c.rhythm-quiet, quiet-c.rhythm)
}

func (c *conn) lastBytes() int32 { return max(c.up.last, c.down.last) }

// answered: the backend spoke last, it was an answer, and nothing is on its way.
func (c *conn) answered() bool {
	return !c.asked && c.turns >= openingTurns && c.up.empty() && c.down.empty()
}
