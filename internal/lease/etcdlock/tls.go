package etcdlock

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// TLSFiles names the certificates for an etcd cluster.
type TLSFiles struct {
	CAFile   string // of the server; empty: the machine's authorities
	CertFile string // ours; together with KeyFile, or neither
	KeyFile  string
}

// Config reads the files. The client certificate is read again at each
// handshake, so that a renewed one is used without a restart. It returns nil when
// no file is named.
func (f TLSFiles) Config() (*tls.Config, error) {
	if f == (TLSFiles{}) {
		return nil, nil
	}
	if (f.CertFile == "") != (f.KeyFile == "") {
		return nil, errors.New("etcd certificate and key: give both or neither")
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CAFile != "" {
		pem, err := os.ReadFile(f.CAFile)
		if err != nil {
			return nil, fmt.Errorf("etcd CA: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("etcd CA: %s: no certificate in it", f.CAFile)
		}
	}
	if f.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile); err != nil {
			return nil, fmt.Errorf("etcd client certificate: %w", err)
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
			return &pair, err
		}
	}
	return cfg, nil
}
