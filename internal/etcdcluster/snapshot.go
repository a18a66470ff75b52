package etcdcluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"google.golang.org/grpc"

	"github.com/hactl/hactl/internal/atomicfile"
)

// Snapshot tells about a saved snapshot.
type Snapshot struct {
	File     string `json:"file"`
	Size     int64  `json:"sizeBytes"`
	SHA256   string `json:"sha256"`   // of the database, which the file ends with
	Revision int64  `json:"revision"` // the newest in it
	Keys     int    `json:"keys"`     // revisions of keys in it, old ones too
	Member   string `json:"member"`   // whose data they are
	Cluster  string `json:"clusterID"`
	Version  string `json:"version"` // of etcd
}

// snapshotTimeout is how long a snapshot may take.
const snapshotTimeout = 15 * time.Minute

// Save writes a snapshot of the cluster's data to file, mode 0600, as etcd's own
// tools read it. The file appears only when it is whole: its hash is right, and
// its database opens and has revisions. A follower is asked, to spare the
// leader. progress, if not nil, is told how many bytes there are so far, and in
// all when known. Save errs with fs.ErrExist when file exists.
func (a *Admin) Save(ctx context.Context, file string, progress func(done, total int64)) (Snapshot, error) {
	if _, err := os.Lstat(file); err == nil {
		return Snapshot{}, fmt.Errorf("save a snapshot: %s: %w", file, fs.ErrExist)
	}
	ms, err := a.Members(ctx)
	if err != nil {
		return Snapshot{}, err
	}
	m, err := snapshotSource(ms)
	if err != nil {
		return Snapshot{}, err
	}
	s := Snapshot{File: file, Member: nameOf(m), Cluster: m.ClusterID, Version: m.Version}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".tmp-*") // 0600
	if err != nil {
		return s, fmt.Errorf("save a snapshot: %w", err)
	}
	defer os.Remove(tmp.Name()) // of no effect after the renaming
	defer tmp.Close()
	err = a.callFor(ctx, snapshotTimeout, m, func(ctx context.Context, conn *grpc.ClientConn) error {
		return s.receive(ctx, conn, tmp, progress)
	})
	if err != nil {
		return s, fmt.Errorf("save a snapshot of %s: %w", s.Member, err)
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return s, fmt.Errorf("save a snapshot: %w", err)
	}
	if err := s.check(tmp.Name()); err != nil {
		return s, fmt.Errorf("the snapshot of %s is not whole: %w", s.Member, err)
	}
	// Not a plain rename: a file that came meanwhile must not be lost.
	if err := os.Link(tmp.Name(), file); err != nil {
		return s, fmt.Errorf("save a snapshot: %w", err)
	}
	if err := atomicfile.SyncDir(filepath.Dir(file)); err != nil {
		return s, fmt.Errorf("save a snapshot: %w", err)
	}
	return s, nil
}

// snapshotSource is the voter to ask: the follower that is furthest, else the
// leader. Without a quorum a member that answers is better than no snapshot.
func snapshotSource(ms []MemberStatus) (MemberStatus, error) {
	var best MemberStatus
	better := func(m MemberStatus) bool {
		switch {
		case best.ID == 0:
			return true
		case (m.Role == Leader) != (best.Role == Leader):
			return best.Role == Leader
		}
		return m.Applied > best.Applied
	}
	for _, m := range ms {
		if m.Reachable && m.ID != 0 && m.Role != Learner && better(m) {
			best = m
		}
	}
	if best.ID == 0 {
		return best, fmt.Errorf("%w: no voter to take a snapshot of", ErrUnreachable)
	}
	return best, nil
}

// receive writes what the member sends, and checks the hash behind it.
func (s *Snapshot) receive(ctx context.Context, conn *grpc.ClientConn, w io.Writer, progress func(done, total int64)) error {
	stream, err := etcdserverpb.NewMaintenanceClient(conn).Snapshot(ctx, &etcdserverpb.SnapshotRequest{})
	if err != nil {
		return plainError(err)
	}
	h := &trailedHash{hash: sha256.New()}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return plainError(err)
		}
		blob := resp.GetBlob()
		h.write(blob)
		if _, err := w.Write(blob); err != nil {
			return err
		}
		s.Size += int64(len(blob))
		if progress != nil {
			progress(s.Size, s.Size+int64(resp.GetRemainingBytes()))
		}
	}
	s.SHA256 = hex.EncodeToString(h.hash.Sum(nil))
	return h.check()
}

// trailedHash hashes all but the last sha256.Size bytes, which are the hash.
type trailedHash struct {
	hash hash.Hash
	last []byte
}

func (t *trailedHash) write(p []byte) {
	t.last = append(t.last, p...)
	if n := len(t.last) - sha256.Size; n > 0 {
		t.hash.Write(t.last[:n])
		t.last = append([]byte(nil), t.last[n:]...)
	}
}

func (t *trailedHash) check() error {
	switch sum := t.hash.Sum(nil); {
	case len(t.last) < sha256.Size:
		return fmt.Errorf("it ended after %d bytes", len(t.last))
	case !bytes.Equal(sum, t.last):
		return fmt.Errorf("its hash is %x, sent was %x", sum, t.last)
	}
	return nil
}

// check opens the database and counts its revisions.
func (s *Snapshot) check(path string) (err error) {
	defer func() {
		if r := recover(); r != nil { // bbolt panics on pages that make no sense
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: boltWait})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("key"))
		if b == nil {
			return errors.New("it has no keys")
		}
		s.Keys = b.Stats().KeyN
		last, _ := b.Cursor().Last()
		if len(last) >= 17 {
			s.Revision = mvcc.BytesToRev(last).Main
		} else {
			s.Revision = 1 // nothing was ever written
		}
		return nil
	})
}
