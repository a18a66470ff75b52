package lb

import (
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"
)

// rootsEvery is how often a CA file is looked at for changes.
const rootsEvery = 10 * time.Second

// Roots reads CA certificates from a PEM file and returns a function for
// Check.Roots that follows the file; while it is unreadable or holds none, the
// last good ones count. It returns an error when there are none to begin with.
func Roots(path string) (func() *x509.CertPool, error) {
	pool, err := readRoots(path)
	if err != nil {
		return nil, err
	}
	var (
		mu     sync.Mutex
		looked = time.Now()
		stamp  = stamps([]string{path})
	)
	return func() *x509.CertPool {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(looked) >= rootsEvery {
			looked = now
			if s := stamps([]string{path}); s != stamp {
				if p, err := readRoots(path); err == nil {
					pool, stamp = p, s
				}
			}
		}
		return pool
	}, nil
}

func readRoots(path string) (*x509.CertPool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("read the CA: no certificate in %s", path)
	}
	return pool, nil
}
