package event

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// MaxBytes is the size at which a file is put aside as FILE.1, in place of the one
// before: about 4000 events each.
const MaxBytes = 1 << 20

// maxLine bounds one event.
const maxLine = 16 << 10

// Append writes events to the end of the file at path, which is made with its
// folder if missing. Processes may call it at the same time.
func Append(path string, events ...Event) error { return appendTo(path, MaxBytes, events) }

func appendTo(path string, limit int64, events []Event) error {
	var lines bytes.Buffer
	for _, e := range events {
		b, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("event: %w", err)
		}
		if len(b) > maxLine {
			e.Detail, e.Result = cut(e.Detail), cut(e.Result)
			if b, err = json.Marshal(e); err != nil || len(b) > maxLine {
				return fmt.Errorf("event: of %d bytes", len(b))
			}
		}
		lines.Write(append(b, '\n'))
	}
	f, err := lock(path)
	if err != nil {
		return err
	}
	defer f.Close() // unlocks
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	out := lines.Bytes()
	if size := fi.Size(); size > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, size-1); err != nil {
			return fmt.Errorf("event: %w", err)
		}
		if last[0] != '\n' { // a crash cut it off
			out = append([]byte{'\n'}, out...)
		}
	}
	if _, err := f.Write(out); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	if fi.Size()+int64(len(out)) < limit {
		return nil
	}
	if err := os.Rename(path, path+".1"); err != nil {
		return fmt.Errorf("event: put the full file aside: %w", err)
	}
	return nil
}

func cut(s string) string { return s[:min(len(s), 2048)] }

// lock opens the file that path names while it holds its lock: between the two,
// another process may have put it aside.
func lock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("event: %w", err)
	}
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("event: %w", err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			return nil, errors.Join(fmt.Errorf("event: lock %s: %w", path, err), f.Close())
		}
		ours, err1 := f.Stat()
		named, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(ours, named) {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("event: %w", err)
		}
	}
}

// Read returns the events of the file at path, and of the one put aside, that q
// asks for, oldest first. Lines that are no events are skipped; a missing file is
// an empty one.
func Read(path string, q Query) ([]Event, error) {
	events := []Event{}
	for _, p := range []string{path + ".1", path} {
		f, err := os.Open(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("event: %w", err)
		}
		events = append(events, Parse(f, q)...)
		_ = f.Close() // only read
	}
	if n := len(events); q.Limit > 0 && n > q.Limit {
		events = events[n-q.Limit:]
	}
	return events, nil
}

// Parse reads events, one a line, up to the first line that is far too long.
func Parse(r io.Reader, q Query) []Event {
	var events []Event
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), 4*maxLine)
	for sc.Scan() {
		var e Event
		if json.Unmarshal(sc.Bytes(), &e) != nil || e.Time.IsZero() {
			continue
		}
		if q.Match(e) {
			events = append(events, e)
		}
	}
	return events
}
