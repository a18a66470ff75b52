package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// progress tells how far the run is, and how long it will still take.
type progress struct {
	mu      sync.Mutex
	o       options
	left    []row // not begun
	began   time.Time
	row     string
	rowFrom time.Time
	guess   time.Duration // of the row
	counts  map[string]int
	want    map[string]int
	told    time.Time
}

func newProgress(o options, rows []row) *progress {
	return &progress{o: o, left: rows, began: time.Now()}
}

// guess is how long a row takes.
func (o options) guess(r row) time.Duration {
	d := r.fixed + time.Duration(o.repeats)*r.each
	if r.kube && o.kube != "" {
		d += time.Duration(o.repeats) * r.eachKube
	}
	return d
}

func (p *progress) list(w io.Writer) {
	total := startUp
	for _, r := range p.left {
		d := p.o.guess(r)
		total += d
		fmt.Fprintf(w, "%-40s %s\n", r.name, d.Round(time.Second))
	}
	fmt.Fprintf(w, "%-40s %s\n", "all, with the start", total.Round(time.Minute))
}

func (p *progress) begin(r row) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.row, p.rowFrom, p.guess = r.name, time.Now(), p.o.guess(r)
	p.counts, p.want = map[string]int{}, map[string]int{}
	p.left = p.left[1:]
	p.told = time.Time{}
	p.tell()
}

func (p *progress) done(r row, took time.Duration) {
	p.say("%s: done in %v", r.name, took.Round(time.Second))
}

func (p *progress) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// count notes that a contestant has n of want repeats.
func (p *progress) count(who string, n, want int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[who], p.want[who] = n, want
	if time.Since(p.told) > 15*time.Second {
		p.tell()
	}
}

func (p *progress) tell() {
	p.told = time.Now()
	spent := time.Since(p.rowFrom)
	row := max(p.guess-spent, 0)
	text := ""
	least := 1.0
	for _, who := range []string{ours, lockPeer, kubePeer} {
		if want := p.want[who]; want > 0 {
			text += fmt.Sprintf(" %s %d/%d", who, p.counts[who], want)
			least = min(least, float64(p.counts[who])/float64(want))
		}
	}
	if least > 0.1 && text != "" { // better than a guess
		row = time.Duration(float64(spent) * (1 - least) / least)
	}
	rest := row
	for _, r := range p.left {
		rest += p.o.guess(r)
	}
	p.say("%s:%s; about %v of it left, %v of all", p.row, text, row.Round(10*time.Second), rest.Round(10*time.Second))
}
