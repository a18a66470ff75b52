package etcdcluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/datadir"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/testwait"
)

func TestThreeMembers(t *testing.T) {
	t.Parallel()
	ms := newMasters(t, 3)
	for _, m := range ms {
		m.cfg.WatchdogEvery = 50 * time.Millisecond
	}
	began := time.Now()
	startAll(ms)
	t.Logf("three members served after %v", time.Since(began).Round(time.Millisecond))
	mustPut(t, ms[0], "k", "v")
	for _, m := range ms {
		m.waitSaid("WATCHDOG=1")
		for _, path := range []string{"/livez", "/readyz", "/metrics"} {
			wantOK(t, m.cfg.MetricsURL+path)
		}
		in, err := ReadIntent(m.cfg.StateDir)
		if err != nil || in.State != Used || in.MemberID == "" || in.ClusterID == "" {
			t.Errorf("%s keeps the intent %+v, %v; want it used, with the ids", m.cfg.Name, in, err)
		}
	}

	// A stopping leader hands over, ends watches at once, and says so in order.
	leader := leaderOf(t, ms)
	watch := leader.client().Watch(t.Context(), "k")
	if err := leader.stopNow(); err != nil {
		t.Fatalf("stop the leader: %v", err)
	}
	said := leader.said()
	order := []string{"STATUS=starting", "STATUS=waiting for a quorum", "READY=1", "STATUS=leader, 3 members", "STOPPING=1", "STATUS=closing"}
	at := 0
	for _, s := range said {
		if at < len(order) && strings.HasPrefix(s, order[at]) {
			at++
		}
	}
	if at != len(order) {
		t.Errorf("it said %q, want in this order %q", said, order)
	}
	next := leaderOf(t, ms)
	mustPut(t, next, "k", "after the hand-over")
	select {
	case r, ok := <-watch:
		// The client looks for another member; it must not take the end for its own wish.
		if !ok || r.Canceled {
			t.Errorf("the watch ended: %v, %v", r.Err(), ok)
		}
	default:
	}

	// It comes back as what it was.
	before, err := ReadIntent(leader.cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	leader.start()
	leader.waitSaid("READY=1")
	if after, err := ReadIntent(leader.cfg.StateDir); err != nil || after.MemberID != before.MemberID || !after.Changed.Equal(before.Changed) {
		t.Errorf("after a restart the intent is %+v, %v; want it as before: %+v", after, err, before)
	}
}

func wantOK(t *testing.T, url string) {
	t.Helper()
	defer http.DefaultClient.CloseIdleConnections()
	testwait.For(t, "200 from "+url, patience, func() error {
		resp, err := http.Get(url)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", resp.Status, body)
		}
		return nil
	})
}

func TestWaitsForAQuorumWithoutEnding(t *testing.T) {
	t.Parallel()
	ms := newMasters(t, 3)
	ms[0].found(ms)
	ms[0].start()
	ms[0].waitSaid("STATUS=waiting for a quorum")
	ms[0].waitSaid("EXTEND_TIMEOUT_USEC=30000000")
	if slices.Contains(ms[0].said(), "READY=1") {
		t.Error("it is ready without a quorum")
	}
	// /livez is about the process, /readyz about the service.
	wantOK(t, ms[0].cfg.MetricsURL+"/livez")
	resp, err := http.Get(ms[0].cfg.MetricsURL + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		t.Error("/readyz is well without a quorum")
	}
	ms[1].found(ms)
	ms[1].start()
	ms[0].waitSaid("READY=1")
	ms[1].waitSaid("READY=1")
}

func TestStopsWhileWaiting(t *testing.T) {
	t.Parallel()
	ms := newMasters(t, 3)
	ms[0].found(ms)
	ms[0].start()
	ms[0].waitSaid("STATUS=waiting for a quorum")
	if err := ms[0].stopNow(); err != nil {
		t.Fatal(err)
	}
}

func TestARestartNeverFoundsASecondCluster(t *testing.T) {
	t.Parallel()
	ms := newMasters(t, 3)
	startAll(ms)
	lost := ms[0]
	if err := lost.stopNow(); err != nil {
		t.Fatal(err)
	}
	removeAll(t, lost.cfg.DataDir)
	lost.start()
	err := lost.wait()
	wantErr(t, err, ErrDataLost)
	if code := exitcode.Of(err); code != exitcode.Refused {
		t.Errorf("exit code %d, want %d", code, exitcode.Refused)
	}
	if _, err := os.Stat(lost.cfg.DataDir); err == nil {
		t.Error("the refused start made a data folder")
	}

	// Also when the intent is lost too and written again: the others know.
	removeAll(t, lost.cfg.StateDir+"/"+intentFile)
	lost.found(ms)
	lost.start()
	err = lost.wait()
	wantErr(t, err, ErrDataLost)
	mustPut(t, ms[1], "k", "the others go on")
}

// All start again at once, as after a power cut: nobody waits for the others'
// comparison, and the leader at the end loses no time with members that stop too.
func TestAllAtOnce(t *testing.T) {
	t.Parallel()
	ms, _, _ := tlsMasters(t, 3)
	startAll(ms)
	for _, m := range ms {
		m.stop()
	}
	for _, m := range ms {
		if err := m.wait(); err != nil {
			t.Errorf("stop %s: %v", m.cfg.Name, err)
		}
	}
	began := time.Now()
	for _, m := range ms {
		m.start()
	}
	for _, m := range ms {
		m.waitSaid("READY=1")
	}
	t.Logf("three members served again after %v", time.Since(began).Round(time.Millisecond))
}

// A member whose data were changed behind its back does not serve them.
func TestDamagedMemberServesNobody(t *testing.T) {
	t.Parallel()
	ms := newMasters(t, 3)
	startAll(ms)
	for _, m := range ms {
		mustPut(t, m, "some key", "some value")
	}
	bad := ms[1]
	if err := bad.stopNow(); err != nil {
		t.Fatal(err)
	}
	damage(t, bad.cfg.DataDir, "some value", "same value")
	bad.start()
	err := bad.wait()
	wantErr(t, err, ErrCorrupt)
	if code := exitcode.Of(err); code != exitcode.Refused {
		t.Errorf("exit code %d, want %d", code, exitcode.Refused)
	}
	if slices.Contains(bad.said(), "READY=1") {
		t.Error("it was ready")
	}
	mustPut(t, ms[0], "k", "the others go on")
}

// damage changes a value in a member's database.
func damage(t *testing.T, dataDir, from, to string) {
	t.Helper()
	db, err := bolt.Open(datadir.ToBackendFileName(dataDir), 0o600, &bolt.Options{Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	n := 0
	err = db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("key"))
		return b.ForEach(func(k, v []byte) error {
			if !bytes.Contains(v, []byte(from)) {
				return nil
			}
			n++
			return b.Put(k, bytes.ReplaceAll(v, []byte(from), []byte(to)))
		})
	})
	if err != nil || n == 0 {
		t.Fatalf("%d values changed, %v", n, err)
	}
}

func TestAdmission(t *testing.T) {
	m := &Member{}
	for method, before := range map[string]bool{
		"/etcdserverpb.Maintenance/Status": true, "/etcdserverpb.Cluster/MemberList": true, "/grpc.health.v1.Health/Check": true,
		"/etcdserverpb.KV/Range": false, "/etcdserverpb.KV/Put": false, "/etcdserverpb.Watch/Watch": false,
		"/etcdserverpb.Maintenance/Snapshot": false, "/etcdserverpb.Lease/LeaseKeepAlive": false, "/v3lockpb.Lock/Lock": false,
	} {
		m.admitted.Store(false)
		if got := m.admits(method); got != before {
			t.Errorf("%s before the comparison: %v, want %v", method, got, before)
		}
		m.admitted.Store(true)
		if !m.admits(method) {
			t.Errorf("%s is not admitted after it", method)
		}
	}
}

func TestRemovedMemberStaysOut(t *testing.T) {
	t.Parallel()
	ms := newMasters(t, 3)
	startAll(ms)
	leader := leaderOf(t, ms)
	gone := ms[slices.IndexFunc(ms, func(m *master) bool { return m != leader })]
	in, err := ReadIntent(gone.cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	id, _, err := in.ids()
	if err != nil {
		t.Fatal(err)
	}
	// etcd takes no change before its members have been connected for some time.
	cl := leader.client()
	testwait.For(t, "the removal", patience, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := cl.MemberRemove(ctx, id)
		return err
	})
	wantErr(t, gone.wait(), ErrRemoved)
	gone.start()
	wantErr(t, gone.wait(), ErrRemoved)
	if after, err := ReadIntent(gone.cfg.StateDir); err != nil || after.State != Removed {
		t.Errorf("the intent is %+v, %v; want it removed", after, err)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	t.Parallel()
	ms := newMasters(t, 1)
	startAll(ms)
	twin := &master{tb: t, cfg: ms[0].cfg}
	twin.start()
	err := twin.wait()
	wantErr(t, err, ErrInUse)
	if pid := fmt.Sprint(os.Getpid()); !strings.Contains(err.Error(), "process "+pid+" holds") {
		t.Errorf("the error %q does not name the process %s", err, pid)
	}

	// A foreign etcd knows nothing of our lock, but holds its own.
	twin.cfg.StateDir = t.TempDir()
	twin.start()
	wantErr(t, twin.wait(), ErrInUse)
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	ms := newMasters(t, 2)
	startAll(ms[:1])
	ms[1].cfg.ClientURL = ms[0].cfg.ClientURL
	ms[1].found(ms[1:])
	ms[1].start()
	err := ms[1].wait()
	if err == nil || !strings.Contains(err.Error(), "address already in use") || exitcode.Of(err) != exitcode.Failed {
		t.Fatalf("got %v, want that the address is in use", err)
	}
}

func TestLogSaysWhyTheProcessEnded(t *testing.T) {
	t.Parallel()
	m := newMaster(t, "m1")
	p := startOwnMember(t, m, nil)
	m.waitServing()
	// The disk is full: no file may grow any more.
	limit := syscall.Rlimit{Cur: 1 << 10, Max: 1 << 10}
	if err := prlimitFileSize(p.pid(), limit); err != nil {
		t.Fatal(err)
	}
	cl := m.client()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	value := strings.Repeat("x", 1<<20)
	for i := 0; ctx.Err() == nil && !p.ended(); i++ {
		wctx, done := context.WithTimeout(ctx, 2*time.Second)
		_, _ = cl.Put(wctx, fmt.Sprint("k", i), value)
		done()
	}
	code := p.wait()
	log := p.log()
	if code == 0 || code == exitcode.Refused {
		t.Errorf("exit code %d, want a failure", code)
	}
	if !strings.Contains(log, "file too large") {
		t.Errorf("the log does not name the cause; it ends in:\n%s", log[max(0, len(log)-2000):])
	}
}
