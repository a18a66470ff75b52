package singleton

import "time"

// budget counts failures within a sliding window. The zero value allows none.
type budget struct {
	limit  int
	window time.Duration
	at     []time.Duration
}

// spend takes note of a failure at now and reports whether the budget is used up.
func (b *budget) spend(now time.Duration) bool {
	kept := b.at[:0]
	for _, t := range b.at {
		if now-t < b.window {
			kept = append(kept, t)
		}
	}
	b.at = append(kept, now)
	return len(b.at) > b.limit
}

// used is how many failures count at the moment.
func (b *budget) used() int { return len(b.at) }
