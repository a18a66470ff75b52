package leasetest

import (
	"context"
	"sync"

	"github.com/hactl/hactl/internal/lease"
)

// Memory is a lease.Lock within one process, with the rules of the one on etcd.
// The zero value is ready for use.
type Memory struct {
	mu      sync.Mutex
	rev     int64
	rec     lease.Record
	changed chan struct{}
	// Broken makes the lock break one of its promises, to show that a test notices.
	Broken Broken
}

// Broken is a promise that a Memory breaks.
type Broken string

// What a Memory can break.
const (
	ReleaseAnybody Broken = "a release ends another's term"
	TokenReused    Broken = "every term has the same token"
)

var _ lease.Lock = (*Memory)(nil)

// change runs f, which reports whether it changed the record at the next revision.
func (m *Memory) change(f func(rev int64) bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !f(m.rev + 1) {
		return false
	}
	m.rev++
	m.rec.Rev = m.rev
	if m.changed != nil {
		close(m.changed)
	}
	m.changed = make(chan struct{})
	return true
}

func (m *Memory) now() (lease.Record, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	return m.rec, m.changed
}

// Read returns the record.
func (m *Memory) Read(ctx context.Context) (lease.Record, error) {
	rec, _ := m.now()
	return rec, ctx.Err()
}

// Watch sends every newest record until ctx ends.
func (m *Memory) Watch(ctx context.Context, after lease.Record) <-chan lease.Record {
	out := make(chan lease.Record)
	go func() {
		defer close(out)
		for {
			rec, changed := m.now()
			if rec.Rev > after.Rev {
				after = rec
				select {
				case out <- rec:
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// Take writes the claim if the record is as seen.
func (m *Memory) Take(ctx context.Context, seen lease.Record, c lease.Claim) (lease.Held, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var token int64
	if !m.change(func(rev int64) bool {
		if m.rec.Token != seen.Token || m.rec.Beat != seen.Beat || m.rec.Order != seen.Order {
			return false
		}
		token = rev
		if m.Broken == TokenReused {
			token = 1
		}
		m.rec.Token, m.rec.Beat, m.rec.Ended, m.rec.Claim, m.rec.Release = token, rev, false, c, lease.Release{}
		if !m.rec.Paused {
			m.rec.Order, m.rec.MoveTo = 0, ""
		}
		return true
	}) {
		return nil, lease.ErrChanged
	}
	return &held{m: m, token: token}, nil
}

// Delete removes the record behind everybody's back.
func (m *Memory) Delete() {
	m.change(func(int64) bool {
		m.rec = lease.Record{}
		return true
	})
}

// Pause orders that nobody holds the lock; Unpause takes it back.
func (m *Memory) Pause() {
	m.change(func(rev int64) bool { m.rec.Order, m.rec.Paused, m.rec.MoveTo = rev, true, ""; return true })
}

// Unpause takes every order back.
func (m *Memory) Unpause() {
	m.change(func(int64) bool { m.rec.Order, m.rec.Paused, m.rec.MoveTo = 0, false, ""; return true })
}

// Move orders a hand-over.
func (m *Memory) Move(to string) {
	m.change(func(rev int64) bool { m.rec.Order, m.rec.Paused, m.rec.MoveTo = rev, false, to; return true })
}

type held struct {
	m     *Memory
	token int64
}

func (h *held) Token() int64 { return h.token }

func (h *held) Renew(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !h.m.change(func(rev int64) bool {
		if h.m.rec.Token != h.token {
			return false
		}
		h.m.rec.Beat = rev
		return true
	}) {
		return lease.ErrLost
	}
	return nil
}

func (h *held) Release(ctx context.Context, r lease.Release) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.m.change(func(rev int64) bool {
		if h.m.rec.Token != h.token && h.m.Broken != ReleaseAnybody {
			return false
		}
		h.m.rec.Token, h.m.rec.Ended, h.m.rec.Release = rev, true, r
		if r.Next != "" {
			h.m.rec.Order, h.m.rec.MoveTo = 0, ""
		}
		return true
	})
	return nil
}
