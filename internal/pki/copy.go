package pki

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/hactl/hactl/internal/exitcode"
)

// CASet is the content of a CA set by file, as in "etcd/ca.key". It holds the
// cluster's secrets.
type CASet map[string][]byte

// ReadCAs returns the CA set for another master; it must be whole.
func (s *Store) ReadCAs() (CASet, error) {
	set := CASet{}
	for _, name := range caFiles() {
		data, err := os.ReadFile(s.file(name))
		if err != nil {
			return nil, fmt.Errorf("read the CA set: %w", err)
		}
		set[name] = data
	}
	return set, set.Check()
}

// Check tells whether the set is whole and its parts fit.
func (set CASet) Check() error {
	var errs []error
	for _, name := range caFiles() {
		if len(set[name]) == 0 {
			errs = append(errs, fmt.Errorf("the CA set has no %s", name))
		}
	}
	if len(set) > len(caFiles()) {
		errs = append(errs, errors.New("the CA set has files that do not belong to it"))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, ca := range cas {
		certs, err := parseCerts(set[ca.name+".crt"])
		if err == nil {
			key, kerr := parseKey(set[ca.name+".key"])
			if err = kerr; err == nil {
				_, err = signer(certs, key)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("the CA set's %s: %w", ca.name, err))
		}
	}
	key, err := parseKey(set[saKey])
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("the CA set's %s: %w", saKey, err))...)
	}
	pub, err := encodePublic(key)
	if err == nil && !bytes.Contains(set[saPub], pub) {
		err = fmt.Errorf("the CA set's %s does not fit %s", saPub, saKey)
	}
	return errors.Join(append(errs, err)...)
}

// WriteCAs installs the CA set of another master. Files that are there already
// must be the same: another cluster's CA is never replaced (exitcode.Refused).
// Cut short, it is completed by calling it again.
func (s *Store) WriteCAs(set CASet) ([]Change, error) {
	if err := set.Check(); err != nil {
		return nil, err
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var other, missing []string
	for _, name := range caFiles() {
		have, err := os.ReadFile(s.file(name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, name)
		case err != nil:
			return nil, err
		case !bytes.Equal(have, set[name]):
			other = append(other, name)
		}
	}
	if len(other) > 0 {
		return nil, exitcode.Errorf(exitcode.Refused, "%s holds another cluster's %s", s.dir, strings.Join(other, ", ")).
			WithHint("if this machine's old cluster is gone for good, remove %s and run this again", s.dir)
	}
	var changes []Change
	for _, name := range missing {
		perm := fs.FileMode(0o644)
		if strings.HasSuffix(name, ".key") {
			perm = 0o600
		}
		if err := s.write(s.file(name), set[name], perm); err != nil {
			return changes, err
		}
		changes = append(changes, Change{s.file(name), "missing"})
	}
	return changes, nil
}

// CopyCAs copies the CA set of one folder into another, as WriteCAs does.
func CopyCAs(from, to string) ([]Change, error) {
	src, err := New(Config{Dir: from})
	if err != nil {
		return nil, err
	}
	dst, err := New(Config{Dir: to})
	if err != nil {
		return nil, err
	}
	set, err := src.ReadCAs()
	if err != nil {
		return nil, err
	}
	return dst.WriteCAs(set)
}
