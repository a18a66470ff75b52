package etcdcluster

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/server/v3/storage/datadir"
)

func TestReadData(t *testing.T) {
	t.Parallel()
	if d, err := readData(filepath.Join(t.TempDir(), "none")); err != nil || d.wal || d.db {
		t.Errorf("of no folder: %+v, %v", d, err)
	}
	m := newMaster(t, "m1")
	startAll([]*master{m})
	if _, err := readData(m.cfg.DataDir); !errors.Is(err, ErrInUse) {
		t.Errorf("while it runs: %v, want ErrInUse", err)
	}
	if err := m.stopNow(); err != nil {
		t.Fatal(err)
	}
	in, err := ReadIntent(m.cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := readData(m.cfg.DataDir)
	if err != nil || !d.wal || !d.db || idString(d.memberID) != in.MemberID || idString(d.clusterID) != in.ClusterID ||
		d.name != "m1" || !slices.Equal(d.peerURLs, []string{m.cfg.PeerURL}) || d.removed {
		t.Errorf("got %+v, %v; want what the intent says: %+v", d, err, in)
	}

	walFiles, err := filepath.Glob(filepath.Join(datadir.ToWALDir(m.cfg.DataDir), "*.wal"))
	if err != nil || len(walFiles) == 0 {
		t.Fatal(walFiles, err)
	}
	db := datadir.ToBackendFileName(m.cfg.DataDir)
	good := map[string][]byte{}
	for _, f := range append(walFiles, db) {
		if good[f], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		file    string
		content []byte
		want    string
	}{
		"an empty log":              {walFiles[0], nil, "the member's id"},
		"a log of zeros":            {walFiles[0], make([]byte, 4096), "the member's id"},
		"a log of noise":            {walFiles[0], bytes.Repeat([]byte("noise!!!"), 512), "the member's id"},
		"a flipped bit in its head": {walFiles[0], flip(good[walFiles[0]], 40), "the member's id"},
		"an empty database":         {db, nil, "read the member"},
		"a database of zeros":       {db, make([]byte, 1<<15), "read the member"},
		"half a database":           {db, good[db][:4096], "read the member"},
	} {
		if err := os.WriteFile(tt.file, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if d, err := readData(m.cfg.DataDir); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v; want an error with %q", name, d, err, tt.want)
		}
		if err := os.WriteFile(tt.file, good[tt.file], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := readData(m.cfg.DataDir); err != nil {
		t.Errorf("with everything back: %v", err)
	}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}
