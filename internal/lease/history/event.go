package history

import (
	"encoding/json"
	"time"

	"github.com/hactl/hactl/internal/lease"
)

// Kind is what was asked for.
type Kind string

// The kinds. Deleted is nobody's call: whoever deletes the lock's keys by hand notes it.
const (
	Read    Kind = "read"
	Take    Kind = "take"
	Renew   Kind = "renew"
	Release Kind = "release"
	Deleted Kind = "deleted"
)

// Answer is how a call ended.
type Answer string

// The answers.
const (
	Unknown Answer = ""        // none, or an error after which it may have happened, or may still
	OK      Answer = "ok"      // it happened
	Changed Answer = "changed" // a take: the record was not as seen
	Lost    Answer = "lost"    // a renewal: the term does not stand
)

// State is what a record says of the lock: see lease.Record.
type State struct {
	Token int64  `json:"token"`
	Beat  int64  `json:"beat"`
	Ended bool   `json:"ended,omitempty"`
	ID    string `json:"id,omitempty"` // of the claim
}

func stateOf(r lease.Record) State {
	return State{Token: r.Token, Beat: r.Beat, Ended: r.Ended, ID: r.ID}
}

// Op is one call. A call that was not answered has no Return.
type Op struct {
	Who    string        // the party's name
	Run    string        // of the recorder: one process has one
	N      int64         // the call's number in the run, from 1
	Kind   Kind          // what was asked for
	Call   time.Duration // when, on the recorder's clock
	Return time.Duration // when it was answered; 0: never
	Answer Answer
	ID     string // a take's: the claim's
	Seen   State  // a take's: what it was asked to compare with
	Token  int64  // of a renewal or a release; of a take that succeeded
	Got    State  // what a read said
	Err    string // for people
}

// line is an Op's one or other end, in the file.
type line struct {
	Who    string        `json:"who"`
	Run    string        `json:"run"`
	N      int64         `json:"n"`
	Kind   Kind          `json:"op"`
	At     time.Duration `json:"at"`
	Done   bool          `json:"done,omitempty"`
	Answer Answer        `json:"answer,omitempty"`
	ID     string        `json:"id,omitempty"`
	Seen   *State        `json:"seen,omitempty"`
	Token  int64         `json:"token,omitempty"`
	Got    *State        `json:"got,omitempty"`
	Err    string        `json:"err,omitempty"`
}

func (o Op) ends() (call, done line) {
	call = line{Who: o.Who, Run: o.Run, N: o.N, Kind: o.Kind, At: o.Call, ID: o.ID}
	done = line{Who: o.Who, Run: o.Run, N: o.N, Kind: o.Kind, At: o.Return, Done: true, Answer: o.Answer, Token: o.Token, Err: o.Err}
	switch o.Kind {
	case Take:
		call.Seen = &o.Seen
	case Read:
		if o.Answer == OK {
			done.Got = &o.Got
		}
	case Renew, Release:
		call.Token = o.Token
	}
	return call, done
}

// add takes note of an end.
func (o *Op) add(l line) {
	o.Who, o.Run, o.N, o.Kind = l.Who, l.Run, l.N, l.Kind
	if l.Token != 0 {
		o.Token = l.Token
	}
	if !l.Done {
		o.Call, o.ID = l.At, l.ID
		if l.Seen != nil {
			o.Seen = *l.Seen
		}
		return
	}
	o.Return, o.Answer, o.Err = l.At, l.Answer, l.Err
	if l.Got != nil {
		o.Got = *l.Got
	}
}

func (l line) encode() []byte {
	b, err := json.Marshal(l)
	if err != nil {
		panic(err) // plain structs: cannot fail
	}
	return append(b, '\n')
}
