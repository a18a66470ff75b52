package lb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hactl/hactl/internal/atomicfile"
)

const maxListBytes = 1 << 20

// ParseList reads a list of backends: one on a line, as for --backend; empty
// lines and what follows a # are ignored. Every fault is reported with its line.
func ParseList(data []byte) ([]Backend, error) {
	if len(data) > maxListBytes {
		return nil, fmt.Errorf("%d bytes: want at most %d", len(data), maxListBytes)
	}
	var (
		list []Backend
		errs []error
		at   = map[string]int{}
	)
	n := 0
	for line := range bytes.Lines(data) {
		n++
		text, _, _ := strings.Cut(string(line), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		b, err := ParseBackend(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		for _, key := range []string{"address " + b.Address, "name " + b.Name} {
			if first, twice := at[key]; twice {
				errs = append(errs, fmt.Errorf("line %d: %s is on line %d already", n, key, first))
				break
			}
		}
		at["address "+b.Address], at["name "+b.Name] = n, n
		list = append(list, b)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return checkList(list)
}

// Source gives the list of backends. It is asked every second, so it should be
// cheap when nothing has changed, and on Reload with anew: then it reads the list
// again even if nothing seems to have changed.
type Source func(anew bool) ([]Backend, error)

// Static is a source that never changes.
func Static(list []Backend) Source {
	return func(bool) ([]Backend, error) { return list, nil }
}

// File is a source that follows a file in ParseList's format. While the file is
// unreadable or wrong it gives the error.
func File(path string) Source {
	return Watched([]string{path}, func() ([]Backend, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the list of backends: %w", err)
		}
		list, err := ParseList(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return list, nil
	})
}

// Watched is a source that calls load again only when it must read anew, or when one
// of the paths, or a file in one that is a folder, has another time, size or inode
// than before.
func Watched(paths []string, load func() ([]Backend, error)) Source {
	var (
		mu   sync.Mutex
		last string
		list []Backend
		err  error
	)
	return func(anew bool) ([]Backend, error) {
		mu.Lock()
		defer mu.Unlock()
		now := stamps(paths)
		if anew || now != last {
			list, err = load()
			last = now
		}
		return list, err
	}
}

func stamps(paths []string) string {
	var b strings.Builder
	for _, p := range paths {
		fi, err := os.Stat(p)
		if err != nil {
			fmt.Fprintf(&b, "%v;", err)
			continue
		}
		fmt.Fprintf(&b, "%d %d %d;", fi.ModTime().UnixNano(), fi.Size(), inode(fi))
		if !fi.IsDir() {
			continue
		}
		// A file that is written in place changes nothing of its folder.
		entries, err := os.ReadDir(p)
		if err != nil {
			fmt.Fprintf(&b, "%v;", err)
		}
		for _, e := range entries {
			if !e.IsDir() {
				b.WriteString(stamps([]string{filepath.Join(p, e.Name())}))
			}
		}
	}
	return b.String()
}

// savedList is the file that keeps the last good list.
type savedList struct {
	Version  int       `json:"version"` // 1
	Saved    time.Time `json:"saved"`
	Source   string    `json:"source,omitempty"` // Config.SourceName
	Backends []Backend `json:"backends"`
	// Addresses are those of the names in Backends: name servers may be down as well.
	Addresses map[string][]netip.Addr `json:"addresses,omitempty"`
	// Drained are the backends that operators drained; an older version has none.
	Drained []string `json:"drained,omitempty"`
}

// saveList keeps s at path for the day when its source, or DNS, is down.
func saveList(path string, s savedList) error {
	s.Version, s.Saved = 1, s.Saved.UTC()
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the list of backends: %w", err)
	}
	return atomicfile.MkdirWrite(path, append(data, '\n'), 0o600, 0o700)
}

// loadList reads what saveList wrote. It returns fs.ErrNotExist if there is none, or
// only one of another source: two balancers that share a file would else serve each
// other's backends.
func loadList(path, source string) (savedList, error) {
	if path == "" {
		return savedList{}, fs.ErrNotExist
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return savedList{}, fmt.Errorf("read the kept list of backends: %w", err)
	}
	s, err := decodeList(data)
	if err == nil && s.Source != "" && s.Source != source { // none: written by an older version
		return savedList{}, fs.ErrNotExist
	}
	return s, err
}

func decodeList(data []byte) (s savedList, err error) {
	if len(data) > maxListBytes {
		return savedList{}, fmt.Errorf("kept list of backends: %d bytes: want at most %d", len(data), maxListBytes)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return savedList{}, fmt.Errorf("kept list of backends: %w", err)
	}
	if s.Version != 1 {
		return savedList{}, fmt.Errorf("kept list of backends: version %d: want 1", s.Version)
	}
	if s.Backends, err = checkList(s.Backends); err != nil {
		return savedList{}, fmt.Errorf("kept list of backends: %w", err)
	}
	for host, addrs := range s.Addresses {
		s.Addresses[host] = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !a.IsValid() })
	}
	return s, nil
}
