package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// result is one line of the table: what one contestant did in one row.
type result struct {
	event, who string
	goal       string

	mu      sync.Mutex
	hist    *hdrhistogram.Histogram // microseconds
	stuck   int                     // repeats in which nobody came within a minute
	kept    int                     // repeats in which the same one went on
	overlap int                     // repeats in which two worked at once
	worst   time.Duration           // the longest of those
}

func newResult(event, who, goal string) *result {
	return &result{event: event, who: who, goal: goal, hist: hdrhistogram.New(1, 120_000_000, 3)}
}

// add notes one repeat.
func (r *result) add(d time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hist.RecordValue(max(1, d.Microseconds()))
}

func (r *result) n() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return int(r.hist.TotalCount())
}

// note changes the counts.
func (r *result) note(f func(*result)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

func ms(us int64) string { return fmt.Sprintf("%.0f", float64(us)/1000) }

// line is the result as a row of a table in Markdown.
func (r *result) line() string {
	var more []string
	if r.kept > 0 {
		more = append(more, fmt.Sprintf("the same one went on in %d of %d", r.kept, r.hist.TotalCount()))
	}
	if r.stuck > 0 {
		more = append(more, fmt.Sprintf("nobody came within a minute: %d", r.stuck))
	}
	if r.overlap > 0 {
		more = append(more, fmt.Sprintf("**two worked at once in %d, for %v and more**", r.overlap, r.worst.Round(time.Millisecond)))
	}
	return fmt.Sprintf("| %s | %s | %d | %s | %s | %s | %s | %s |\n", r.event, r.who, r.hist.TotalCount(),
		ms(r.hist.ValueAtQuantile(50)), ms(r.hist.ValueAtQuantile(99)), ms(r.hist.Max()), r.goal, strings.Join(more, "; "))
}

// table goes to the terminal and to -out/results.md as it grows.
type table struct {
	o    options
	w    io.Writer
	file *os.File
}

func newTable(o options) (*table, error) {
	f, err := os.Create(filepath.Join(o.out, "results.md"))
	if err != nil {
		return nil, err
	}
	t := &table{o: o, w: io.MultiWriter(os.Stdout, f), file: f}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(t.w, "Begun %s; %d processors, load average %s; %s; milliseconds.\n\n", time.Now().UTC().Format(time.RFC3339), runtime.NumCPU(),
		strings.Join(strings.Fields(string(load))[:3], " "), runtime.Version())
	fmt.Fprint(t.w, "| event | who | n | p50 | p99 | max | goal | |\n|---|---|---|---|---|---|---|---|\n")
	return t, nil
}

// put prints the results, of times, and saves their HDR files, in milliseconds.
func (t *table) put(all ...*result) error {
	for _, r := range all {
		if r.n() == 0 {
			continue
		}
		fmt.Fprint(t.w, r.line())
		if err := t.save(r, 1000); err != nil {
			return err
		}
	}
	return nil
}

// putIn is put for one result of another kind; unit is what one of format's is in the histogram.
func (t *table) putIn(r *result, unit float64, format string) error {
	at := func(v int64) string { return fmt.Sprintf(format, float64(v)/unit) }
	fmt.Fprintf(t.w, "| %s | %s | %d | %s | %s | %s | %s | |\n", r.event, r.who, r.n(),
		at(r.hist.ValueAtQuantile(50)), at(r.hist.ValueAtQuantile(99)), at(r.hist.Max()), r.goal)
	return t.save(r, unit)
}

func (t *table) save(r *result, unit float64) error {
	file := strings.NewReplacer(" ", "-", ",", "", "'", "", "(", "", ")", "").Replace(r.event + "--" + r.who + ".hgrm")
	f, err := os.Create(filepath.Join(t.o.out, file))
	if err != nil {
		return err
	}
	_, err = r.hist.PercentilesPrint(f, 5, unit)
	return errors.Join(err, f.Close())
}

// finish closes the file.
func (t *table) finish() error { return t.file.Close() }
