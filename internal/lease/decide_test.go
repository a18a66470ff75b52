package lease

import (
	"testing"
	"time"
)

func TestDecide(t *testing.T) {
	const ttl = 3 * time.Second
	me := self{id: "me", name: "m1", maxSkew: 0.01, yieldFor: ttl}
	other := Record{Rev: 10, Token: 5, Beat: 9, Claim: Claim{ID: "other", Holder: "m2", TTL: ttl}}
	edit := func(r Record, f func(*Record)) Record { f(&r); return r }
	ended := edit(other, func(r *Record) { r.Ended = true })
	for name, tc := range map[string]struct {
		rec  Record
		at   time.Duration // when it was seen; it is decided at 10 s
		me   func(*self)
		left time.Duration // others may go first until then; it was asked
		take bool
		ask  bool
		when time.Duration
	}{
		"never taken":                      {rec: Record{Rev: 1}, at: 10 * time.Second, ask: true},
		"held":                             {rec: other, at: 9 * time.Second, when: 9*time.Second + 3030*time.Millisecond},
		"held, just expired":               {rec: other, at: 10*time.Second - 3030*time.Millisecond, ask: true},
		"held, expired but for skew":       {rec: other, at: 7 * time.Second, when: 10030 * time.Millisecond},
		"held with a lock delay":           {rec: edit(other, func(r *Record) { r.LockDelay = time.Second }), at: 9 * time.Second, when: 9*time.Second + 4030*time.Millisecond},
		"a claim of our own":               {rec: edit(other, func(r *Record) { r.ID = "me" }), at: 10 * time.Second, take: true},
		"ended":                            {rec: ended, at: 10 * time.Second, ask: true},
		"ended for us":                     {rec: edit(ended, func(r *Record) { r.Next = "m1" }), at: 10 * time.Second, take: true},
		"ended for another":                {rec: edit(ended, func(r *Record) { r.Next = "m3" }), at: 9 * time.Second, when: 12 * time.Second},
		"ended for another, long ago":      {rec: edit(ended, func(r *Record) { r.Next = "m3" }), at: 7 * time.Second, ask: true},
		"paused":                           {rec: edit(ended, func(r *Record) { r.Paused = true }), at: 1 * time.Second},
		"paused, though expired":           {rec: edit(other, func(r *Record) { r.Paused = true }), at: 1 * time.Second},
		"ordered to us":                    {rec: edit(ended, func(r *Record) { r.MoveTo, r.Order = "m1", 10 }), at: 10 * time.Second, take: true},
		"ordered to another":               {rec: edit(ended, func(r *Record) { r.MoveTo, r.Order = "m3", 10 }), at: 9 * time.Second, when: 12 * time.Second},
		"we stay behind":                   {rec: ended, at: 9 * time.Second, me: func(m *self) { m.behind = 11 * time.Second }, when: 11 * time.Second},
		"ordered to us, who stay behind":   {rec: edit(ended, func(r *Record) { r.MoveTo, r.Order = "m1", 10 }), at: 9 * time.Second, me: func(m *self) { m.behind = 11 * time.Second }, take: true},
		"ordered to us, ended for another": {rec: edit(ended, func(r *Record) { r.MoveTo, r.Order, r.Next = "m1", 10, "m3" }), at: 9 * time.Second, take: true},
		"ended for us, ordered to another": {rec: edit(ended, func(r *Record) { r.MoveTo, r.Order, r.Next = "m3", 10, "m1" }), at: 9 * time.Second, when: 12 * time.Second},
		"left to others":                   {rec: ended, at: 10 * time.Second, left: 11 * time.Second, when: 11 * time.Second},
		"left to others long enough":       {rec: ended, at: 9 * time.Second, left: 10 * time.Second, take: true},
		"expired and left to others":       {rec: other, at: 5 * time.Second, left: 11 * time.Second, when: 11 * time.Second},
		"held is not free when asked":      {rec: other, at: 9 * time.Second, left: 10 * time.Second, when: 9*time.Second + 3030*time.Millisecond},
		"for us, whoever is left it":       {rec: edit(ended, func(r *Record) { r.Next = "m1" }), at: 10 * time.Second, left: 11 * time.Second, take: true},
		"ours, whoever is left it":         {rec: edit(ended, func(r *Record) { r.MoveTo, r.Order = "m1", 10 }), at: 10 * time.Second, left: 11 * time.Second, take: true},
	} {
		t.Run(name, func(t *testing.T) {
			who := me
			if tc.me != nil {
				tc.me(&who)
			}
			s := sight{}.see(tc.rec, tc.at)
			if tc.left != 0 {
				s = s.leaveUntil(tc.left)
			}
			if got, want := decide(s, who, 10*time.Second), (action{tc.take, tc.ask, tc.when}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestSight(t *testing.T) {
	held := Record{Rev: 10, Token: 5, Beat: 9, Claim: Claim{ID: "other", TTL: 3 * time.Second}}
	me := self{id: "me", name: "m1", maxSkew: 0.01}
	s := sight{}.see(held, time.Second)
	step := func(rec Record, now time.Duration, want action) {
		t.Helper()
		s = s.see(rec, now)
		if got := decide(s, me, now); got != want {
			t.Fatalf("at %v: got %+v, want %+v", now, got, want)
		}
	}
	same := held
	same.Rev = 11
	step(same, 2*time.Second, action{at: 4030 * time.Millisecond}) // nothing new of the holder
	beat := same
	beat.Rev, beat.Beat = 12, 12
	step(beat, 3*time.Second, action{at: 6030 * time.Millisecond})
	step(held, 4*time.Second, action{at: 6030 * time.Millisecond})            // an older record comes late
	step(Record{Rev: 13}, 5*time.Second, action{at: 8030 * time.Millisecond}) // deleted: a full TTL from here
	step(Record{Rev: 14}, 6*time.Second, action{at: 8030 * time.Millisecond})
	step(Record{Rev: 14}, 9*time.Second, action{ask: true})
	next := held
	next.Rev, next.Token, next.Beat = 15, 15, 15
	step(next, 9*time.Second, action{at: 12030 * time.Millisecond})
	ended := next
	ended.Rev, ended.Token, ended.Ended = 16, 16, true
	step(ended, 10*time.Second, action{ask: true})
	// What ended cleanly is not deleted by anybody of ours either.
	// An order counts from its own sighting, however long the lock was free.
	moved := ended
	moved.Rev, moved.Order, moved.MoveTo = 17, 17, "m3"
	me.yieldFor = 3 * time.Second
	step(moved, 60*time.Second, action{at: 63 * time.Second})
	ended.Rev, me.yieldFor = 18, 0
	step(ended, 61*time.Second, action{ask: true})
	step(Record{Rev: 19}, 71*time.Second, action{at: 74030 * time.Millisecond})
}

// A lock is left to others once for each time that it becomes free, not at each look.
func TestLeftToOthersOnce(t *testing.T) {
	me := self{id: "me", name: "m1", maxSkew: 0.01}
	ended := Record{Rev: 10, Token: 5, Beat: 9, Ended: true, Claim: Claim{ID: "other", TTL: time.Second}}
	s := sight{}.see(ended, time.Second).leaveUntil(2 * time.Second)
	for what, tc := range map[string]struct {
		edit func(*Record)
		ask  bool
	}{
		"read again":      {edit: func(*Record) {}},
		"taken and ended": {edit: func(r *Record) { r.Token, r.Beat = 11, 11 }, ask: true},
		"a resume":        {edit: func(r *Record) { r.Order = 11 }, ask: true},
		"taken":           {edit: func(r *Record) { r.Token, r.Beat, r.Ended = 11, 11, false }, ask: true},
		"gone":            {edit: func(r *Record) { *r = Record{} }, ask: true},
	} {
		rec := ended
		tc.edit(&rec)
		rec.Rev = 11
		const later = 5 * time.Second // also what was taken has expired by then
		if got, want := decide(s.see(rec, 2*time.Second), me, later), (action{take: !tc.ask, ask: tc.ask}); got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
}
