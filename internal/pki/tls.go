package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// Files are the PEM files of one side of a TLS connection. They are read again
// when they change, so that a renewed certificate is used without a restart.
type Files struct {
	Cert, Key string // one's own; a client without them shows no certificate
	CA        string // signed the other side's; may hold several
	// Organization that the other side's certificate must carry (OrgMasters for
	// hactl's own connections); empty: any that CA signed.
	Organization string
	// ServerName is a client's: the name to find in the server's certificate
	// (APIServerName for an API server behind a balancer). Empty: the host that is
	// dialled.
	ServerName string
}

// PeerError says that the other side's certificate is good but not one that may
// talk to us.
type PeerError struct {
	Subject string // of its certificate
	Want    string // the organization that it lacks
}

func (e *PeerError) Error() string {
	return fmt.Sprintf("the certificate of %s does not carry the organization %s", e.Subject, e.Want)
}

// ServerTLS is mutual TLS for a server: every client must show a certificate
// that CA signed. Certificate and CA are read again when their files change; a
// new one that cannot be read leaves the old one in use.
func ServerTLS(f Files) (*tls.Config, error) {
	if f.CA == "" || f.Cert == "" {
		return nil, errors.New("pki: a server needs Cert, Key and CA")
	}
	pair, err := newReloader(loadPair(f), f.Cert, f.Key)
	if err != nil {
		return nil, err
	}
	pool, err := newReloader(loadPool(f.CA), f.CA)
	if err != nil {
		return nil, err
	}
	base := &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{"h2", "http/1.1"},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true, // so that every connection is verified anew
		VerifyConnection:       requireOrganization(f.Organization),
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.get(), nil },
	}
	base.ClientCAs = pool.get()
	cfg := base.Clone()
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.ClientCAs = pool.get()
		return c, nil
	}
	return cfg, nil
}

// ClientTLS is TLS for a client; mutual when Cert and Key are given. The own
// certificate is read again when its files change; the CA is read once.
func ClientTLS(f Files) (*tls.Config, error) {
	if f.CA == "" {
		return nil, errors.New("pki: a client needs CA")
	}
	roots, err := loadPool(f.CA)()
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		MinVersion:       tls.VersionTLS12,
		RootCAs:          roots,
		ServerName:       f.ServerName,
		VerifyConnection: requireOrganization(f.Organization),
	}
	if f.Cert == "" && f.Key == "" {
		return cfg, nil
	}
	pair, err := newReloader(loadPair(f), f.Cert, f.Key)
	if err != nil {
		return nil, err
	}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.get(), nil }
	return cfg, nil
}

// requireOrganization checks the peer after its chain was verified.
func requireOrganization(org string) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		if org == "" {
			return nil
		}
		if len(cs.VerifiedChains) == 0 || len(cs.PeerCertificates) == 0 {
			return &PeerError{Subject: "nobody", Want: org}
		}
		if leaf := cs.PeerCertificates[0]; !slices.Contains(leaf.Subject.Organization, org) {
			return &PeerError{Subject: leaf.Subject.String(), Want: org}
		}
		return nil
	}
}

func loadPair(f Files) func() (*tls.Certificate, error) {
	return func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("load %s and %s: %w", f.Cert, f.Key, err)
		}
		return &pair, nil
	}
}

func loadPool(file string) func() (*x509.CertPool, error) {
	return func() (*x509.CertPool, error) {
		certs, err := readCerts(file)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		for _, c := range certs {
			pool.AddCert(c)
		}
		return pool, nil
	}
}

// reloader holds what was loaded from files and loads it again when one of them
// changed. Looking costs a stat a file, so it looks at every handshake.
type reloader[T any] struct {
	files []string
	load  func() (T, error)

	mu    sync.Mutex
	seen  []stamp
	value T
}

// stamp tells two contents of a file apart: a rename brings another inode even
// within the clock's resolution.
type stamp struct {
	mtime time.Time
	size  int64
	info  os.FileInfo
}

func newReloader[T any](load func() (T, error), files ...string) (*reloader[T], error) {
	r := &reloader[T]{files: files, load: load}
	// The stamps are taken before the load: a change in between is seen next time.
	r.seen, _ = r.stamps()
	var err error
	r.value, err = load()
	return r, err
}

// get returns the newest value that could be loaded. Between the renames of a
// key and its certificate the pair does not fit; then the old one serves and
// the next call tries again.
func (r *reloader[T]) get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, err := r.stamps()
	if err != nil || slices.EqualFunc(now, r.seen, sameStamp) {
		return r.value
	}
	if v, err := r.load(); err == nil {
		r.value, r.seen = v, now
	}
	return r.value
}

func (r *reloader[T]) stamps() ([]stamp, error) {
	all := make([]stamp, len(r.files))
	for i, f := range r.files {
		fi, err := os.Stat(f)
		if err != nil {
			return nil, err
		}
		all[i] = stamp{fi.ModTime(), fi.Size(), fi}
	}
	return all, nil
}

func sameStamp(a, b stamp) bool {
	return a.mtime.Equal(b.mtime) && a.size == b.size && os.SameFile(a.info, b.info)
}
