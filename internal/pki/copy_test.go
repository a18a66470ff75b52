package pki

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/exitcode"
)

func TestCopyCAs(t *testing.T) {
	src, _ := newStore(t, t.TempDir())
	mustEnsure(t, src, t.TempDir())
	dst, _ := newStore(t, t.TempDir()+"/pki")
	changes, err := CopyCAs(src.dir, dst.dir)
	if err != nil || len(changes) != len(caFiles()) {
		t.Fatalf("%v, %v", changes, err)
	}
	for _, f := range caFiles() {
		fi, err := os.Stat(dst.file(f))
		want := fs.FileMode(0o644)
		if strings.HasSuffix(f, ".key") {
			want = 0o600
		}
		if err != nil || fi.Mode().Perm() != want || read(t, dst.file(f)) != read(t, src.file(f)) {
			t.Errorf("%s: %v, %v", f, fi.Mode(), err)
		}
	}
	if again, err := CopyCAs(src.dir, dst.dir); err != nil || len(again) > 0 {
		t.Errorf("a second time: %v, %v", again, err)
	}
	if made, err := dst.EnsureCAs(); err != nil || len(made) > 0 {
		t.Errorf("the copy is not whole: %v, %v", made, err)
	}
	if _, err := dst.EnsureLeaves(leavesOf("m2")); err != nil {
		t.Fatal(err)
	}
	if err := leafCert(t, dst, "etcd/peer").CheckSignatureFrom(leafCert(t, src, "etcd/ca")); err != nil {
		t.Errorf("the masters do not trust each other: %v", err)
	}
}

// A copy that was cut short is refused by EnsureCAs, which would make a second
// CA, and completed by copying again.
func TestCopyCutShort(t *testing.T) {
	src, _ := newStore(t, t.TempDir())
	mustEnsure(t, src, t.TempDir())
	set, err := src.ReadCAs()
	if err != nil {
		t.Fatal(err)
	}
	for n := range caFiles() {
		dst, _ := newStore(t, t.TempDir())
		writes := 0
		dst.write = func(path string, data []byte, perm fs.FileMode) error {
			if writes++; writes > n {
				return errCut
			}
			return fastWrite(path, data, perm)
		}
		if _, err := dst.WriteCAs(set); !errors.Is(err, errCut) {
			t.Fatalf("cut %d: %v", n, err)
		}
		dst.write = fastWrite
		// With nothing written it is an empty folder; with all but sa.pub it is whole.
		if 0 < n && n < len(caFiles())-1 {
			if _, err := dst.EnsureCAs(); exitcode.Of(err) != exitcode.Refused {
				t.Errorf("cut %d: %v, want a refusal", n, err)
			}
		}
		if _, err := dst.WriteCAs(set); err != nil {
			t.Errorf("cut %d, again: %v", n, err)
		}
		if made, err := dst.EnsureCAs(); err != nil || len(made) > 0 {
			t.Errorf("cut %d: not whole: %v, %v", n, made, err)
		}
	}
}

func TestWriteCAsRefuses(t *testing.T) {
	src, _ := newStore(t, t.TempDir())
	mustEnsure(t, src, t.TempDir())
	whole, err := src.ReadCAs()
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name string
		harm func(CASet)
		want string
	}{
		{"a file less", func(s CASet) { delete(s, "etcd/ca.key") }, "no etcd/ca.key"},
		{"an empty file", func(s CASet) { s["sa.pub"] = nil }, "no sa.pub"},
		{"a file more", func(s CASet) { s["../../etc/passwd"] = []byte("x") }, "do not belong"},
		{"keys swapped", func(s CASet) { s["ca.key"], s["etcd/ca.key"] = s["etcd/ca.key"], s["ca.key"] }, "does not fit"},
		{"no certificate", func(s CASet) { s["ca.crt"] = []byte("x") }, "CA set's ca: no PEM certificate"},
		{"no key", func(s CASet) { s["ca.key"] = []byte("x") }, "CA set's ca: no PEM private key"},
		{"no service account key", func(s CASet) { s["sa.key"] = []byte("x") }, "sa.key: no PEM private key"},
		{"another public key", func(s CASet) { s["sa.pub"] = []byte("x") }, "does not fit sa.key"},
		{"a leaf as CA", func(s CASet) {
			s["ca.crt"], s["ca.key"] = []byte(read(t, src.file("apiserver.crt"))), []byte(read(t, src.file("apiserver.key")))
		}, "not a CA"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dst, _ := newStore(t, t.TempDir())
			set := maps.Clone(whole)
			c.harm(set)
			if _, err := dst.WriteCAs(set); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if got := tree(t, dst.dir); len(got) > 0 {
				t.Errorf("written: %v", got)
			}
		})
	}
	t.Run("over another cluster", func(t *testing.T) {
		dst, _ := newStore(t, t.TempDir())
		mustEnsure(t, dst, t.TempDir())
		before := tree(t, dst.dir)
		_, err := dst.WriteCAs(whole)
		if exitcode.Of(err) != exitcode.Refused || !strings.Contains(err.Error(), "another cluster's") {
			t.Errorf("%v", err)
		}
		if !maps.Equal(before, tree(t, dst.dir)) {
			t.Error("it was changed")
		}
	})
	t.Run("from a folder that is not whole", func(t *testing.T) {
		if _, err := CopyCAs(t.TempDir(), t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v", err)
		}
	})
}
