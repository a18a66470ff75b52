package dev

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/master"
)

// LogOptions says what Logs prints.
type LogOptions struct {
	Host   string
	Proc   string // a unit or one of its short names; empty: all, each line with its unit's name
	Lines  int    // of the end of each file; 0 means all
	Follow bool   // go on until the context ends
}

// Logs prints the logs of a host's processes.
func (f *Folder) Logs(ctx context.Context, w io.Writer, opts LogOptions) error {
	if err := f.host(opts.Host); err != nil {
		return err
	}
	files, err := f.logFiles(opts.Host, opts.Proc)
	if err != nil {
		return err
	}
	tails := make([]*tail, 0, len(files))
	for _, path := range files {
		t := &tail{path: path}
		if opts.Proc == "" {
			t.prefix = strings.TrimSuffix(filepath.Base(path), ".log") + " | "
		}
		tails = append(tails, t)
		if err := t.last(w, opts.Lines); err != nil {
			return err
		}
	}
	if !opts.Follow {
		return nil
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, t := range tails {
			if err := t.more(w); err != nil {
				return err
			}
		}
	}
}

// logFiles returns the log files of a host, or the one that proc names.
func (f *Folder) logFiles(host, proc string) ([]string, error) {
	all, err := filepath.Glob(filepath.Join(f.Layout(host).Logs(), "*.log"))
	if err != nil {
		return nil, err
	}
	slices.Sort(all)
	if proc == "" {
		return all, nil
	}
	// A singleton's program writes into its podmaster's log.
	for _, unit := range []string{unitName(proc), master.Podmaster + unitName(proc)} {
		if path := f.Layout(host).LogFile(unit); slices.Contains(all, path) {
			return []string{path}, nil
		}
	}
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = strings.TrimSuffix(filepath.Base(p), ".log")
	}
	return nil, exitcode.Errorf(exitcode.Usage, "%s has no log of %q; there are: %s", host, proc, strings.Join(names, ", ")).
		WithHint("hactl dev logs %s", host)
}

// tail prints a file that grows, and may be replaced by a new one.
type tail struct {
	path   string
	prefix string
	offset int64
}

// last prints the last n lines (all when n is 0) and remembers the end.
func (t *tail) last(w io.Writer, n int) error {
	data, err := os.ReadFile(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// A line that is still being written is printed whole later.
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	t.offset = int64(len(data))
	lines := bytes.SplitAfter(data, []byte("\n"))
	lines = lines[:max(0, len(lines)-1)] // what follows the last newline
	if n > 0 && len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	for _, l := range lines {
		if _, err := fmt.Fprintf(w, "%s%s", t.prefix, l); err != nil {
			return err
		}
	}
	return nil
}

// more prints the whole lines that came since the last call.
func (t *tail) more(w io.Writer) error {
	file, err := os.Open(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	if fi, err := file.Stat(); err == nil && fi.Size() < t.offset {
		t.offset = 0 // rotated
	}
	if _, err := file.Seek(t.offset, io.SeekStart); err != nil {
		return err
	}
	r := bufio.NewReader(file)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil // the rest of the line is to come
		}
		t.offset += int64(len(line))
		if _, err := fmt.Fprintf(w, "%s%s", t.prefix, line); err != nil {
			return err
		}
	}
}
