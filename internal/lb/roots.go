package lb

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// filesEvery is how often the files of a check are looked at for changes.
const filesEvery = 10 * time.Second

// Roots reads CA certificates from a PEM file and returns a function for
// Check.Roots that follows the file; while it is unreadable or holds none, the
// last good ones count. It returns an error when there are none to begin with.
func Roots(path string) (func() *x509.CertPool, error) {
	return followed([]string{path}, filesEvery, func() (*x509.CertPool, error) {
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
func Certificate(cert, key string) (func() *tls.Certificate, error) {
	return followed([]string{cert, key}, filesEvery, func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("read the certificate of the checks: %w", err)
		}
		return &pair, nil
	})
}

// Token reads a bearer token from a file, and returns a function for Check.Token
// that follows it, as Roots does.
func Token(path string) (func() string, error) {
	return followed([]string{path}, filesEvery, func() (string, error) {
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

// followed reads now, and returns what gives the newest good version: files are
// read again when they have changed, which is looked at once in every.
func followed[T any](files []string, every time.Duration, read func() (T, error)) (func() T, error) {
	stamp := stamps(files)
	value, err := read()
	if err != nil {
		return nil, err
	}
	var (
		mu     sync.Mutex
		looked = time.Now()
	)
	return func() T {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(looked) >= every {
			looked = now
			if s := stamps(files); s != stamp {
				if v, err := read(); err == nil {
					value, stamp = v, s
				}
			}
		}
		return value
	}, nil
}
