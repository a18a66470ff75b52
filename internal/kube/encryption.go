package kube

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/layout"
)

// EncryptionFile holds the key with which Secrets are encrypted before they go
// to etcd. All masters have the same one: without it nobody can read them.
func EncryptionFile(l layout.Layout) string { return host{Layout: l}.file("encryption.yaml") }

// NewEncryption returns the content of an EncryptionFile with a new key.
//
// The provider is secretbox (XSalsa20 and Poly1305): its 24-byte nonces may be
// random for as many writes as one likes, where aesgcm's key must be changed
// every 200,000 writes, and it notices tampering, which aescbc does not. KMS
// would be better still, and needs a service that hactl does not bring.
//
// There is no identity provider: hactl's clusters have encrypted from their
// first write on, so a Secret in plain text can only have been planted, and is
// refused.
func NewEncryption() ([]byte, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make the encryption key: %w", err)
	}
	return fmt.Appendf(nil, `# The key of the Secrets in etcd; made by hactl, the same on every master.
# Whoever loses it loses the Secrets: keep a copy apart from etcd's backups.
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - secretbox:
          keys:
            - {name: key1, secret: %s}
`, base64.StdEncoding.EncodeToString(key)), nil
}

// EnsureEncryption makes the EncryptionFile of a new cluster's first master, or
// keeps the one that is there. It must not be called where another master may
// have made one already: that one is to be copied.
func EnsureEncryption(l layout.Layout) (created bool, err error) {
	path := EncryptionFile(l)
	switch _, err := os.Stat(path); {
	case err == nil:
		return false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("look for the encryption key: %w", err)
	}
	data, err := NewEncryption()
	if err != nil {
		return false, err
	}
	return true, atomicfile.MkdirWrite(path, data, 0o600, 0o755)
}
