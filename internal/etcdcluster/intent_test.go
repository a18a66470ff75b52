package etcdcluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func examplePeers() []Peer {
	return []Peer{{"m1", "https://10.0.0.1:2380"}, {"m2", "https://10.0.0.2:2380"}, {"m3", "https://10.0.0.3:2380"}}
}

func TestWriteIntent(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "etcd")
	if _, err := ReadIntent(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("read of none: %v, want fs.ErrNotExist", err)
	}
	in := NewIntent("prod", "m1", examplePeers())
	if err := WriteIntent(dir, data, in); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, intentFile)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("file %v, %v; want mode 0600", fi, err)
	}
	if err := WriteIntent(dir, data, NewIntent("prod", "m1", examplePeers())); err != nil {
		t.Errorf("the same once more: %v", err)
	}
	for name, other := range map[string]Intent{
		"another cluster": NewIntent("test", "m1", examplePeers()),
		"another member":  NewIntent("prod", "m2", examplePeers()),
		"other peers":     NewIntent("prod", "m1", examplePeers()[:1]),
	} {
		if err := WriteIntent(dir, data, other); !errors.Is(err, ErrIntentExists) {
			t.Errorf("%s: %v, want ErrIntentExists", name, err)
		}
	}
	got, err := ReadIntent(dir)
	if err != nil || !got.same(in) || got.State != Pending {
		t.Fatalf("read %+v, %v; want %+v", got, err, in)
	}
	if err := got.advance(dir, Used, 0xabc, 0xdef); err != nil {
		t.Fatal(err)
	}
	if got, err = ReadIntent(dir); err != nil || got.State != Used || got.MemberID != "abc" || got.ClusterID != "def" || got.Changed.IsZero() {
		t.Fatalf("read %+v, %v; want it used by abc in def", got, err)
	}
	if err := WriteIntent(dir, data, in); !errors.Is(err, ErrIntentExists) {
		t.Errorf("again after it was used: %v, want ErrIntentExists", err)
	}
}

func TestWriteIntentRefusesData(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "etcd")
	db := filepath.Join(data, "member", "snap", "db")
	if err := os.MkdirAll(filepath.Dir(db), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(db, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteIntent(dir, data, NewIntent("prod", "m1", examplePeers())); !errors.Is(err, ErrIntentExists) {
		t.Fatalf("got %v, want ErrIntentExists", err)
	}
}

// The ids are etcd's: all founders must compute the same cluster, and a
// different token another one.
func TestIntentIDs(t *testing.T) {
	m1, c1, err := NewIntent("prod", "m1", examplePeers()).ids()
	if err != nil {
		t.Fatal(err)
	}
	m2, c2, err := NewIntent("prod", "m2", examplePeers()).ids()
	if err != nil {
		t.Fatal(err)
	}
	if c1 != c2 || m1 == m2 {
		t.Errorf("clusters %x and %x, members %x and %x; want one cluster, two members", c1, c2, m1, m2)
	}
	in := NewIntent("prod", "m1", examplePeers())
	in.Token = "other"
	if m, c, err := in.ids(); err != nil || c == c1 || m == m1 {
		t.Errorf("with another token: member %x, cluster %x, %v; want others than %x, %x", m, c, err, m1, c1)
	}
}

func TestIntentIsChecked(t *testing.T) {
	for want, f := range map[string]func(*Intent){
		"version 2":                 func(in *Intent) { in.Version = 2 },
		`action "form"`:             func(in *Intent) { in.Action = "form" },
		`state ""`:                  func(in *Intent) { in.State = "" },
		"cluster, token and member": func(in *Intent) { in.Token = "" },
		"memberID and clusterID":    func(in *Intent) { in.Action = Join },
		"not a hexadecimal":         func(in *Intent) { in.MemberID = "xyz" },
		"is not among the peers":    func(in *Intent) { in.Member = "m9" },
		`peer "a=b"`:                func(in *Intent) { in.Peers = append(in.Peers, Peer{"a=b", "https://10.0.0.4:2380"}) },
		"10.0.0.4:2380\": want":     func(in *Intent) { in.Peers = append(in.Peers, Peer{"m4", "http://10.0.0.4:2380"}) },
		`peer "m1" at "https://10.0.0.1:2380": twice`: func(in *Intent) { in.Peers = append(in.Peers, in.Peers[0]) },
	} {
		in := NewIntent("prod", "m1", append([]Peer(nil), examplePeers()...))
		f(&in)
		if err := WriteIntent(t.TempDir(), t.TempDir(), in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func FuzzParseIntent(f *testing.F) {
	f.Add([]byte(`{"version":1,"action":"found","cluster":"c","token":"t","member":"m","peers":[{"name":"m","url":"https://10.0.0.1:2380"}],"state":"pending"}`))
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, text []byte) {
		in, err := parseIntent(text)
		if err != nil {
			return
		}
		if _, _, err := in.ids(); err != nil {
			t.Errorf("a valid intent has no ids: %v\n%s", err, text)
		}
		dir := t.TempDir()
		if err := in.write(dir); err != nil {
			t.Fatal(err)
		}
		if back, err := ReadIntent(dir); err != nil || !back.same(in) {
			t.Errorf("read back %+v, %v; want %+v", back, err, in)
		}
	})
}
