package singleton

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
)

const (
	// preferEvery is how often the list of singletons is read, from the nearest
	// member: it needs not be fresh.
	preferEvery = 5 * time.Second
	// preferRounds is how often in a row a better candidate must be seen before
	// the holder hands over to it.
	preferRounds = 3
	// DefaultPreferAfter is how old a term must be before a better candidate is
	// preferred. It keeps what a person moved, and what a preferred host could not
	// keep running, from going back and forth.
	DefaultPreferAfter = 5 * time.Minute
	// SpreadStep is how long a candidate hesitates before a free lock for each
	// other singleton that it holds.
	SpreadStep = 100 * time.Millisecond
)

// Spread counts the other singletons that this candidate's name holds. Delay is
// for lease.Config.Delay. The zero value counts none.
type Spread struct{ held atomic.Int32 }

// Delay is how long to hesitate before a free lock.
func (s *Spread) Delay() time.Duration { return time.Duration(s.held.Load()) * SpreadStep }

// preference looks at the list of singletons for its candidate.
type preference struct {
	key, me  string
	priority int
	after    time.Duration // how old a term must be
	spread   *Spread
	token    int64         // of the own term that was last seen, and
	since    time.Duration // when it was first seen
	better   string        // the candidate that was seen to be better
	rounds   int           // in a row
	beats    map[string]beat
}

// beat is a singleton's newest renewal, and when it was first seen.
type beat struct {
	rev int64
	at  time.Duration
}

// alive reports whether the singleton's holder is heard of: a term that nobody ended
// and nobody took over keeps its record for ever.
func (p *preference) alive(i etcdlock.Info, now time.Duration) bool {
	if old, ok := p.beats[i.Name]; ok && old.rev == i.Beat {
		return now-old.at <= i.TTL
	}
	if p.beats == nil {
		p.beats = map[string]beat{}
	}
	p.beats[i.Name] = beat{i.Beat, now}
	return true
}

// look takes note of the list and of the own term's token (0: none) at now, and
// returns the candidate to hand over to, if any: one with a higher priority that was
// there for some rounds, when the term is old enough.
func (p *preference) look(infos []etcdlock.Info, token int64, now time.Duration) string {
	if token != p.token {
		p.token, p.since = token, now
	}
	others, best, top := int32(0), "", p.priority
	for _, i := range infos {
		switch {
		case i.Name != p.key:
			if i.Holder == p.me && p.alive(i, now) {
				others++
			}
		case i.Holder == p.me && i.MoveTo == "" && !i.Paused:
			for _, c := range i.Waiting {
				if c.Priority > top {
					best, top = c.Name, c.Priority
				}
			}
		}
	}
	if p.spread != nil {
		p.spread.held.Store(others)
	}
	if best == "" || best != p.better {
		p.better, p.rounds = best, 0
	}
	if best == "" {
		return ""
	}
	if p.rounds++; p.rounds < preferRounds || token == 0 || now-p.since < p.after {
		return ""
	}
	p.rounds = 0
	return best
}

// prefer keeps the count of Spread, and hands over to a preferred candidate.
func (r *Runtime) prefer(ctx context.Context) {
	p := preference{
		key: r.cfg.Lock.Name(), me: r.cfg.Candidate.Name, priority: r.cfg.Candidate.Priority, after: r.cfg.PreferAfter, spread: r.cfg.Spread,
	}
	for {
		call, cancel := context.WithTimeout(ctx, preferEvery)
		infos, err := r.singletons(call)
		if err == nil {
			s, _ := r.cfg.Elector.Status()
			if to := p.look(infos, s.Token, r.cfg.Elector.Config().Clock.Now()); to != "" && s.Role == lease.Holding {
				r.cfg.Logger.Info("a preferred candidate waits", "holder", to)
				if err := r.cfg.Lock.Move(call, to, "preference of "+p.me); err != nil {
					r.cfg.Logger.Warn("the hand-over could not be ordered", "err", err)
				}
			}
		}
		cancel()
		if !sleep(ctx, preferEvery) {
			return
		}
	}
}

// singletons lists all below etcdlock.Root, and the own one wherever it lies.
func (r *Runtime) singletons(ctx context.Context) ([]etcdlock.Info, error) {
	infos, err := etcdlock.List(ctx, r.cfg.Client, true)
	name := r.cfg.Lock.Name()
	if err != nil || slices.ContainsFunc(infos, func(i etcdlock.Info) bool { return i.Name == name }) {
		return infos, err
	}
	own, err := etcdlock.Get(ctx, r.cfg.Client, name, true)
	return append(infos, own), err
}
