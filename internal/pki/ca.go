package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

// The CAs of a set, by their files without ending.
const (
	caKubernetes = "ca"
	caEtcd       = "etcd/ca"
	caFrontProxy = "front-proxy-ca"
)

var cas = []struct{ name, commonName string }{
	{caKubernetes, "kubernetes-ca"},
	{caEtcd, "etcd-ca"},
	{caFrontProxy, "front-proxy-ca"},
}

// The service accounts' key pair.
const (
	saKey = "sa.key"
	saPub = "sa.pub"
)

// makingMark exists while the CA set is being made for the first time. It tells
// a set that a crash cut short, which is completed, from one that lost a part,
// which is not.
const makingMark = ".making-ca-set"

// caFiles are all files of a CA set, keys before what is made from them.
func caFiles() []string {
	var files []string
	for _, ca := range cas {
		files = append(files, ca.name+".key", ca.name+".crt")
	}
	return append(files, saKey, saPub)
}

// SharedFiles lists what all masters have in common below Config.Dir: the CA set
// and the GossipKeyFile.
func SharedFiles() []string { return append(caFiles(), GossipKeyFile) }

// authority is a CA that can sign.
type authority struct {
	name string
	cert *x509.Certificate
	key  crypto.Signer
}

// EnsureCAs makes the set of CAs if none of its files is there, and otherwise
// checks that it is whole: each file readable, each key fitting its
// certificate, each certificate a CA's and in its time. A set whose first
// making was cut short is completed; a set that lost a part is refused
// (exitcode.Refused), since a new CA would not be trusted by the other masters.
func (s *Store) EnsureCAs() ([]Change, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	making, err := exists(s.file(makingMark))
	if err != nil {
		return nil, err
	}
	var present, missing []string
	for _, f := range caFiles() {
		ok, err := exists(s.file(f))
		if err != nil {
			return nil, err
		}
		if ok {
			present = append(present, f)
		} else {
			missing = append(missing, f)
		}
	}
	switch {
	case len(missing) == 0, making:
	case len(missing) == 1 && missing[0] == saPub: // made from sa.key
	case len(present) > 0:
		return nil, s.lost(present, missing)
	default:
		if left := s.leftLeaves(); len(left) > 0 {
			return nil, s.lost(left, missing)
		}
		if err := s.write(s.file(makingMark), []byte("The CA set is being made. If this stays, run the same command again.\n"), 0o600); err != nil {
			return nil, err
		}
		making = true
	}
	changes, err := s.completeCAs()
	if err != nil {
		return changes, err
	}
	if making {
		if err := os.Remove(s.file(makingMark)); err != nil {
			return changes, fmt.Errorf("finish the CA set: %w", err)
		}
	}
	return changes, nil
}

// lost refuses to make up for missing files.
func (s *Store) lost(present, missing []string) error {
	return exitcode.Errorf(exitcode.Refused,
		"the CA set in %s is not whole: %s missing, but %s there; new ones would not be trusted by the other masters and clients",
		s.dir, are(missing), are(present)).
		WithHint("copy the missing files from another master (or a backup) into %s; only if the cluster never ran, remove that folder and run this again", s.dir)
}

func are(names []string) string {
	if len(names) == 1 {
		return names[0] + " is"
	}
	return strings.Join(names, ", ") + " are"
}

// leftLeaves lists certificates that a lost CA set must have signed.
func (s *Store) leftLeaves() []string {
	var left []string
	for _, stem := range leafNames {
		if ok, _ := exists(s.file(stem + ".crt")); ok {
			left = append(left, stem+".crt")
		}
	}
	return left
}

// completeCAs makes what is missing and checks the rest.
func (s *Store) completeCAs() ([]Change, error) {
	var changes []Change
	var errs []error
	for _, ca := range cas {
		made, err := s.completeCA(ca.name, ca.commonName)
		changes = append(changes, made...)
		errs = append(errs, err)
	}
	made, err := s.completeServiceAccounts()
	return append(changes, made...), errors.Join(append(errs, err)...)
}

func (s *Store) completeCA(name, commonName string) ([]Change, error) {
	var changes []Change
	keyFile, certFile := s.file(name+".key"), s.file(name+".crt")
	key, err := readKey(keyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if key, err = newKey(); err != nil {
			return nil, err
		}
		if err := s.writeKey(keyFile, key); err != nil {
			return nil, err
		}
		changes = append(changes, Change{keyFile, "missing"})
	case err != nil:
		return nil, broken(keyFile, err)
	}
	if err := tighten(keyFile, 0o600); err != nil {
		return changes, err
	}
	if ok, err := exists(certFile); err != nil || !ok {
		if err != nil {
			return changes, err
		}
		der, err := s.selfSign(key, commonName)
		if err != nil {
			return changes, fmt.Errorf("sign %s: %w", certFile, err)
		}
		if err := s.write(certFile, encodeCert(der), 0o644); err != nil {
			return changes, err
		}
		changes = append(changes, Change{certFile, "missing"})
	}
	_, err = s.authority(name)
	return changes, err
}

func (s *Store) completeServiceAccounts() ([]Change, error) {
	var changes []Change
	keyFile, pubFile := s.file(saKey), s.file(saPub)
	key, err := readKey(keyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if key, err = newKey(); err != nil {
			return nil, err
		}
		if err := s.writeKey(keyFile, key); err != nil {
			return nil, err
		}
		changes = append(changes, Change{keyFile, "missing"})
	case err != nil:
		return nil, broken(keyFile, err)
	}
	if err := tighten(keyFile, 0o600); err != nil {
		return changes, err
	}
	want, err := encodePublic(key)
	if err != nil {
		return changes, err
	}
	have, err := os.ReadFile(pubFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := s.write(pubFile, want, 0o644); err != nil {
			return changes, err
		}
		return append(changes, Change{pubFile, "missing"}), nil
	case err != nil:
		return changes, err
	case !strings.Contains(string(have), string(want)):
		// It may hold further keys, of a rotation, but ours must be among them.
		return changes, broken(pubFile, fmt.Errorf("does not hold the public key of %s", keyFile))
	}
	return changes, nil
}

// broken is the refusal for a file that is there but cannot be used.
func broken(file string, err error) error {
	return exitcode.Errorf(exitcode.Refused, "%s cannot be used: %w", file, err).
		WithHint("copy %s from another master or a backup", file)
}

// authority reads a CA with its key and checks it.
func (s *Store) authority(name string) (*authority, error) {
	keyFile, certFile := s.file(name+".key"), s.file(name+".crt")
	certs, err := readCerts(certFile)
	if err != nil {
		return nil, broken(certFile, err)
	}
	key, err := readKey(keyFile)
	if err != nil {
		return nil, broken(keyFile, err)
	}
	cert, err := signer(certs, key)
	if err != nil {
		return nil, broken(certFile, err)
	}
	switch now := s.now(); {
	case now.Before(cert.NotBefore):
		return nil, exitcode.Errorf(exitcode.Failed, "%s is valid only from %s, and this machine's clock says %s",
			certFile, cert.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)).
			WithHint("set the clock: timedatectl")
	case now.After(cert.NotAfter):
		return nil, broken(certFile, fmt.Errorf("it expired on %s", cert.NotAfter.UTC().Format(time.RFC3339)))
	}
	return &authority{name: name, cert: cert, key: key}, nil
}

// signer finds the CA certificate of key: during a rotation the file holds
// several.
func signer(certs []*x509.Certificate, key crypto.Signer) (*x509.Certificate, error) {
	for _, c := range certs {
		if !fits(c, key) {
			continue
		}
		if !c.IsCA || !c.BasicConstraintsValid {
			return nil, errors.New("is not a CA's certificate")
		}
		return c, nil
	}
	return nil, errors.New("it does not fit the key beside it")
}

func (s *Store) writeKey(path string, key crypto.Signer) error {
	data, err := encodeKey(key)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return s.write(path, data, 0o600)
}

func (s *Store) selfSign(key crypto.Signer, commonName string) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	subject := pkix.Name{CommonName: commonName}
	if s.cluster != "" {
		subject.Organization = []string{s.cluster}
	}
	now := s.now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               subject,
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs leaves only
	}
	return x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
}

// newSerial is 127 random bits: unique without a counter that would have to be
// shared between masters.
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return n.Add(n, big.NewInt(1)), nil
}
