package pki

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
)

func TestGossipKey(t *testing.T) {
	s, err := New(Config{Dir: t.TempDir(), Cluster: "prod"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadGossipKey(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before it is made: %v", err)
	}
	if created, err := s.EnsureGossipKey(); err != nil || !created {
		t.Fatalf("%v, %v", created, err)
	}
	key, err := s.ReadGossipKey()
	if err != nil || len(key) != 32 || bytes.Equal(key, make([]byte, 32)) {
		t.Fatalf("%d bytes, %v", len(key), err)
	}
	if created, err := s.EnsureGossipKey(); err != nil || created {
		t.Errorf("made again: %v, %v", created, err)
	}
	if again, _ := s.ReadGossipKey(); !bytes.Equal(again, key) {
		t.Error("it changed")
	}
	path := s.file(GossipKeyFile)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	for name, text := range map[string]string{
		"empty": "", "cut": "-----BEGIN HACTL GOSSIP KEY-----\nAAAA\n-----END HACTL GOSSIP KEY-----\n",
		"another kind": "-----BEGIN PRIVATE KEY-----\n" + strings.Repeat("A", 43) + "=\n-----END PRIVATE KEY-----\n",
	} {
		put(t, path, text)
		if _, err := s.ReadGossipKey(); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		// What is broken is not replaced: the other masters have the right one.
		if created, err := s.EnsureGossipKey(); err == nil || created {
			t.Errorf("%s was replaced: %v, %v", name, created, err)
		}
	}
	if bytes.Equal(NewGossipKey(), NewGossipKey()) {
		t.Error("two keys are the same")
	}
}
