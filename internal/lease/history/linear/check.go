package linear

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/hactl/hactl/internal/lease/history"
)

// patience is how long porcupine may look for an order. A history that has one is
// done in milliseconds.
const patience = time.Minute

// never is the return of a call that may happen at any time.
const never = time.Duration(1<<62 - 1)

// Report is what Check found out beside its verdict.
type Report struct {
	Ops   int // calls that were judged
	Terms int // takes among them
	// Unsettled are takes without an answer that have had no effect yet: they belong
	// to what comes after as well.
	Unsettled []history.Op
}

// Check returns an error that shows where the history breaks, if no order of its
// calls is one lock's. It may begin in the middle of the lock's life, and contain
// calls without an answer.
func Check(all []history.Op) (Report, error) {
	ops, unsettled := settle(all)
	r := Report{Ops: len(ops), Unsettled: unsettled}
	var h []porcupine.Operation
	for i, o := range ops {
		if o.Kind == history.Take {
			r.Terms++
		}
		h = append(h, porcupine.Operation{ClientId: i, Input: o, Call: int64(o.Call), Return: int64(o.Return)})
	}
	switch porcupine.CheckOperationsTimeout(model, h, patience) {
	case porcupine.Ok:
		return r, nil
	case porcupine.Unknown:
		return r, fmt.Errorf("no order of %d calls was found within %v, nor that there is none", len(ops), patience)
	default:
		_, info := porcupine.CheckOperationsVerbose(model, h, patience)
		return r, fmt.Errorf("no order of %d calls is one lock's: %s", len(ops), where(ops, info))
	}
}

// settle makes of what was recorded what can be judged: calls that say nothing are
// left out, and calls without an answer get the latest moment at which they can have
// had an effect.
func settle(all []history.Op) (ops, unsettled []history.Op) {
	all = slices.SortedStableFunc(slices.Values(all), func(a, b history.Op) int { return cmp.Compare(a.Call, b.Call) })
	taken := map[int64]bool{}
	for _, o := range all {
		if o.Kind == history.Take && o.Answer == history.OK {
			taken[o.Token] = true
		}
	}
	for _, o := range all {
		answered := o.Answer != history.Unknown
		switch {
		case o.Kind == history.Read && !answered, o.Answer == history.Changed:
		case o.Kind == history.Take && !answered:
			// Whether it happened, its token tells, when somebody has seen it.
			if token, by := effect(o, all, taken); token != 0 {
				taken[token] = true
				o.Answer, o.Token, o.Return = history.OK, token, by
				ops = append(ops, o)
			} else {
				unsettled = append(unsettled, o)
			}
		case !answered:
			o.Return = gone(o, all)
			ops = append(ops, o)
		default:
			o.Return = max(o.Return, o.Call)
			ops = append(ops, o)
		}
	}
	return ops, unsettled
}

// effect finds the token of a take that was not answered: somebody has seen a term
// with its claim, and no other take has got it. by is when that was for the first time.
func effect(take history.Op, all []history.Op, taken map[int64]bool) (token int64, by time.Duration) {
	by = never
	for _, o := range all {
		seen, at := o.Got, o.Return
		if o.Kind == history.Take {
			seen, at = o.Seen, o.Call
		}
		if seen.ID == take.ID && !seen.Ended && seen.Token > take.Seen.Token && !taken[seen.Token] && at > take.Call && at < by {
			token, by = seen.Token, at
		}
	}
	return token, by
}

// gone is when a renewal or release of a term can have no effect any more: when a
// later term was taken.
func gone(o history.Op, all []history.Op) time.Duration {
	at := never
	for _, t := range all {
		if o.Token != 0 && t.Kind == history.Take && t.Answer == history.OK && t.Token > o.Token && t.Return >= o.Call {
			at = min(at, t.Return)
		}
	}
	return at
}

// where shows the last calls of the longest order that was found, and the first ones
// that did not fit.
func where(ops []history.Op, info porcupine.LinearizationInfo) string {
	var longest []int
	for _, p := range info.PartialLinearizations() {
		for _, order := range p {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	in := map[int]bool{}
	var s strings.Builder
	for i, id := range longest {
		in[id] = true
		if i >= len(longest)-5 {
			fmt.Fprintf(&s, "\n  … %s", show(ops[id]))
		}
	}
	n := 0
	for id, o := range ops {
		if !in[id] && n < 8 {
			fmt.Fprintf(&s, "\n  ? %s", show(o))
			n++
		}
	}
	return s.String()
}

func show(o history.Op) string {
	end := "?"
	if o.Return != never {
		end = o.Return.String()
	}
	return fmt.Sprintf("%v–%s %s", o.Call, end, describe(o))
}

// Early lists every take that came before the term of the one before was released,
// or had run out: no term lives longer than ttl from the sending of its last renewal
// that was answered. All times are of one clock.
func Early(all []history.Op, ttl time.Duration) []string {
	deadline := map[int64]time.Duration{} // by token
	released := map[int64]time.Duration{} // by token: when that was asked for
	taken := []history.Op{}               // the takes that succeeded
	note := func(m map[int64]time.Duration, token int64, at time.Duration, pick func(a, b time.Duration) time.Duration) {
		if old, ok := m[token]; ok {
			at = pick(old, at)
		}
		m[token] = at
	}
	for _, o := range all {
		switch {
		case o.Kind == history.Release:
			note(released, o.Token, o.Call, func(a, b time.Duration) time.Duration { return min(a, b) })
		case o.Answer != history.OK || o.Kind != history.Take && o.Kind != history.Renew:
		default:
			note(deadline, o.Token, o.Call+ttl, func(a, b time.Duration) time.Duration { return max(a, b) })
			if o.Kind == history.Take {
				taken = append(taken, o)
			}
		}
	}
	var out []string
	for _, now := range taken {
		for token, until := range deadline {
			at, was := released[token]
			if token < now.Token && now.Return < until && (!was || at > now.Return) {
				out = append(out, fmt.Sprintf("%s took token %d at %v, but token %d stood until %v", now.Who, now.Token, now.Return, token, until))
			}
		}
	}
	return out
}
