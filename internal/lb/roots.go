package lb

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// filesEvery is how often the files of a check are looked at for changes.
const filesEvery = 10 * time.Second

// CheckFiles are the files that checks need. They are read again when they have
// changed; while one is unreadable or wrong, its last good version counts, which is
// logged once for each change.
type CheckFiles struct {
	log   *slog.Logger
	files []checkFile
}

// checkFile is one of them, or a certificate and its key.
type checkFile interface {
	look()
	fault() error
}

// NewCheckFiles begins without any file.
func NewCheckFiles(log *slog.Logger) *CheckFiles { return &CheckFiles{log: log} }

// Watch looks at the files until ctx ends, also while nobody needs them. It returns
// late when a disk hangs.
func (c *CheckFiles) Watch(ctx context.Context) {
	if c == nil {
		return
	}
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		for _, f := range c.files {
			f.look()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Err says which files were wrong when they were last looked at; nil if none.
func (c *CheckFiles) Err() error {
	if c == nil {
		return nil
	}
	var faults []string
	for _, f := range c.files {
		if err := f.fault(); err != nil {
			faults = append(faults, err.Error())
		}
	}
	if faults == nil {
		return nil
	}
	return errors.New(strings.Join(faults, "; "))
}

// Roots reads CA certificates from a PEM file and returns a function for
// Check.Roots that follows the file. It returns an error when there are none to begin with.
func (c *CheckFiles) Roots(path string) (func() *x509.CertPool, error) {
	return follow(c, []string{path}, filesEvery, func() (*x509.CertPool, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the CA: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("read the CA: no certificate in %s", path)
		}
		return pool, nil
	})
}

// Certificate reads a client's certificate and key from PEM files, and returns a
// function for Check.Certificate that follows them, as Roots does.
func (c *CheckFiles) Certificate(cert, key string) (func() *tls.Certificate, error) {
	return follow(c, []string{cert, key}, filesEvery, func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("read the certificate of the checks, %s, and its key, %s: %w", cert, key, err)
		}
		return &pair, nil
	})
}

// Token reads a bearer token from a file, and returns a function for Check.Token
// that follows it, as Roots does.
func (c *CheckFiles) Token(path string) (func() string, error) {
	return follow(c, []string{path}, filesEvery, func() (string, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read the token of the checks: %w", err)
		}
		token := bytes.TrimSpace(data)
		if len(token) == 0 || bytes.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "", errors.New("read the token of the checks: want one word in " + path)
		}
		return string(token), nil
	})
}

// followed is what some files say, and said before they turned bad.
type followed[T any] struct {
	log   *slog.Logger
	files []string
	every time.Duration
	read  func() (T, error)

	mu      sync.Mutex // not held while the files are read: a disk may hang
	value   T          // the last good one
	stamp   string     // of the files when it was read
	err     error      // why they give no other one; nil: they are as they were
	bad     string     // their stamp when err was told
	looked  time.Time
	looking bool
}

// follow reads now, and returns what gives the newest good version; c knows of it.
func follow[T any](c *CheckFiles, files []string, every time.Duration, read func() (T, error)) (func() T, error) {
	f := &followed[T]{log: c.log, files: files, every: every, read: read, stamp: stamps(files), looked: time.Now()}
	var err error
	if f.value, err = read(); err != nil {
		return nil, err
	}
	c.files = append(c.files, f)
	return f.get, nil
}

// get gives the last good version.
func (f *followed[T]) get() T {
	f.look()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.value
}

// fault is what was wrong with the files at the last look.
func (f *followed[T]) fault() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// look reads the files again if that is due, they have changed, and nobody else does.
func (f *followed[T]) look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); f.looking || now.Sub(f.looked) < f.every {
		return
	}
	f.looked, f.looking = time.Now(), true
	known, sound := f.stamp, f.err == nil
	f.mu.Unlock()
	stamp := stamps(f.files)
	same := sound && stamp == known
	var value T
	var err error
	if !same {
		value, err = f.read()
	}
	f.mu.Lock()
	f.looking = false
	if !same {
		f.note(stamp, value, err)
	}
}

// note takes what the files say now; the caller holds mu.
func (f *followed[T]) note(stamp string, value T, err error) {
	if err != nil {
		if f.err == nil || stamp != f.bad || err.Error() != f.err.Error() {
			f.log.Error("a changed file of the checks is bad, what it said before counts", "files", strings.Join(f.files, " "), "err", err)
		}
		f.err, f.bad = err, stamp
		return
	}
	f.log.Info("a changed file of the checks counts", "files", strings.Join(f.files, " "))
	f.value, f.stamp, f.err = value, stamp, nil
}
