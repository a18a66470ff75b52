package master

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/kube"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/rendezvous"
)

// ErrHalfSecrets is returned, wrapped, by ReadSecrets when some of the shared
// secrets are there and others are not: their making or copying was cut short, or
// files were lost.
var ErrHalfSecrets = errors.New("the shared secrets are not whole")

// secretFiles lists the files that all masters share, relative to the root: the
// CA set, the gossip's key, and the key of the Secrets in etcd.
func secretFiles() []string {
	var zero layout.Layout
	files := []string{relative(kube.EncryptionFile(zero))}
	for _, name := range pki.SharedFiles() {
		files = append(files, relative(filepath.Join(zero.PKI(), filepath.FromSlash(name))))
	}
	return files
}

func relative(path string) string { return strings.TrimPrefix(filepath.ToSlash(path), "/") }

// ReadSecrets returns what all masters share; nil when nothing of it is there.
// It errs with ErrHalfSecrets when some of it is missing, and when what is there
// cannot be used.
func ReadSecrets(l layout.Layout, c *config.Cluster) (rendezvous.Secrets, error) {
	s, missing, err := readSecrets(l)
	if err != nil || len(s) == 0 {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, exitcode.Errorf(exitcode.Refused, "%w: missing %s", ErrHalfSecrets, strings.Join(missing, ", ")).
			WithHint("copy the missing files from another master, or, where this machine was never part of a cluster: hactl reset")
	}
	return s, checkSecrets(s)
}

func readSecrets(l layout.Layout) (s rendezvous.Secrets, missing []string, err error) {
	s = rendezvous.Secrets{}
	for _, name := range secretFiles() {
		data, err := os.ReadFile(l.Under(name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, name)
		case err != nil:
			return nil, nil, fmt.Errorf("read the shared secrets: %w", err)
		default:
			s[name] = data
		}
	}
	return s, missing, nil
}

// checkSecrets tells whether s is whole, has nothing else, and fits together.
func checkSecrets(s rendezvous.Secrets) error {
	files := secretFiles()
	for name := range s {
		if !slices.Contains(files, name) {
			return fmt.Errorf("the shared secrets hold %.100q, which does not belong to them", name)
		}
	}
	for _, name := range files {
		if len(s[name]) == 0 {
			return fmt.Errorf("the shared secrets hold no %s", name)
		}
	}
	if _, err := pki.ParseGossipKey(s[inPKI(pki.GossipKeyFile)]); err != nil {
		return fmt.Errorf("the shared secrets' gossip key: %w", err)
	}
	return casOf(s).Check()
}

// inPKI is where a file of the folder of keys lies, relative to the root.
func inPKI(name string) string {
	return relative(filepath.Join(layout.Layout{}.PKI(), filepath.FromSlash(name)))
}

func casOf(s rendezvous.Secrets) pki.CASet {
	set := pki.CASet{}
	for _, name := range pki.SharedFiles() {
		if name != pki.GossipKeyFile {
			set[name] = s[inPKI(name)]
		}
	}
	return set
}

// EnsureSecrets makes what is missing of the shared secrets and returns them. It
// is for the one machine that founds a cluster: only where no other can have made
// them. Cut short, it is completed by calling it again; a CA of the user's own is
// kept. It refuses (exitcode.Refused) to replace what was lost.
func EnsureSecrets(l layout.Layout, c *config.Cluster) (rendezvous.Secrets, error) {
	store, err := pki.New(pki.Config{Dir: l.PKI(), Cluster: c.Name})
	if err != nil {
		return nil, err
	}
	if _, err := store.EnsureCAs(); err != nil {
		return nil, err
	}
	if err := encryptionIsNotLost(l); err != nil {
		return nil, err
	}
	if _, err := kube.EnsureEncryption(l); err != nil {
		return nil, err
	}
	if _, err := store.EnsureGossipKey(); err != nil {
		return nil, err
	}
	return ReadSecrets(l, c)
}

// encryptionIsNotLost refuses to make a key of the Secrets where an API server's
// certificate tells that there was one.
func encryptionIsNotLost(l layout.Layout) error {
	path := kube.EncryptionFile(l)
	_, err := os.Stat(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(l.Under(inPKI("apiserver.crt"))); err != nil {
		return nil //nolint:nilerr // no certificate: no API server ever ran here
	}
	return exitcode.Errorf(exitcode.Refused, "%s is missing, and an API server ran here: with a new key nobody could read the Secrets in etcd", path).
		WithHint("copy it from another master or a backup")
}

// WriteSecrets installs another master's shared secrets. Files that are there
// must be the same: nothing is ever replaced (exitcode.Refused, before anything is
// written). Cut short, it is completed by calling it again.
func WriteSecrets(l layout.Layout, c *config.Cluster, s rendezvous.Secrets) error {
	if err := checkSecrets(s); err != nil {
		return fmt.Errorf("install the shared secrets: %w", err)
	}
	have, missing, err := readSecrets(l)
	if err != nil {
		return err
	}
	var other []string
	for name, data := range have {
		if !bytes.Equal(data, s[name]) {
			other = append(other, l.Under(name))
		}
	}
	if len(other) > 0 {
		slices.Sort(other)
		return exitcode.Errorf(exitcode.Refused, "this machine holds another cluster's %s", strings.Join(other, ", ")).
			WithHint("if that cluster is gone for good: hactl reset, then run this again")
	}
	if err := l.MkdirAll(); err != nil {
		return fmt.Errorf("install the shared secrets: %w", err)
	}
	for _, name := range missing {
		if strings.HasPrefix(name, inPKI("")) && name != inPKI(pki.GossipKeyFile) {
			continue // the CA set comes last, by its own store
		}
		if err := atomicfile.MkdirWrite(l.Under(name), s[name], 0o600, 0o700); err != nil {
			return fmt.Errorf("install the shared secrets: %w", err)
		}
	}
	store, err := pki.New(pki.Config{Dir: l.PKI(), Cluster: c.Name})
	if err != nil {
		return err
	}
	_, err = store.WriteCAs(casOf(s))
	return err
}
