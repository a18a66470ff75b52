package dev

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/hactl/hactl/internal/pki"
)

func prepared(t *testing.T) (*Folder, Config) {
	t.Helper()
	f := &Folder{Dir: t.TempDir(), Info: Info{Format: format, Kube: "v1.36.3", Masters: 3, Network: "127.0.91.0", FrontDoor: "127.0.91.100:6443"}}
	cfg := Config{Dir: f.Dir, Programs: fakePrograms(t)}
	if err := f.prepare(cfg); err != nil {
		t.Fatal(err)
	}
	return f, cfg
}

// shared reads one file of every master, and tells whether all have the same.
func shared(t *testing.T, f *Folder, name string) []byte {
	t.Helper()
	var first []byte
	for i, m := range f.MasterNames() {
		data, err := os.ReadFile(filepath.Join(f.Layout(m).PKI(), name))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = data
		} else if !bytes.Equal(first, data) {
			t.Errorf("%s has another %s than the first master", m, name)
		}
	}
	return first
}

func TestAllMastersShareTheSecrets(t *testing.T) {
	f, cfg := prepared(t)
	gossip, ca := shared(t, f, pki.GossipKeyFile), shared(t, f, "ca.key")
	if err := f.prepare(cfg); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(gossip, shared(t, f, pki.GossipKeyFile)) || !bytes.Equal(ca, shared(t, f, "ca.key")) {
		t.Error("a second up made other secrets")
	}
	if _, err := os.Stat(filepath.Join(f.Layout(FrontDoorHost).PKI(), "ca.key")); err == nil {
		t.Error("the worker's balancer has a secret")
	}
}

// A folder of a version that knew no gossip key is healed, and so is one whose
// first master lost it.
func TestAFolderOfBeforeIsHealed(t *testing.T) {
	f, cfg := prepared(t)
	remove := func(masters ...string) {
		t.Helper()
		for _, m := range masters {
			if err := os.Remove(filepath.Join(f.Layout(m).PKI(), pki.GossipKeyFile)); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.prepare(cfg); err != nil {
			t.Fatal(err)
		}
	}
	remove(f.MasterNames()...)
	made := shared(t, f, pki.GossipKeyFile)
	remove("m1", "m2")
	if !bytes.Equal(made, shared(t, f, pki.GossipKeyFile)) {
		t.Error("the third master's key was not taken")
	}
}
