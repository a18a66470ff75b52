package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/atomicfile"
)

// How long things are valid.
const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 365 * 24 * time.Hour
	// backdate lets a machine whose clock is a little behind accept a fresh
	// certificate.
	backdate = 5 * time.Minute
	// DefaultRenewBefore is how long before its end a leaf is issued again.
	DefaultRenewBefore = 30 * 24 * time.Hour
)

// Config of a Store.
type Config struct {
	Dir     string // the folder of keys and certificates, as /etc/kubernetes/pki; made when missing
	Cluster string // the cluster's name: the organization in the CAs' subjects
	// RenewBefore is how long before its end a leaf is issued again. Default
	// DefaultRenewBefore; more means more frequent renewals, less means less time
	// to notice that they do not work.
	RenewBefore time.Duration
	Now         func() time.Time // default time.Now
}

// Store is one master's folder of keys and certificates.
type Store struct {
	dir, cluster string
	renewBefore  time.Duration
	now          func() time.Time
	write        func(path string, data []byte, perm fs.FileMode) error // tests cut here
}

// New returns the Store of cfg.Dir. It touches nothing.
func New(cfg Config) (*Store, error) {
	var errs []error
	if cfg.Dir == "" {
		errs = append(errs, errors.New("pki: Dir: missing"))
	}
	if cfg.RenewBefore < 0 || cfg.RenewBefore >= leafLifetime {
		errs = append(errs, fmt.Errorf("pki: RenewBefore: %s: must be from 0 to less than a leaf's life %s", cfg.RenewBefore, leafLifetime))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.RenewBefore == 0 {
		cfg.RenewBefore = DefaultRenewBefore
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Store{dir: cfg.Dir, cluster: cfg.Cluster, renewBefore: cfg.RenewBefore, now: cfg.Now, write: atomicfile.Write}, nil
}

// Change is something that Ensure or Renew did, or, in a dry run, would do.
type Change struct {
	File string // as written
	Why  string // missing, expires …
}

func (s *Store) file(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

// folders of a set, below Dir.
var folders = []string{"", "etcd", "hactl"}

// lock makes the folders (0700), removes what a crashed write left, and keeps
// other processes out until the returned func is called.
func (s *Store) lock() (unlock func(), err error) {
	for _, d := range folders {
		dir := s.file(d)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the folder of keys: %w", err)
		}
		if err := tighten(dir, 0o700); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(s.dir)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", s.dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", s.dir, err), f.Close())
	}
	for _, d := range folders {
		removeLeftovers(s.file(d))
	}
	return func() { _ = f.Close() }, nil // closing releases the lock
}

// removeLeftovers deletes temporary files of writes that a crash cut short:
// they may hold keys that nobody looks after. Only called under the lock.
func removeLeftovers(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // the next write tells
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") && strings.Contains(e.Name(), ".tmp-") {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// tighten takes away the permissions beyond perm.
func tighten(path string, perm fs.FileMode) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if fi.Mode().Perm()&^perm != 0 {
		if err := os.Chmod(path, fi.Mode().Perm()&perm); err != nil {
			return fmt.Errorf("keep others out of %s: %w", path, err)
		}
	}
	return nil
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
