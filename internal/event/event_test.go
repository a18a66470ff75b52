package event

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hactl/hactl/internal/testwait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var t0 = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func at(n int) Event {
	return Event{Time: t0.Add(time.Duration(n) * time.Second), Master: "m1", Unit: fmt.Sprintf("u%d", n), Action: "restart", Reason: "no answer"}
}

func units(t *testing.T, path string, q Query) string {
	t.Helper()
	events, err := Read(path, q)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range events {
		names = append(names, e.Unit)
	}
	return strings.Join(names, " ")
}

func TestReadWhatWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "events.jsonl")
	if got := units(t, path, Query{}); got != "" {
		t.Errorf("without a file: %q", got)
	}
	for i := range 4 {
		if err := Append(path, at(i)); err != nil {
			t.Fatal(err)
		}
	}
	for want, q := range map[string]Query{
		"u0 u1 u2 u3": {}, "u2 u3": {After: at(1).Time}, "u1": {Unit: "u1"}, "u3": {Unit: "u*", Limit: 1}, "": {Unit: "v*"},
	} {
		if got := units(t, path, q); got != want {
			t.Errorf("%+v: %q, want %q", q, got, want)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", fi.Mode(), err)
	}
}

// A crash in the middle of a line costs that line only, wherever it cut.
func TestATornLineIsSkipped(t *testing.T) {
	for cutOff := 1; cutOff < 60; cutOff += 7 {
		path := filepath.Join(t.TempDir(), "events.jsonl")
		if err := Append(path, at(1), at(2)); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b[:len(b)-1-cutOff], 0o600); err != nil {
			t.Fatal(err)
		}
		if got := units(t, path, Query{}); got != "u1" {
			t.Errorf("%d bytes cut off: %q, want u1", cutOff, got)
		}
		if err := Append(path, at(3)); err != nil {
			t.Fatal(err)
		}
		if got := units(t, path, Query{}); got != "u1 u3" {
			t.Errorf("%d bytes cut off, and one more: %q, want u1 u3", cutOff, got)
		}
	}
}

// Whatever was written, two files of the limit and one append each are all.
func TestTheFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	const limit = 2000
	for i := range 200 {
		if err := appendTo(path, limit, []Event{at(i)}); err != nil {
			t.Fatal(err)
		}
	}
	total := int64(0)
	files, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		fi, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		total += fi.Size()
	}
	if len(files) > 2 || total > 2*(limit+200) {
		t.Errorf("%d bytes in %v", total, files)
	}
	got := strings.Fields(units(t, path, Query{}))
	if len(got) < 10 || got[len(got)-1] != "u199" {
		t.Errorf("left: %v, want the latest", got)
	}
	for i := 1; i < len(got); i++ {
		if got[i] != fmt.Sprintf("u%d", 200-len(got)+i) {
			t.Fatalf("a gap or disorder: %v", got)
		}
	}
}

func TestManyWritersLoseNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 50 {
				if err := appendTo(path, 16<<10, []Event{at(w*1000 + i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := len(strings.Fields(units(t, path, Query{}))); got != 200 {
		t.Errorf("%d events, want 200", got)
	}
}

func TestAHugeEventIsCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	e := at(1)
	e.Detail = strings.Repeat("x", 1<<20)
	if err := Append(path, e, at(2)); err != nil {
		t.Fatal(err)
	}
	if got := units(t, path, Query{}); got != "u1 u2" {
		t.Errorf("got %q", got)
	}
}

func TestRecorderWritesInOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	r := NewRecorder(path, "m7", nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	for i := range 20 {
		e := at(i)
		e.Time = t0 // all at one moment
		r.Record(e)
	}
	testwait.For(t, "the events in the file", 10*time.Second, func() error {
		if got := len(strings.Fields(units(t, path, Query{}))); got != 20 {
			return fmt.Errorf("%d events", got)
		}
		return nil
	})
	r.Record(at(20))
	cancel()
	<-done
	events, err := r.Read(Query{})
	if err != nil || len(events) != 21 || events[20].Master != "m7" {
		t.Fatalf("%d events, %v: the last one before the end is missing", len(events), err)
	}
	for i := 1; i < len(events); i++ {
		if !events[i].Time.After(events[i-1].Time) {
			t.Errorf("event %d has the time of the one before: following by time would miss it", i)
		}
	}
	var none *Recorder
	none.Record(at(1))
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"time":"2026-11-22T12:00:00Z","unit":"a"}` + "\n{\n\n" + `{"time":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range Parse(bytes.NewReader(b), Query{}) {
			if e.Time.IsZero() {
				t.Error("an event without a time")
			}
		}
	})
}
