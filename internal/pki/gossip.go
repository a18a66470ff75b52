package pki

import (
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/hactl/hactl/internal/exitcode"
)

// GossipKeyFile is the key of the masters' gossip, below Config.Dir.
const GossipKeyFile = "hactl/gossip.key"

const (
	blockGossip = "HACTL GOSSIP KEY"
	gossipBytes = 32
)

// NewGossipKey makes the content of a GossipKeyFile: 32 random bytes in PEM.
func NewGossipKey() []byte {
	key := make([]byte, gossipBytes)
	_, _ = rand.Read(key) // it returns no error: without randomness it ends the program
	return pem.EncodeToMemory(&pem.Block{Type: blockGossip, Bytes: key})
}

// ParseGossipKey reads what NewGossipKey made. Its errors do not show it.
func ParseGossipKey(text []byte) ([]byte, error) {
	b, _ := pem.Decode(text)
	if b == nil || b.Type != blockGossip || len(b.Bytes) != gossipBytes {
		return nil, fmt.Errorf("no %s of %d bytes in PEM in it", blockGossip, gossipBytes)
	}
	return b.Bytes, nil
}

// EnsureGossipKey makes the key when there is none, and otherwise checks it. Like
// EnsureCAs it may only be called where no other master can have made one.
func (s *Store) EnsureGossipKey() (created bool, err error) {
	unlock, err := s.lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	_, err = s.ReadGossipKey()
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, s.write(s.file(GossipKeyFile), NewGossipKey(), 0o600)
}

// ReadGossipKey returns the 32 bytes of the key; fs.ErrNotExist, wrapped, when
// there is none.
func (s *Store) ReadGossipKey() ([]byte, error) {
	path := s.file(GossipKeyFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, exitcode.Errorf(exitcode.Failed, "read the gossip's key: %w", err).
			WithHint("copy %s from another master", path)
	}
	key, err := ParseGossipKey(text)
	if err != nil {
		return nil, exitcode.Errorf(exitcode.Failed, "read the gossip's key: %s: %w", path, err).
			WithHint("copy it from another master")
	}
	return key, nil
}
