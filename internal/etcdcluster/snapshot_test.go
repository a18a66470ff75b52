package etcdcluster

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/testwait"
)

func TestSaveSnapshot(t *testing.T) {
	t.Parallel()
	opts := calm
	opts.TLS = true
	c := etcdtest.Start(t, 3, opts)
	admin := NewAdmin(AdminConfig{Endpoints: c.Endpoints(), TLS: c.TLS()})
	cl := c.Client()
	var revision int64
	for i := range 20 {
		testwait.For(t, "a write", patience, func() error {
			resp, err := cl.Put(within(t), fmt.Sprint("k", i), strings.Repeat("v", 1<<12))
			if err == nil {
				revision = resp.Header.Revision
			}
			return err
		})
	}
	// The followers must have what was written.
	for _, m := range c.Members {
		m.WaitServing()
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "etcd.snapshot")
	var done, total int64
	s, err := admin.Save(within(t), file, func(d, of int64) { done, total = d, of })
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(file)
	if err != nil || fi.Mode().Perm() != 0o600 || fi.Size() != s.Size || done != s.Size || total != s.Size {
		t.Errorf("file %v, %v; snapshot %+v, progress %d of %d", fi, err, s, done, total)
	}
	if s.Revision != revision || s.Keys < 20 || s.Member == c.Leader().Name || s.Cluster == "" || len(s.SHA256) != 64 || s.Version == "" {
		t.Errorf("got %+v, want revision %d of a follower", s, revision)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("the folder has %v, %v; want the snapshot only", left, err)
	}
	if _, err := admin.Save(within(t), file, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v, want fs.ErrExist", err)
	}
	if _, err := admin.Save(within(t), filepath.Join(dir, "no", "file"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into no folder: %v", err)
	}
	for _, m := range c.Members {
		m.Kill()
	}
	if _, err := admin.Save(within(t), file+"2", nil); !errors.Is(err, ErrUnreachable) {
		t.Errorf("of nobody: %v, want ErrUnreachable", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("after failures the folder has %v, %v", left, err)
	}
}

func TestSnapshotIsChecked(t *testing.T) {
	data := []byte(strings.Repeat("0123456789", 1000))
	sum := sha256.Sum256(data)
	for name, tt := range map[string]struct {
		sent []byte
		err  string
	}{
		"whole":      {append(bytes.Clone(data), sum[:]...), ""},
		"cut short":  {data, "its hash is"},
		"one bit":    {append(append([]byte("1"), data[1:]...), sum[:]...), "its hash is"},
		"nothing":    {nil, "ended after 0 bytes"},
		"a few":      {data[:31], "ended after 31 bytes"},
		"only hash":  {sum[:], "its hash is"},
		"more after": {append(append(bytes.Clone(data), sum[:]...), 0), "its hash is"},
	} {
		for _, size := range []int{1, 31, 32, 33, 1 << 20} {
			h := &trailedHash{hash: sha256.New()}
			for rest := tt.sent; len(rest) > 0; {
				n := min(size, len(rest))
				h.write(rest[:n])
				rest = rest[n:]
			}
			if err := h.check(); (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s, in blobs of %d: %v, want %q", name, size, err, tt.err)
			}
		}
	}

	bad := filepath.Join(t.TempDir(), "bad")
	for name, content := range map[string][]byte{"empty": nil, "zeros": make([]byte, 1<<16), "noise": bytes.Repeat([]byte{0xed, 0xda, 0x0c, 0xed}, 1<<14)} {
		if err := os.WriteFile(bad, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := new(Snapshot).check(bad); err == nil {
			t.Errorf("a database of %s is taken", name)
		}
	}
}

func TestSnapshotSource(t *testing.T) {
	ms := members("m1* m2 m3 m4! m5?")
	ms[1].Applied = 4000
	for i := range ms {
		ms[i].ID = uint64(i + 1)
	}
	if m, err := snapshotSource(ms); err != nil || m.Name != "m3" {
		t.Errorf("got %+v, %v; want the follower that is furthest", m, err)
	}
	if m, err := snapshotSource(ms[:1]); err != nil || m.Name != "m1" {
		t.Errorf("got %+v, %v; want the leader for want of others", m, err)
	}
	if _, err := snapshotSource(ms[3:]); !errors.Is(err, ErrUnreachable) {
		t.Errorf("of one that is down and a learner: %v", err)
	}
}
