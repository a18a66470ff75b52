package etcdcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/datadir"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"google.golang.org/protobuf/proto"
)

// boltWait is how long opening the database waits for another process' lock.
const boltWait = 200 * time.Millisecond

// dataState is what a data folder tells about the member that it belongs to.
// The zero value is an empty or missing folder.
type dataState struct {
	wal, db   bool // the log, the database: a member has both
	memberID  uint64
	clusterID uint64

	// From the database, empty when it does not know (yet):
	name     string
	peerURLs []string
	removed  bool // the cluster removed this member
}

// readData reads dir without changing anything. It errs with ErrInUse when
// another process has the database open.
func readData(dir string) (dataState, error) {
	var d dataState
	walDir, db := datadir.ToWALDir(dir), datadir.ToBackendFileName(dir)
	if _, err := os.Stat(db); err == nil {
		d.db = true
	} else if !errors.Is(err, fs.ErrNotExist) {
		return d, err
	}
	if d.wal = wal.Exist(walDir); !d.wal {
		return d, nil
	}
	var err error
	if d.memberID, d.clusterID, err = walIdentity(walDir); err != nil {
		return d, fmt.Errorf("read the member's id in %s: %w", walDir, err)
	}
	if d.db {
		if err := d.readMember(db); err != nil {
			return d, fmt.Errorf("read the member in %s: %w", db, err)
		}
	}
	return d, nil
}

// walIdentity reads the metadata with which every file of the log begins.
func walIdentity(dir string) (member, cluster uint64, err error) {
	names, err := fileutil.ReadDir(dir)
	if err != nil {
		return 0, 0, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".wal") })
	if len(names) == 0 {
		return 0, 0, errors.New("no log file")
	}
	f, err := os.Open(filepath.Join(dir, names[0]))
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	dec := wal.NewDecoder(fileutil.NewFileReader(f))
	for {
		var rec walpb.Record
		if err := dec.Decode(&rec); err != nil {
			return 0, 0, fmt.Errorf("%s: %w", names[0], err)
		}
		switch rec.GetType() {
		case wal.CrcType:
			dec.UpdateCRC(rec.GetCrc())
		case wal.MetadataType:
			var m etcdserverpb.Metadata
			if err := proto.Unmarshal(rec.Data, &m); err != nil {
				return 0, 0, fmt.Errorf("%s: %w", names[0], err)
			}
			return m.GetNodeID(), m.GetClusterID(), nil
		default:
			return 0, 0, fmt.Errorf("%s: no identity at its beginning", names[0])
		}
	}
}

func (d *dataState) readMember(path string) (err error) {
	defer func() {
		if r := recover(); r != nil { // bbolt panics on pages that make no sense
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: boltWait})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%w: another process has it open", ErrInUse)
	case err != nil:
		return err
	}
	defer db.Close()
	key := []byte(idString(d.memberID))
	return db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket([]byte("members_removed")); b != nil {
			d.removed = b.Get(key) != nil
		}
		b := tx.Bucket([]byte("members"))
		if b == nil {
			return nil
		}
		text := b.Get(key)
		if text == nil {
			return nil
		}
		var m struct {
			Name     string   `json:"name"`
			PeerURLs []string `json:"peerURLs"`
		}
		if err := json.Unmarshal(text, &m); err != nil {
			return fmt.Errorf("member %s: %w", key, err)
		}
		d.name, d.peerURLs = m.Name, m.PeerURLs
		return nil
	})
}

// idString writes an id as etcd does.
func idString(id uint64) string { return fmt.Sprintf("%x", id) }
