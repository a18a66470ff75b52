//go:build faults || lab

package lease

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/history"
	"github.com/hactl/hactl/internal/lease/history/linear"
	"github.com/hactl/hactl/internal/testwait"
)

// lockHistory is what every podmaster, guard and ExecStopPost= asked of the lock and
// was answered: the lock's own history, whatever the work did.
type lockHistory struct {
	files map[string]*history.Tail // by candidate
	notes []history.Op             // what the test did to the keys
	carry []history.Op             // unanswered before, and may have an effect yet
	ops   int                      // judged so far
}

func newLockHistory() *lockHistory { return &lockHistory{files: map[string]*history.Tail{}} }

// follow reads a candidate's file from now on; ahead is by how much its clock is.
func (h *lockHistory) follow(who, file string, ahead time.Duration) {
	h.files[who] = &history.Tail{Name: file, Ahead: ahead}
}

// deleted notes that f deletes the lock's keys.
func (h *lockHistory) deleted(f func()) {
	o := history.Op{Who: "test", Kind: history.Deleted, Call: lease.Boottime{}.Now(), Answer: history.OK}
	f()
	o.Return = lease.Boottime{}.Now()
	h.notes = append(h.notes, o)
}

// judge looks at what was said since the last time. What was not answered then may
// have come about only now: it is looked at again.
func (h *lockHistory) judge(t *testing.T) {
	t.Helper()
	all := append(slices.Clone(h.carry), h.notes...)
	h.notes, h.carry = nil, nil
	var open []history.Op
	// Beyond a minute nothing is under way any more: each call has a deadline, and
	// so has each packet's life.
	young := (lease.Boottime{}).Now() - time.Minute
	all = append(all, h.answered(t)...)
	for _, f := range h.files {
		for _, o := range f.Open() {
			if o.Call > young {
				open = append(open, o)
			}
		}
	}
	r, err := linear.Check(append(slices.Clone(all), open...))
	if err != nil {
		t.Error(err)
	}
	h.ops += r.Ops
	for _, e := range linear.Early(append(slices.Clone(all), open...), ttl) {
		t.Error(e)
	}
	for _, o := range all {
		late := o.Answer == history.Unknown && (o.Kind == history.Renew || o.Kind == history.Release)
		if late && o.Call > young {
			h.carry = append(h.carry, o)
		}
	}
	for _, o := range r.Unsettled {
		mine := func(other history.Op) bool { return other.Run == o.Run && other.N == o.N }
		if o.Call > young && !slices.ContainsFunc(open, mine) {
			h.carry = append(h.carry, o)
		}
	}
}

// answered is what was answered since the last time. It waits for something, as a fault
// may be over between two renewals.
func (h *lockHistory) answered(t *testing.T) (all []history.Op) {
	t.Helper()
	testwait.For(t, "something in the lock's history", 30*time.Second, func() error {
		for _, f := range h.files {
			ops, err := f.Next()
			if err != nil {
				return err
			}
			all = append(all, ops...)
		}
		if len(all) == 0 {
			return errors.New("nothing yet")
		}
		return nil
	})
	return all
}
