package linear

import (
	"fmt"

	"github.com/anishathalye/porcupine"

	"github.com/hactl/hactl/internal/lease/history"
)

// state is the lock's. Not every write's revision is known to who judges: a
// release's and a renewal's are known only once somebody has read them.
type state struct {
	known  bool  // else: nothing is, the history begins in the middle
	token  int64 // revision of term, or a lower one when !exact
	exact  bool
	ended  bool
	beat   int64 // revision of beat is at least this, and more when moved
	moved  bool
	newest int64 // the greatest token ever taken
}

// stands reports whether the term of token stands.
func (s state) stands(token int64) bool { return s.exact && s.token == token && !s.ended }

// is reports whether the record could have been got from s.
func (s state) is(r history.State) bool {
	token := r.Token == s.token
	if !s.exact {
		token = r.Token > s.token
	}
	beat := r.Beat >= s.beat
	if s.moved {
		beat = r.Beat > s.beat
	}
	return token && beat && r.Ended == s.ended
}

// after is what is known once r was seen.
func (s state) after(r history.State) state {
	return state{known: true, token: r.Token, exact: true, ended: r.Ended, beat: r.Beat, newest: max(s.newest, r.Token)}
}

// model is one lock.
var model = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(st, in, _ any) (bool, any) {
		ok, next := step(st.(state), in.(history.Op))
		return ok, next
	},
	Equal:             func(a, b any) bool { return a == b },
	DescribeOperation: func(in, _ any) string { return describe(in.(history.Op)) },
}

func step(s state, o history.Op) (bool, state) {
	switch o.Kind {
	case history.Read:
		return !s.known || s.is(o.Got), s.after(o.Got)
	case history.Take:
		taken := state{known: true, token: o.Token, exact: true, beat: o.Token, newest: o.Token}
		if !s.known {
			return o.Token > o.Seen.Token, taken
		}
		return s.is(o.Seen) && o.Token > s.newest && o.Token > s.beat, taken
	case history.Renew:
		return renew(s, o)
	case history.Release:
		// Its answer is the same when the term was not its own any more.
		if s.known && s.stands(o.Token) {
			s.ended, s.exact = true, false
		}
		return true, s
	default: // deleted
		return true, state{known: true, exact: true, newest: s.newest}
	}
}

func renew(s state, o history.Op) (bool, state) {
	switch {
	case o.Answer == history.Lost:
		return !s.known || !s.stands(o.Token), s
	case !s.known && o.Answer == history.OK:
		return true, state{known: true, token: o.Token, exact: true, beat: o.Token, moved: true, newest: o.Token}
	case s.known && s.stands(o.Token):
		s.moved = true
		return true, s
	default:
		return o.Answer == history.Unknown, s
	}
}

func describe(o history.Op) string {
	out := fmt.Sprintf("%s %s", o.Who, o.Kind)
	switch o.Kind {
	case history.Read:
		out += fmt.Sprintf(" → %+v", o.Got)
	case history.Take:
		out += fmt.Sprintf(" on %+v → token %d", o.Seen, o.Token)
	case history.Renew, history.Release:
		out += fmt.Sprintf(" token %d", o.Token)
	}
	if o.Answer == history.Unknown {
		return out + ", not answered"
	}
	return out + ", " + string(o.Answer)
}
