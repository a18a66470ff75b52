package dataplane

import (
	"net/netip"
	"sync"
)

// clientLimits counts connections by client. The zero value has no bound.
type clientLimits struct {
	max    int
	shards [16]struct {
		sync.Mutex
		n map[uint64]int
	}
}

// enter counts one more connection of a, unless a has its share.
func (l *clientLimits) enter(a netip.Addr) bool {
	if l.max == 0 || !a.IsValid() {
		return true
	}
	key := limitKey(a)
	s := &l.shards[mix(key)]
	s.Lock()
	defer s.Unlock()
	if s.n[key] >= l.max {
		return false
	}
	if s.n == nil {
		s.n = map[uint64]int{}
	}
	s.n[key]++
	return true
}

// leave takes back an enter that returned true.
func (l *clientLimits) leave(a netip.Addr) {
	if l.max == 0 || !a.IsValid() {
		return
	}
	key := limitKey(a)
	s := &l.shards[mix(key)]
	s.Lock()
	defer s.Unlock()
	if s.n[key]--; s.n[key] == 0 {
		delete(s.n, key)
	}
}

func mix(key uint64) uint64 { return key * 0x9e3779b97f4a7c15 >> 60 }
