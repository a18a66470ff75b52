package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
)

// Load reads the cluster's file of a master and merges its drop-ins over it, in
// the order of their names; see LoadFiles.
func Load(l layout.Layout) (*Cluster, error) {
	dropIns, err := filepath.Glob(filepath.Join(l.ConfigDropIns(), "*.yaml"))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", l.ConfigDropIns(), err)
	}
	sort.Strings(dropIns)
	return LoadFiles(l.ConfigFile(), dropIns...)
}

// LoadFiles reads file, which must name its apiVersion and kind, and merges the
// drop-ins over it in the given order: mappings merge field by field, a list
// replaces the list before it, and a field without a value (null) goes back to
// its default. What no file names has its default.
//
// The error has the exit code exitcode.Usage. It joins a *FieldError for each
// fault (see FieldErrors); a file that cannot be read is wrapped, so that
// errors.Is(err, fs.ErrNotExist) tells a missing one.
func LoadFiles(file string, dropIns ...string) (*Cluster, error) {
	d, c := newDecoder(), Default()
	var unread []error
	for i, name := range append([]string{file}, dropIns...) {
		data, err := os.ReadFile(name)
		if err != nil {
			unread = append(unread, fmt.Errorf("read the configuration: %w", err))
			continue
		}
		d.read(name, data, c)
		if i == 0 {
			d.requireHeader(file)
		}
	}
	if len(unread) > 0 {
		err := &exitcode.Error{Code: exitcode.Usage, Err: errors.Join(unread...)}
		if errors.Is(err, fs.ErrNotExist) {
			err = err.WithHint("hactl config print-defaults > %s", file)
		}
		return nil, err
	}
	return d.finish(c)
}

// Parse reads one file's content; name stands for the file in errors. See
// LoadFiles.
func Parse(name string, data []byte) (*Cluster, error) {
	d, c := newDecoder(), Default()
	d.read(name, data, c)
	d.requireHeader(name)
	return d.finish(c)
}

// requireHeader insists that the first file says what it is, so that a later
// format can be told from this one.
func (d *decoder) requireHeader(file string) {
	for _, f := range d.faults {
		if f.Path == "" { // it could not be read at all; the rest would only distract
			return
		}
	}
	for _, h := range []struct{ field, want string }{{"apiVersion", APIVersion}, {"kind", Kind}} {
		if _, ok := d.at[h.field]; !ok {
			d.faults = append(d.faults, &FieldError{Path: h.field, At: file,
				Err: fmt.Errorf("missing; write %s: %s", h.field, h.want)})
		}
	}
}

// finish validates what was read and joins all faults.
func (d *decoder) finish(c *Cluster) (*Cluster, error) {
	unreadable := false
	broken := map[string]bool{}
	for _, f := range d.faults {
		unreadable = unreadable || f.Path == ""
		broken[f.Path] = true
	}
	if !unreadable {
		for _, f := range c.validate() {
			if broken[f.Path] {
				continue // already told why it was not read
			}
			f.At = d.where(f.Path)
			d.faults = append(d.faults, f)
		}
	}
	if len(d.faults) == 0 {
		return c, nil
	}
	return nil, (&exitcode.Error{Code: exitcode.Usage, Err: joinFields(d.faults)}).
		WithHint("hactl config validate; docs/config.md explains each field")
}

// where finds the file and line of path, or of its nearest parent that was
// written.
func (d *decoder) where(path string) string {
	for path != "" {
		if at, ok := d.at[path]; ok {
			return at
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return d.at[""]
}
