package lb

import (
	"context"
	"math"
	"time"

	"github.com/hactl/hactl/internal/lb/pool"
	"github.com/hactl/hactl/internal/lb/probe"
)

const (
	tickEvery       = time.Second
	quietBeforeMove = time.Second     // a connection is moved only after this much silence
	rebalanceFor    = 5 * time.Minute // after a backend returned
)

// control follows the source, the data path's troubles and the clock.
func (b *Balancer) control(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	last := time.Now()
	defer b.startResolver(ctx)()
	go b.cfg.Check.Files.Watch(ctx) // not waited for: a disk may hang
	for {
		b.ticked.Store(time.Now().UnixNano())
		select {
		case <-ctx.Done():
			return nil
		case <-b.reload:
			b.follow(ctx, true)
			b.askNames()
		case <-b.troubled:
			b.review(time.Now())
		case now := <-tick.C:
			b.follow(ctx, false)
			b.age(now)
			b.rebalance(now, now.Sub(last))
			last = now
		}
	}
}

// observed takes a probe's result.
func (b *Balancer) observed(m *member, r probe.Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if r.Answer == pool.Silent && now.Sub(m.target.Heard()) < max(r.Took, b.cfg.Check.Timeout/2) {
		// A frozen server sends nothing at all, this one has since the probe was
		// sent, or just now: it is busy. It should get nothing new, but cutting its
		// connections would only move its load.
		r.Answer, r.Why = pool.Red, r.Why+", but it still answers its clients"
	}
	m.last, m.lastAt = r, now
	defer b.noteAsked()
	if r.Answer == pool.OK {
		m.failures, m.good = 0, now
	} else {
		m.failures++
	}
	if r.Answer != pool.Silent { // whatever it said, it hangs no longer
		m.silent, m.cutLater = time.Time{}, false
	} else if m.silent.IsZero() {
		m.silent = now.Add(-r.Took)
	}
	rules := pool.Rules{Rise: b.cfg.Check.Rise, Fall: b.cfg.Check.Fall}
	ch, changed := m.health.Observe(rules, r.Answer, r.Why, now)
	b.pace(m, now)
	if !changed {
		return
	}
	if ch.To == pool.Ready {
		b.returns(m, ch.From, now)
	}
	if ch.From != ch.To {
		b.log.Info("backend changed", "backend", m.backend.Name, "address", m.backend.Address,
			"from", ch.From.String(), "to", ch.To.String(), "why", r.Why, "connections", m.target.Active())
	}
	m.cutLater = m.cutLater || ch.Cut
	b.refresh(now)
}

// noteAsked closes allAsked when no backend's first probe is under way any more.
func (b *Balancer) noteAsked() {
	for _, m := range b.members {
		if m.removed.IsZero() && m.lastAt.IsZero() {
			return
		}
	}
	select {
	case <-b.allAsked:
	default:
		close(b.allAsked)
	}
}

// returns notes that m is ready. The first ready backends of a new balancer
// return from nowhere: nothing has to be slow or moved for them.
func (b *Balancer) returns(m *member, from pool.State, now time.Time) {
	m.doubted, m.distrusted = time.Time{}, time.Time{} // it was gone: another process, most likely
	if from == pool.Starting && now.Sub(b.started) < 5*time.Second {
		return
	}
	m.returned, b.returned = now, now
}

// pace asks a long dead backend less often, unless there is no other: then the
// first one back is wanted at once.
func (b *Balancer) pace(m *member, now time.Time) { m.prober.Slow(b.probeFactor(m, now)) }

func (b *Balancer) probeFactor(m *member, now time.Time) int {
	if m.health.State == pool.Ejected && now.Sub(m.health.Since) > slowAfter && b.anyUsable(now) {
		return slowFactor
	}
	return 1
}

func (b *Balancer) anyUsable(now time.Time) bool {
	for _, m := range b.members {
		if m.usable(now) {
			return true
		}
	}
	return false
}

// answeredSince says whether a usable backend has answered a probe since then.
func (b *Balancer) answeredSince(then, now time.Time) bool {
	for _, m := range b.members {
		if m.usable(now) && m.good.After(then) {
			return true
		}
	}
	return false
}

// refresh tells the pool how things stand, and cuts what hangs if its clients
// have somewhere to go: to a backend that has answered since this one has not.
// When everything seems to hang, the fault may well be ours, and cutting would help
// nobody.
func (b *Balancer) refresh(now time.Time) {
	entries := make([]pool.Entry[targetHandle], 0, len(b.members))
	for _, m := range b.members {
		entries = append(entries, pool.Entry[targetHandle]{
			Handle: m.target,
			Weight: float64(m.backend.Weight) * m.ramp(now, b.cfg.SlowStart),
			Ready:  m.usable(now),
			Local:  b.isLocal(m),
			Off:    m.drained || !m.removed.IsZero(),
		})
		if m.cutLater && b.answeredSince(m.silent, now) {
			m.cutLater = false
			if n := m.target.Active(); n > 0 {
				b.log.Info("backend hangs, its connections are reset", "backend", m.backend.Name, "connections", n)
				defer b.engine.Cut(m.target)
			}
		}
	}
	b.pool.Set(entries)
	b.tellServing(now)
}

// tellServing logs when the last usable backend has gone, and when one is back.
func (b *Balancer) tellServing(now time.Time) {
	is := b.anyUsable(now)
	if is == b.serving {
		return
	}
	b.serving = is
	if is {
		b.log.Info("a backend is ready")
	} else {
		b.log.Warn("no backend is ready, connections are tried at any that is not drained", "backends", len(b.members))
	}
}

func (b *Balancer) isLocal(m *member) bool { return b.cfg.Zone != "" && m.backend.Zone == b.cfg.Zone }

// review looks for backends that fail connections although their probes are fine.
func (b *Balancer) review(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.members {
		if !m.fails(now, b.cfg.Check.Timeout/2) || !m.usable(now) {
			continue
		}
		m.distrust = min(max(2*m.distrust, distrustFirst), distrustMost)
		m.doubted, m.distrusted = now, now.Add(m.distrust)
		b.log.Warn("backend fails connections although it says it is ready", "backend", m.backend.Name, "for", m.distrust)
	}
	b.refresh(now)
}

// age does what time alone brings: slow start goes on, distrust ends, removed
// backends go when they are empty or their time is over.
func (b *Balancer) age(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, m := range b.members {
		if !m.doubted.IsZero() && !now.Before(m.distrusted) {
			m.doubted = time.Time{}
			b.log.Info("backend is trusted again", "backend", m.backend.Name)
		}
		if broken, silent := m.target.Streak(); broken+silent == 0 && now.Sub(m.distrusted) > distrustMost {
			m.distrust = 0
		}
		if m.removed.IsZero() {
			continue
		}
		if m.target.Active() == 0 {
			delete(b.members, key)
			b.index()
		} else if now.Sub(m.removed) > b.cfg.DrainTimeout {
			b.engine.Cut(m.target)
		}
	}
	b.refresh(now)
}

// rebalance ends some quiet connections of backends with more than their share,
// for a while after a backend returned. Their clients connect again.
func (b *Balancer) rebalance(now time.Time, since time.Duration) {
	b.mu.Lock()
	if b.cfg.Rebalance <= 0 || now.Sub(b.returned) > rebalanceFor {
		b.mu.Unlock()
		return
	}
	var (
		members []*member
		loads   []pool.Load
	)
	for _, m := range b.members {
		members = append(members, m)
		loads = append(loads, pool.Load{
			Active: m.target.Active(), Weight: float64(m.backend.Weight), Ready: m.usable(now), Local: b.isLocal(m),
		})
	}
	b.mu.Unlock()
	if b.cfg.Algorithm == pool.LocalFirst {
		loads = pool.PreferLocal(loads)
	}
	rate := b.cfg.Rebalance * math.Min(since.Seconds(), 5)
	for i, n := range pool.Surplus(loads, rate) {
		if n > 0 {
			b.moved.Add(int64(b.engine.CloseQuiet(members[i].target, n, quietBeforeMove)))
		}
	}
}
