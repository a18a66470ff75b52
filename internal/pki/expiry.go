package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The values of Cert.Status.
const (
	StatusOK       = "ok"
	StatusExpiring = "expiring"      // within RenewBefore
	StatusExpired  = "expired"       //
	StatusEarly    = "not yet valid" // usually a wrong clock
	StatusBroken   = "broken"        // cannot be read; Problem says why
)

// Cert is one certificate of a master, as hactl cert ls shows it.
type Cert struct {
	File      string    `json:"file"`
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	CA        bool      `json:"ca"`
	Usages    []string  `json:"usages"` // server, client
	Names     []string  `json:"names"`  // DNS names and IP addresses
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Status    string    `json:"status"`  // one of the constants above
	Problem   string    `json:"problem"` // why it is broken
}

// Left is how long c is still valid; negative once it expired.
func (c Cert) Left(now time.Time) time.Duration { return c.NotAfter.Sub(now) }

// Certs lists every certificate below the Store's folder, sorted by file, and
// then those inside the given kubeconfigs (those that exist). A file that cannot
// be read is listed as broken; the error is only for the folder itself.
func (s *Store) Certs(kubeconfigs ...string) ([]Cert, error) {
	var files []string
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && strings.HasSuffix(path, ".crt") {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list certificates: %w", err)
	}
	slices.Sort(files)
	var all []Cert
	for _, f := range files {
		certs, err := readCerts(f)
		all = append(all, s.describe(f, certs, err)...)
	}
	for _, f := range kubeconfigs {
		data, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var certs []*x509.Certificate
		if err == nil {
			var k Kubeconfig
			if k, err = ParseKubeconfig(data); err == nil {
				certs, err = parseCerts(k.Cert)
			}
		}
		all = append(all, s.describe(f, certs, err)...)
	}
	return all, nil
}

func (s *Store) describe(file string, certs []*x509.Certificate, err error) []Cert {
	if err != nil {
		return []Cert{{File: file, Status: StatusBroken, Problem: err.Error(), Usages: []string{}, Names: []string{}}}
	}
	all := make([]Cert, len(certs))
	for i, c := range certs {
		all[i] = Cert{File: file, Subject: c.Subject.String(), Issuer: c.Issuer.String(), CA: c.IsCA, Usages: usageWords(c.ExtKeyUsage),
			Names: append(sorted(c.DNSNames), addresses(c)...), NotBefore: c.NotBefore, NotAfter: c.NotAfter, Status: s.statusOf(c)}
		if all[i].Names == nil {
			all[i].Names = []string{}
		}
	}
	return all
}

func (s *Store) statusOf(c *x509.Certificate) string {
	switch now := s.now(); {
	case now.Before(c.NotBefore):
		return StatusEarly
	case now.After(c.NotAfter):
		return StatusExpired
	case now.Add(s.renewBefore).After(c.NotAfter):
		return StatusExpiring
	default:
		return StatusOK
	}
}

func usageWords(usages []x509.ExtKeyUsage) []string {
	words := []string{}
	for _, u := range usages {
		switch u {
		case x509.ExtKeyUsageServerAuth:
			words = append(words, "server")
		case x509.ExtKeyUsageClientAuth:
			words = append(words, "client")
		default:
			words = append(words, fmt.Sprintf("usage %d", u))
		}
	}
	return words
}
