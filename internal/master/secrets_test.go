package master

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/rendezvous"
)

func prod() *config.Cluster {
	c := config.Default()
	c.Name = "prod"
	return c
}

// made makes a founder's secrets.
func made(t *testing.T) (layout.Layout, rendezvous.Secrets) {
	t.Helper()
	l := layout.Layout{Root: t.TempDir()}
	s, err := EnsureSecrets(l, prod())
	if err != nil {
		t.Fatal(err)
	}
	return l, s
}

func TestSecretsGoFromTheFounderToAll(t *testing.T) {
	empty := layout.Layout{Root: t.TempDir()}
	if s, err := ReadSecrets(empty, prod()); s != nil || err != nil {
		t.Errorf("where nothing is: %v, %v", s, err)
	}
	first, s := made(t)
	if len(s) != 10 {
		t.Errorf("%d secrets", len(s))
	}
	if again, err := EnsureSecrets(first, prod()); err != nil || !reflect.DeepEqual(again, s) {
		t.Errorf("made again they differ: %v", err)
	}
	for range 2 {
		if err := WriteSecrets(empty, prod(), s); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := ReadSecrets(empty, prod()); err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("what was copied differs: %v", err)
	}
	for name := range s {
		want := fs.FileMode(0o600)
		if strings.HasSuffix(name, ".crt") || strings.HasSuffix(name, ".pub") {
			want = 0o644
		}
		for _, l := range []layout.Layout{first, empty} {
			if fi, err := os.Stat(l.Under(name)); err != nil || fi.Mode().Perm() != want {
				t.Errorf("%s: %v, %v", name, fi.Mode(), err)
			}
		}
	}
}

// Cut short after any file, copying is completed by doing it again, and making by
// making it again.
func TestSecretsAreCompleted(t *testing.T) {
	_, s := made(t)
	for name := range s {
		l := layout.Layout{Root: t.TempDir()}
		if err := WriteSecrets(l, prod(), s); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(l.Under(name)); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadSecrets(l, prod()); got != nil || !errors.Is(err, ErrHalfSecrets) || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %d, %v", name, len(got), err)
		}
		if err := WriteSecrets(l, prod(), s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := ReadSecrets(l, prod()); err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%s: %v", name, err)
		}
	}
	l, s := made(t)
	for _, name := range []string{"etc/kubernetes/pki/hactl/gossip.key", "etc/kubernetes/encryption.yaml"} {
		if _, ok := s[name]; !ok {
			t.Fatalf("no %s", name)
		}
		if err := os.Remove(l.Under(name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := EnsureSecrets(l, prod()); err != nil {
		t.Errorf("a making that was cut short: %v", err)
	}
}

func TestSecretsAreNeverReplaced(t *testing.T) {
	_, ours := made(t)
	l, theirs := made(t)
	for name := range ours {
		mixed := rendezvous.Secrets{}
		for n, data := range theirs {
			mixed[n] = data
		}
		if strings.HasSuffix(name, "encryption.yaml") || strings.HasSuffix(name, "gossip.key") {
			mixed[name] = ours[name]
		} else {
			mixed = ours
		}
		err := WriteSecrets(l, prod(), mixed)
		if exitcode.Of(err) != exitcode.Refused || !strings.Contains(err.Error(), l.Under(name)) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if got, err := ReadSecrets(l, prod()); err != nil || !reflect.DeepEqual(got, theirs) {
		t.Errorf("the refused writing changed something: %v", err)
	}
}

func TestLostSecretsAreNotMadeAnew(t *testing.T) {
	l, _ := made(t)
	encryption := l.Under("etc/kubernetes/encryption.yaml")
	if err := os.Remove(encryption); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.PKI(), "apiserver.crt"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureSecrets(l, prod()); exitcode.Of(err) != exitcode.Refused || !strings.Contains(err.Error(), encryption) {
		t.Errorf("the key of the Secrets was lost: %v", err)
	}
	l, _ = made(t)
	if err := os.Remove(filepath.Join(l.PKI(), "etcd/ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureSecrets(l, prod()); exitcode.Of(err) != exitcode.Refused {
		t.Errorf("a CA's key was lost: %v", err)
	}
}

// What comes over the network is checked before anything is written.
func TestForeignSecretsAreRefused(t *testing.T) {
	_, good := made(t)
	for want, spoil := range map[string]func(rendezvous.Secrets){
		"does not belong":   func(s rendezvous.Secrets) { s["etc/shadow"] = []byte("x") },
		"belong to them":    func(s rendezvous.Secrets) { s["etc/kubernetes/pki/../../shadow"] = []byte("x") },
		"hold no":           func(s rendezvous.Secrets) { delete(s, "etc/kubernetes/pki/ca.key") },
		"gossip key":        func(s rendezvous.Secrets) { s["etc/kubernetes/pki/hactl/gossip.key"] = []byte("x") },
		"CA set's etcd/ca":  func(s rendezvous.Secrets) { s["etc/kubernetes/pki/etcd/ca.key"] = s["etc/kubernetes/pki/ca.key"] },
		"encryption.yaml":   func(s rendezvous.Secrets) { s["etc/kubernetes/encryption.yaml"] = nil },
		"CA set's sa.pub":   func(s rendezvous.Secrets) { s["etc/kubernetes/pki/sa.pub"] = []byte("x") },
		"CA set's front-pr": func(s rendezvous.Secrets) { s["etc/kubernetes/pki/front-proxy-ca.crt"] = []byte("x") },
	} {
		s := rendezvous.Secrets{}
		for name, data := range good {
			s[name] = data
		}
		spoil(s)
		l := layout.Layout{Root: t.TempDir()}
		if err := WriteSecrets(l, prod(), s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if entries, err := os.ReadDir(l.Root); err != nil || len(entries) > 0 {
			t.Errorf("%s: something was written: %v", want, err)
		}
	}
}
