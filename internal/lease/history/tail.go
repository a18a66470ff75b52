package history

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Tail reads a file of recorders, also while it grows.
type Tail struct {
	Name string // the file's; one that is not there yet is empty
	// Ahead is by how much the recorder's clock is ahead of everybody's; it is taken off.
	Ahead time.Duration

	off  int64
	open map[key]Op
}

type key struct {
	run string
	n   int64
}

// Next returns the calls that were answered since the last time, in the order of
// their answers.
func (t *Tail) Next() ([]Op, error) {
	data, err := t.more()
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	if t.open == nil {
		t.open = map[key]Op{}
	}
	var out []Op
	for {
		text, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole { // being written
			return out, nil
		}
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			return nil, fmt.Errorf("history: %s at byte %d: %w", t.Name, t.off, err)
		}
		data, t.off = rest, t.off+int64(len(text))+1
		l.At -= t.Ahead
		k := key{l.Run, l.N}
		op := t.open[k]
		op.add(l)
		if l.Done {
			delete(t.open, k)
			out = append(out, op)
		} else {
			t.open[k] = op
		}
	}
}

// Open returns the calls that were not answered, in the order of their beginning.
func (t *Tail) Open() []Op {
	var out []Op
	for _, op := range t.open {
		out = append(out, op)
	}
	slices.SortFunc(out, func(a, b Op) int { return cmp.Or(cmp.Compare(a.Call, b.Call), cmp.Compare(a.N, b.N)) })
	return out
}

// more reads what was added to the file.
func (t *Tail) more() ([]byte, error) {
	f, err := os.Open(t.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(t.off, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}
