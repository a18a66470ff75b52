package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

// Renewal says which leaves to issue again.
type Renewal struct {
	// Names picks leaves by their file without ending, as in etcd/peer, and
	// kubeconfigs by their path; empty: all there are.
	Names       []string
	Kubeconfigs []string // paths of the kubeconfigs that may be picked; missing ones are left out
	NewKeys     bool     // make new keys too: after a key may have leaked
	DryRun      bool     // change nothing
}

// Renew issues leaves again as they are, with the same subject, names and
// usages and a new life, whatever the old ones' expiry. Without NewKeys each
// renewal replaces one file. It needs the CAs' keys, no configuration and no
// running cluster.
func (s *Store) Renew(r Renewal) ([]Change, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var known []string
	for _, name := range leafNames {
		if ok, err := exists(s.file(name + ".crt")); err != nil {
			return nil, err
		} else if ok {
			known = append(known, name)
		}
	}
	for _, path := range r.Kubeconfigs {
		if ok, err := exists(path); err != nil {
			return nil, err
		} else if ok {
			known = append(known, path)
		}
	}
	for _, name := range r.Names {
		if !slices.Contains(known, name) {
			return nil, exitcode.Errorf(exitcode.Usage, "no leaf %q here; there are: %s", name, strings.Join(known, ", "))
		}
	}
	var changes []Change
	var errs []error
	for _, name := range known {
		if len(r.Names) > 0 && !slices.Contains(r.Names, name) {
			continue
		}
		var made []Change
		if slices.Contains(r.Kubeconfigs, name) {
			made, err = s.renewKubeconfig(name, r)
		} else {
			made, err = s.renewLeaf(name, r)
		}
		changes = append(changes, made...)
		errs = append(errs, err)
	}
	return changes, errors.Join(errs...)
}

func (s *Store) renewLeaf(name string, r Renewal) ([]Change, error) {
	keyFile, certFile := s.file(name+".key"), s.file(name+".crt")
	certs, err := readCerts(certFile)
	if err != nil {
		return nil, fmt.Errorf("renew: %w", err)
	}
	ca, want, err := s.again(name, certs[0])
	if err != nil {
		return nil, err
	}
	key, err := readKey(keyFile)
	switch {
	case r.NewKeys:
		if key, err = newKey(); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("renew %s: %w", name, err)
	}
	change := Change{certFile, "renewed; the old one was valid until " + certs[0].NotAfter.UTC().Format(time.DateOnly)}
	changes := []Change{change}
	if r.NewKeys {
		changes = []Change{{keyFile, "new key"}, change}
	}
	if r.DryRun {
		return changes, nil
	}
	der, err := s.sign(ca, want, key)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", certFile, err)
	}
	if r.NewKeys {
		if err := s.writeKey(keyFile, key); err != nil {
			return nil, err
		}
	}
	if err := s.write(certFile, encodeCert(der), 0o644); err != nil {
		return changes[:len(changes)-1], err
	}
	return changes, nil
}

func (s *Store) renewKubeconfig(path string, r Renewal) ([]Change, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("renew: %w", err)
	}
	k, err := ParseKubeconfig(data)
	if err != nil {
		return nil, fmt.Errorf("renew %s: %w", path, err)
	}
	certs, err := parseCerts(k.Cert)
	if err != nil {
		return nil, fmt.Errorf("renew %s: %w", path, err)
	}
	ca, want, err := s.again(path, certs[0])
	if err != nil {
		return nil, err
	}
	key, err := parseKey(k.Key)
	switch {
	case r.NewKeys:
		if key, err = newKey(); err != nil {
			return nil, err
		}
		if k.Key, err = encodeKey(key); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("renew %s: %w", path, err)
	}
	der, err := s.sign(ca, want, key)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", path, err)
	}
	k.Cert = encodeCert(der)
	if data, err = k.Marshal(); err != nil {
		return nil, err
	}
	if !r.DryRun {
		if err := s.write(path, data, 0o600); err != nil {
			return nil, err
		}
	}
	return []Change{{path, "renewed; the old one was valid until " + certs[0].NotAfter.UTC().Format(time.DateOnly)}}, nil
}

// again finds the CA that signed a leaf and describes the leaf.
func (s *Store) again(name string, have *x509.Certificate) (*authority, leaf, error) {
	want := leaf{name: name, subject: have.Subject, usages: have.ExtKeyUsage, names: append(slices.Clone(have.DNSNames), addresses(have)...)}
	want.subject.ExtraNames, want.subject.Names = nil, nil
	for _, ca := range cas {
		certs, err := readCerts(s.file(ca.name + ".crt"))
		if err != nil {
			continue // another may be the one; if not, it is told below
		}
		for _, c := range certs {
			if have.CheckSignatureFrom(c) == nil {
				want.ca = ca.name
				auth, err := s.authority(ca.name)
				if err != nil {
					return nil, leaf{}, fmt.Errorf("renew %s: %w", name, err)
				}
				return auth, want, nil
			}
		}
	}
	return nil, leaf{}, exitcode.Errorf(exitcode.Refused, "renew %s: none of the CAs in %s signed it", name, s.dir).
		WithHint("start the agent, or run hactl bootstrap again: it issues this certificate for this cluster")
}
