// Package backoff computes growing, jittered pauses between tries.
package backoff

import (
	"math/rand/v2"
	"time"
)

// Backoff is a growing pause. The zero value uses the defaults below. It is not
// safe for concurrent use; each loop has its own.
type Backoff struct {
	Base   time.Duration // first pause; default 100ms
	Max    time.Duration // longest pause before jitter; default 30s
	Factor float64       // growth per try; default 2
	Jitter float64       // share of the pause that is random, 0..1; default 0.2. Negative means none

	tries int
}

// Next returns the pause before the next try and counts the try. The pause lies
// within ±Jitter/2 of Base·Factorⁿ, at most Max·(1+Jitter/2).
func (b *Backoff) Next() time.Duration {
	d := b.Peek()
	b.tries++
	j := b.Jitter
	if j == 0 {
		j = 0.2
	}
	if j < 0 {
		return d
	}
	return time.Duration(float64(d) * (1 + j*(rand.Float64()-0.5)))
}

// Peek returns the next pause without jitter and counts nothing.
func (b *Backoff) Peek() time.Duration {
	base, limit, factor := b.Base, b.Max, b.Factor
	if base <= 0 {
		base = 100 * time.Millisecond
	}
	if limit <= 0 {
		limit = 30 * time.Second
	}
	if factor < 1 {
		factor = 2
	}
	d := float64(base)
	for range b.tries {
		d *= factor
		if d >= float64(limit) {
			return limit
		}
	}
	return min(time.Duration(d), limit)
}

// Tries is the number of pauses handed out since the last Reset.
func (b *Backoff) Tries() int { return b.tries }

// Reset starts again at Base.
func (b *Backoff) Reset() { b.tries = 0 }
