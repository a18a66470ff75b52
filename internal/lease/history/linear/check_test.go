package linear

import (
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease/history"
)

// story makes a history of ops: each begins at its place and ends in the middle of
// the next one's, unless it says otherwise.
func story(ops ...history.Op) []history.Op {
	for i := range ops {
		o := &ops[i]
		if o.Call == 0 {
			o.Call = time.Duration(i+1) * time.Second
		}
		if o.Return == 0 && o.Answer != history.Unknown {
			o.Return = o.Call + time.Second/2
		}
		if o.Who == "" {
			o.Who = "m1"
		}
	}
	return ops
}

func read(token, beat int64, ended bool) history.Op {
	return history.Op{Kind: history.Read, Answer: history.OK, Got: history.State{Token: token, Beat: beat, Ended: ended}}
}

func take(seen history.State, token int64) history.Op {
	return history.Op{Kind: history.Take, Answer: history.OK, Seen: seen, Token: token, ID: "a"}
}

func call(kind history.Kind, token int64, a history.Answer) history.Op {
	return history.Op{Kind: kind, Token: token, Answer: a}
}

func at(token, beat int64) history.State { return history.State{Token: token, Beat: beat} }

var none history.State

// long is an answer that came late.
func long(o history.Op, d time.Duration) history.Op {
	o.Call, o.Return = time.Second/10, d
	return o
}

func TestCheck(t *testing.T) {
	ended := history.State{Token: 7, Beat: 6, Ended: true}
	lost := take(none, 0)
	lost.Answer, lost.ID = history.Unknown, "lost"
	seenLost := read(5, 5, false)
	seenLost.Got.ID = "lost"
	for name, c := range map[string]struct {
		ops  []history.Op
		fine bool
	}{
		"one life": {story(read(0, 0, false), take(none, 5), call(history.Renew, 5, history.OK), read(5, 6, false),
			call(history.Release, 5, history.OK), read(7, 6, true), take(ended, 8)), true},
		"from the middle":     {story(call(history.Renew, 5, history.OK), read(5, 9, false), take(at(5, 9), 12)), true},
		"two winners":         {story(take(none, 5), take(none, 6)), false},
		"two winners at once": {story(long(take(none, 5), 9*time.Second), long(take(none, 6), 9*time.Second)), false},
		"taken over a renewal that it did not see":   {story(take(none, 5), call(history.Renew, 5, history.OK), take(at(5, 5), 9)), false},
		"taken over a renewal that it saw":           {story(take(none, 5), call(history.Renew, 5, history.OK), take(at(5, 6), 9)), true},
		"taken over a renewal that was not answered": {story(take(none, 5), call(history.Renew, 5, history.Unknown), take(at(5, 5), 9)), true},
		"renewed after the next one took":            {story(take(none, 5), take(at(5, 5), 9), call(history.Renew, 5, history.OK)), false},
		"renewed while the next one took":            {story(take(none, 5), take(at(5, 6), 9), long(call(history.Renew, 5, history.OK), 9*time.Second)), true},
		"lost while it stood":                        {story(take(none, 5), call(history.Renew, 5, history.Lost)), false},
		"lost":                                       {story(take(none, 5), take(at(5, 5), 9), call(history.Renew, 5, history.Lost)), true},
		"a smaller token":                            {story(take(none, 9), call(history.Release, 9, history.OK), take(history.State{Token: 10, Beat: 9, Ended: true}, 8)), false},
		"an old reader":                              {story(take(none, 5), take(at(5, 5), 9), read(5, 5, false)), false},
		"a term of nobody":                           {story(read(0, 0, false), read(5, 5, false)), false},
		"a term of a take that was not answered":     {story(lost, seenLost, take(at(5, 5), 9)), true},
		"its late effect, over a term":               {story(lost, take(none, 4), seenLost), false},
		"ended by nobody":                            {story(take(none, 5), read(7, 5, true)), false},
		"ended by a release that was not answered":   {story(take(none, 5), call(history.Release, 5, history.Unknown), read(7, 5, true)), true},
		"a release of an old term":                   {story(take(none, 5), take(at(5, 5), 9), call(history.Release, 5, history.OK), read(9, 9, false)), true},
		"deleted":                                    {story(take(none, 5), call(history.Deleted, 0, history.OK), read(0, 0, false), take(none, 9)), true},
		"deleted by nobody":                          {story(take(none, 5), read(0, 0, false)), false},
		"the beat goes back":                         {story(take(none, 5), call(history.Renew, 5, history.OK), read(5, 8, false), read(5, 7, false)), false},
	} {
		_, err := Check(c.ops)
		if (err == nil) != c.fine {
			t.Errorf("%s: %v, want fine: %v", name, err, c.fine)
		}
	}
}

// What has had no effect by now may have one later.
func TestCheckKeepsWhatIsUnsettled(t *testing.T) {
	lost := take(none, 0)
	lost.Answer, lost.ID = history.Unknown, "lost"
	first := story(lost, read(0, 0, false))
	r, err := Check(first)
	if err != nil || len(r.Unsettled) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	later := read(5, 5, false)
	later.Got.ID, later.Call = "lost", 100*time.Second
	if _, err := Check(append(r.Unsettled, story(later, after(take(at(5, 5), 9), 101*time.Second))...)); err != nil {
		t.Error(err)
	}
}

func TestCheckShowsWhereItBreaks(t *testing.T) {
	_, err := Check(story(take(none, 5), take(none, 6)))
	if err == nil || !strings.Contains(err.Error(), "m1 take") || !strings.Contains(err.Error(), "?") {
		t.Errorf("%v", err)
	}
}

func TestEarly(t *testing.T) {
	for name, c := range map[string]struct {
		ops  []history.Op
		want int
	}{
		"in time":                      {story(take(none, 5), call(history.Renew, 5, history.OK), after(take(at(5, 6), 9), 6*time.Second)), 0},
		"before it had run out":        {story(take(none, 5), call(history.Renew, 5, history.OK), after(take(at(5, 6), 9), 4*time.Second)), 1},
		"the renewal was not answered": {story(take(none, 5), call(history.Renew, 5, history.Unknown), after(take(at(5, 6), 9), 4*time.Second)), 0},
		"released":                     {story(take(none, 5), call(history.Release, 5, history.Unknown), after(take(at(5, 6), 9), 3*time.Second)), 0},
		"released after it was taken":  {story(take(none, 5), take(at(5, 6), 9), call(history.Release, 5, history.OK)), 1},
		"taken in an earlier part":     {story(call(history.Renew, 5, history.OK), take(at(5, 6), 9)), 1},
	} {
		if got := Early(c.ops, 3*time.Second); len(got) != c.want {
			t.Errorf("%s: %v, want %d", name, got, c.want)
		}
	}
}

func after(o history.Op, d time.Duration) history.Op {
	o.Call = d
	return o
}
