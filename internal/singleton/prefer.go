package singleton

import (
	"context"
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
)

// preference looks at the list of singletons for its candidate.
type preference struct {
	key, me  string
	priority int
	after    time.Duration // how old a term must be
	token    int64         // of the own term that was last seen, and
	since    time.Duration // when it was first seen
	better   string        // the candidate that was seen to be better
	rounds   int           // in a row
}

// look takes note of the list and of the own term's token (0: none) at now, and
// returns the candidate to hand over to, if any: one with a higher priority that was
// there for some rounds, when the term is old enough.
func (p *preference) look(infos []etcdlock.Info, token int64, now time.Duration) string {
	if token != p.token {
		p.token, p.since = token, now
	}
	best, top := "", p.priority
	for _, i := range infos {
		if i.Name != p.key || i.Holder != p.me || i.MoveTo != "" || i.Paused {
			continue
		}
		for _, c := range i.Waiting {
			if c.Priority > top {
				best, top = c.Name, c.Priority
			}
		}
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

// prefer counts what the own name holds, for Spread and for the candidate's entry, and
// hands over to a preferred candidate.
func (r *Runtime) prefer(ctx context.Context, presence *etcdlock.Presence) {
	p := preference{
		key: r.cfg.Lock.Name(), me: r.cfg.Candidate.Name, priority: r.cfg.Candidate.Priority, after: r.cfg.PreferAfter,
	}
	for {
		call, cancel := context.WithTimeout(ctx, preferEvery)
		infos, err := r.cfg.Spread.list(call, true)
		if err == nil {
			presence.SetHeld(r.cfg.Spread.count(infos))
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
