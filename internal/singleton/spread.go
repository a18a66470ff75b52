package singleton

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
)

const (
	// SpreadStep is how long a candidate leaves a lock that became free to each one
	// that comes before it. The chosen one needs two round trips meanwhile.
	SpreadStep = 100 * time.Millisecond
	// spreadMost bounds the steps: those before may all be dead.
	spreadMost = 3
)

// Spread keeps the singletons from gathering at one candidate: before a lock that is
// there for any candidate is taken, it reads who holds what, and finds whose turn it
// is. It is no part of the lock's safety. Its Delay is for lease.Config.Delay.
type Spread struct {
	client  *etcdlock.Client
	key, me string
	clock   lease.Clock
	step    time.Duration

	mu    sync.Mutex
	beats beats
	held  int // by our name, when last counted
}

// NewSpread makes the Spread of the candidate named me for lock.
func NewSpread(client *etcdlock.Client, lock *etcdlock.Lock, me string) *Spread {
	return &Spread{client: client, key: lock.Name(), me: me, clock: lease.Boottime{}, step: SpreadStep, beats: beats{}}
}

// Delay is how long to leave the lock to the candidates whose turn comes first. A
// list that does not come in half a step is done without: the delay is then what the
// last count says, and none after a dead holder.
func (s *Spread) Delay(ctx context.Context, rec lease.Record) time.Duration {
	call, cancel := context.WithTimeout(ctx, s.step/2)
	defer cancel()
	before := 0
	switch infos, err := s.list(call, false); {
	case err == nil:
		before = turn(s.living(infos, rec), s.key, s.me)
	case rec.Ended:
		s.mu.Lock()
		before = s.held
		s.mu.Unlock()
	}
	return time.Duration(min(before, spreadMost)) * s.step
}

// list reads all singletons below etcdlock.Root, and the own one wherever it lies.
func (s *Spread) list(ctx context.Context, serializable bool) ([]etcdlock.Info, error) {
	infos, err := etcdlock.List(ctx, s.client, serializable)
	if err != nil || slices.ContainsFunc(infos, func(i etcdlock.Info) bool { return i.Name == s.key }) {
		return infos, err
	}
	own, err := etcdlock.Get(ctx, s.client, s.key, serializable)
	return append(infos, own), err
}

// count returns how many singletons our name holds.
func (s *Spread) count(infos []etcdlock.Info) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	s.held = 0
	for _, i := range infos {
		if i.Holder == s.me && s.beats.alive(i, now) {
			s.held++
		}
	}
	return s.held
}

// living strikes out the holder of our lock, which is free as rec shows it, and of
// all others the dead ones.
func (s *Spread) living(infos []etcdlock.Info, rec lease.Record) []etcdlock.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	for n := range infos {
		i := &infos[n]
		if i.Holder == "" {
			continue
		}
		if alive := s.beats.alive(*i, now); i.Name == s.key || !alive || outlived(*i, rec) {
			i.Holder, i.Last = "", i.Holder
		}
	}
	return infos
}

// outlived reports that i's holder is dead because rec's is, who expired and yet
// renewed after it: so one look tells of all singletons of a dead host.
func outlived(i etcdlock.Info, rec lease.Record) bool {
	return rec.Token != 0 && !rec.Ended && i.Rev < rec.Beat && i.TTL <= rec.TTL
}

// beats is what was seen of each singleton's renewals.
type beats map[string]beat

// beat is a singleton's newest renewal, and when it was first seen.
type beat struct {
	rev int64
	at  time.Duration
}

// alive reports whether the singleton's holder is heard of: a term that nobody ended
// and nobody took over keeps its record for ever.
func (b beats) alive(i etcdlock.Info, now time.Duration) bool {
	if old, ok := b[i.Name]; ok && i.Beat <= old.rev { // a list may be older than the one before
		return now-old.at <= i.TTL
	}
	b[i.Name] = beat{i.Beat, now}
	return true
}
