//go:build faults

package lease

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

// reign is the stretch in which a token's work wrote.
type reign struct {
	token       int64
	host        string
	first, last time.Duration
	writes      int
}

// reigns reads all hosts' logs.
func (w *world) reigns() []reign {
	byToken := map[int64]*reign{}
	for _, h := range w.hosts {
		for _, r := range readLog(w.t, h.log) {
			g := byToken[r.token]
			if g == nil {
				g = &reign{token: r.token, host: h.name, first: r.at}
				byToken[r.token] = g
			}
			g.first, g.last = min(g.first, r.at), max(g.last, r.at)
			g.writes++
		}
	}
	var out []reign
	for _, token := range slices.Sorted(maps.Keys(byToken)) {
		out = append(out, *byToken[token])
	}
	return out
}

// overlaps lists every two reigns that wrote at the same time.
func overlaps(all []reign) []string {
	var out []string
	for i, a := range all {
		for _, b := range all[i+1:] {
			if b.first <= a.last {
				out = append(out, fmt.Sprintf("token %d on %s wrote until %v, token %d on %s from %v: %v together",
					a.token, a.host, a.last, b.token, b.host, b.first, a.last-b.first))
			}
		}
	}
	return out
}

// lateAtSink lists arrivals of an older token after a newer one.
func lateAtSink(in []arrival) []string {
	var out []string
	newest := int64(0)
	for _, a := range slices.SortedStableFunc(slices.Values(in), func(a, b arrival) int { return cmp.Compare(a.at, b.at) }) {
		if a.token < newest {
			out = append(out, fmt.Sprintf("token %d arrived at %v, after token %d", a.token, a.at, newest))
		}
		newest = max(newest, a.token)
	}
	return out
}

// judge fails the test on any overlap and on any late byte.
func (w *world) judge(onlySink bool) {
	w.t.Helper()
	if late := lateAtSink(w.sink.arrivals()); len(late) > 0 {
		w.t.Errorf("%d late bytes at the sink, first: %s", len(late), late[0])
	}
	if len(w.sink.arrivals()) == 0 {
		w.t.Error("nothing arrived at the sink: the gate is shut for all")
	}
	all := w.reigns()
	over := overlaps(all)
	if onlySink {
		w.t.Logf("beside the sink: %d overlaps %v", len(over), over)
		return
	}
	for _, o := range over {
		w.t.Error(o)
	}
	for _, r := range all {
		w.t.Logf("token %d on %s: %v–%v, %d writes", r.token, r.host, r.first, r.last, r.writes)
	}
}

// The judge itself must be able to say no.
func TestJudge(t *testing.T) {
	ms := time.Millisecond
	if o := overlaps([]reign{{token: 1, first: 0, last: 10 * ms}, {token: 2, first: 11 * ms, last: 20 * ms}}); len(o) != 0 {
		t.Errorf("overlaps %v where there is none", o)
	}
	if o := overlaps([]reign{{token: 1, first: 0, last: 10 * ms}, {token: 2, first: 20 * ms, last: 30 * ms}, {token: 3, first: 9 * ms, last: 40 * ms}}); len(o) != 2 {
		t.Errorf("overlaps %v, want two", o)
	}
	if l := lateAtSink([]arrival{{1, 1}, {2, 2}, {1, 3}, {2, 4}}); len(l) != 1 {
		t.Errorf("late %v, want one", l)
	}
	if l := lateAtSink([]arrival{{1, 1}, {1, 2}, {2, 3}}); len(l) != 0 {
		t.Errorf("late %v, want none", l)
	}
}
