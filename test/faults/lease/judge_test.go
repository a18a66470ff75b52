//go:build faults || lab

package lease

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
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

// reignsIn reads the logs of all hosts; the keys are their names.
func reignsIn(t *testing.T, logs map[string]string) []reign {
	byToken := map[int64]*reign{}
	for name, log := range logs {
		for _, r := range readLog(t, log) {
			g := byToken[r.token]
			if g == nil {
				g = &reign{token: r.token, host: name, first: r.at}
				byToken[r.token] = g
			}
			if g.host != name {
				t.Errorf("token %d worked on %s and on %s", r.token, g.host, name)
			}
			if r.holder != name && r.holder != "-" {
				t.Errorf("token %d worked on %s in the name of %s", r.token, name, r.holder)
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

// longestOverlap is the longest time in which two reigns wrote.
func longestOverlap(all []reign) time.Duration {
	longest := time.Duration(0)
	for i, a := range all {
		for _, b := range all[i+1:] {
			longest = max(longest, min(a.last, b.last)-max(a.first, b.first))
		}
	}
	return longest
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

// judge fails the test on any overlap and on any late byte, and returns how many
// overlaps it has forgiven because the sink alone counts.
func judge(t *testing.T, all []reign, in []arrival, onlySink bool) (forgiven int) {
	t.Helper()
	if late := lateAtSink(in); len(late) > 0 {
		t.Errorf("%d late bytes at the sink, first: %s", len(late), late[0])
	}
	if len(in) == 0 {
		t.Error("nothing arrived at the sink: the gate is shut for all")
	}
	for _, r := range all {
		if r.token == 0 {
			t.Errorf("%s worked without a term, from %v until %v", r.host, r.first, r.last)
		}
	}
	over := overlaps(all)
	if onlySink {
		t.Logf("beside the sink: %d overlaps %v", len(over), over)
		return len(over)
	}
	for _, o := range over {
		t.Error(o)
	}
	return 0
}

// longestGap is the longest time since start in which no log was written to.
func longestGap(t *testing.T, logs []string, start time.Duration) time.Duration {
	at := []time.Duration{start}
	for _, log := range logs {
		for _, r := range readLog(t, log) {
			if r.at > start {
				at = append(at, r.at)
			}
		}
	}
	slices.Sort(at)
	longest := time.Duration(0)
	for i := 1; i < len(at); i++ {
		longest = max(longest, at[i]-at[i-1])
	}
	return longest
}

// table has a row for each fault, and goes to the file HACTL_FAULT_TABLE if set.
type table struct{ out io.Writer }

func newTable(t *testing.T) *table {
	t.Helper()
	name := os.Getenv("HACTL_FAULT_TABLE")
	if name == "" {
		return &table{out: io.Discard}
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &table{out: f}
}

func (tb *table) row(fault string) *row { return &row{out: tb.out, fault: fault} }

// row is one fault's repeats.
type row struct {
	out      io.Writer
	fault    string
	gaps     []time.Duration
	terms    int
	forgiven int
}

func (r *row) add(gap time.Duration, terms, forgiven int) {
	r.gaps = append(r.gaps, gap)
	r.terms += terms
	r.forgiven += forgiven
}

// done prints the row.
func (r *row) done(t *testing.T) {
	if len(r.gaps) == 0 {
		return
	}
	slices.Sort(r.gaps)
	at := func(q float64) time.Duration {
		return r.gaps[int(q*float64(len(r.gaps)-1)+0.5)].Round(time.Millisecond)
	}
	verdict := "never two, tokens only grew, nobody stuck"
	if t.Failed() {
		verdict = "FAILED"
	}
	line := fmt.Sprintf("| %s | %d | %s | %v | %v | %v | %d | %d |\n",
		r.fault, len(r.gaps), verdict, at(0.5), at(0.99), at(1), r.terms, r.forgiven)
	t.Log(line)
	if _, err := io.WriteString(r.out, line); err != nil {
		t.Error(err)
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
	if d := longestOverlap([]reign{{token: 1, first: 0, last: 10 * ms}, {token: 2, first: 4 * ms, last: 7 * ms}, {token: 3, first: 11 * ms, last: 12 * ms}}); d != 3*ms {
		t.Errorf("the longest overlap is %v, want 3ms", d)
	}
	if l := lateAtSink([]arrival{{1, 1}, {2, 2}, {1, 3}, {2, 4}}); len(l) != 1 {
		t.Errorf("late %v, want one", l)
	}
	if l := lateAtSink([]arrival{{1, 1}, {1, 2}, {2, 3}}); len(l) != 0 {
		t.Errorf("late %v, want none", l)
	}
}
