package lease

import "time"

// self is what a candidate's decision depends on beside the record.
type self struct {
	id, name string
	maxSkew  float64
	yieldFor time.Duration
	behind   time.Duration // own clock: stay behind until then (after a hand-over to others)
}

// sight is what a candidate knows of the holder by its own clock.
type sight struct {
	rec     Record
	at      time.Duration // when the newest Token, Beat or Ended was first seen
	freeAt  time.Duration // when the lock was first seen free; valid if rec is free
	orderAt time.Duration // when the newest Order was first seen
	lost    bool          // the record vanished
	before  Record        // what it was, valid when lost
	heard   bool          // a holder renewed or took since this campaign began
	started bool
	asked   bool          // how long to leave the lock to others, since the record last changed
	leave   time.Duration // until when; valid if asked
}

// see takes note of a record that was read by now. Older records change nothing.
func (s sight) see(rec Record, now time.Duration) sight {
	if s.started && rec.Rev < s.rec.Rev {
		return s
	}
	old := s.rec
	if rec.Order != old.Order {
		s.orderAt, s.asked = now, false
	}
	switch {
	case !s.started:
		s.at, s.freeAt = now, now
	case rec.Token == 0 && old.Token != 0:
		// Deleted behind the holder's back: records of ours are never deleted, ended
		// or not. That is no release, and there may have been terms that were not
		// seen; whoever holds must find out, or run out of time.
		s.lost, s.before, s.at, s.heard, s.asked = true, old, now, false, false
	case rec.Token != old.Token || rec.Beat != old.Beat || rec.Ended != old.Ended:
		s.at, s.freeAt, s.asked = now, now, false
		s.heard = !rec.free()
	}
	if rec.Token != 0 {
		s.lost = false
	}
	s.rec, s.started = rec, true
	return s
}

// leaveUntil takes note of how long to leave the lock, as it is now, to others.
func (s sight) leaveUntil(t time.Duration) sight {
	s.asked, s.leave = true, t
	return s
}

// action is what a candidate does next: take at once, ask how long to leave the
// lock to others, or look again at the moment at (or when the record changes). A
// zero at means: only when it changes.
type action struct {
	take bool
	ask  bool
	at   time.Duration
}

// decide is the candidate's whole rule. It does nothing itself.
func decide(s sight, me self, now time.Duration) action {
	if s.rec.Paused {
		return action{}
	}
	until, open := time.Duration(0), false // open: to any candidate
	switch {
	case s.lost:
		until, open = s.at+expiry(s.before, me), true
	case !s.rec.free() && s.rec.ID == me.id:
		// A claim of our own whose answer was lost: nothing was started for it.
	case !s.rec.free():
		until, open = s.at+expiry(s.rec, me), true
	case s.rec.MoveTo == me.name:
		// An order to us is newer than whatever we, or the last holder, left to others.
	case s.rec.MoveTo == "" && s.rec.Next == me.name:
	default:
		until, open = max(s.freeAt, me.behind), true
		if s.rec.Next != "" {
			until = max(until, s.freeAt+me.yieldFor)
		}
		if s.rec.MoveTo != "" {
			until = max(until, s.orderAt+me.yieldFor)
		}
	}
	switch {
	case now < until:
		return action{at: until}
	case open && !s.asked:
		return action{ask: true}
	case open && now < s.leave:
		return action{at: s.leave}
	}
	return action{take: true}
}

// expiry is how long an unrenewed term is respected by a candidate's clock.
func expiry(rec Record, me self) time.Duration {
	return time.Duration(float64(rec.TTL)*(1+me.maxSkew)) + rec.LockDelay
}
