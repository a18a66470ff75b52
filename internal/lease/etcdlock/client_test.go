package etcdlock

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/testwait"
)

func TestParseEndpoint(t *testing.T) {
	for raw, want := range map[string]struct {
		host   string
		secure bool
		bad    bool
		tls    bool
	}{
		"http://10.0.0.1:2379":   {host: "10.0.0.1:2379"},
		"https://10.0.0.1:2379":  {host: "10.0.0.1:2379", secure: true},
		"https://etcd.example/":  {host: "etcd.example:2379", secure: true},
		"10.0.0.1:2379":          {host: "10.0.0.1:2379"},
		"10.0.0.2:2379":          {host: "10.0.0.2:2379", secure: true, tls: true},
		"https://[fd00::1]:2379": {host: "[fd00::1]:2379", secure: true},
		"http://10.0.0.1:1":      {bad: true, tls: true}, // certificates that would not be used
		"ftp://10.0.0.1":         {bad: true},
		"http://":                {bad: true},
		"http://h/path":          {bad: true},
		"http://u:p@h":           {bad: true},
		"http://h:port":          {bad: true},
		"":                       {bad: true},
	} {
		host, secure, err := parseEndpoint(raw, want.tls)
		if (err != nil) != want.bad || (!want.bad && (host != want.host || secure != want.secure)) {
			t.Errorf("%q: %q %v %v", raw, host, secure, err)
		}
	}
	if _, err := Dial(Config{}); err == nil {
		t.Error("no endpoints")
	}
	_, err := Dial(Config{Endpoints: []string{"ftp://a", "http://ok", "http://"}})
	if err == nil || !strings.Contains(err.Error(), "ftp") || !strings.Contains(err.Error(), "no host") {
		t.Errorf("all faults at once: %v", err)
	}
}

// fake is a client whose endpoints are only names.
func fake(n int) *Client {
	c, err := Dial(Config{Endpoints: []string{"http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"}[:n], HedgeAfter: 20 * time.Millisecond})
	if err != nil {
		panic(err)
	}
	return c
}

func TestAskPrefersWhoAnswered(t *testing.T) {
	c := fake(3)
	defer c.Close()
	hang := func(ctx context.Context, ep *endpoint) (string, error) {
		if ep == c.endpoints[0] {
			<-ctx.Done()
			return "", ctx.Err()
		}
		return ep.name, nil
	}
	got, err := askOnce(t.Context(), c, hang)
	if err != nil || got != c.endpoints[1].name {
		t.Fatalf("got %q, %v", got, err)
	}
	if c.preferred.Load() != 1 {
		t.Errorf("prefers %d", c.preferred.Load())
	}
	calls := 0
	if _, err := askOnce(t.Context(), c, func(_ context.Context, ep *endpoint) (string, error) {
		calls++
		return ep.name, nil
	}); err != nil || calls != 1 {
		t.Errorf("%d calls, %v: one endpoint is enough when it answers", calls, err)
	}
}

func TestAskTellsWhatEachSaid(t *testing.T) {
	c := fake(3)
	defer c.Close()
	_, err := askOnce(t.Context(), c, func(_ context.Context, ep *endpoint) (string, error) {
		return "", status.Error(codes.Unavailable, "sick "+ep.name)
	})
	for _, ep := range c.endpoints {
		if err == nil || !strings.Contains(err.Error(), "sick "+ep.name) {
			t.Errorf("%v lacks %s", err, ep.name)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = askOnce(ctx, c, func(ctx context.Context, _ *endpoint) (string, error) { <-ctx.Done(); return "", ctx.Err() })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody answers: %v", err)
	}
}

func TestAskRetriesWhatMayMend(t *testing.T) {
	c := fake(1)
	defer c.Close()
	n := 0
	got, err := ask(t.Context(), c, true, func(context.Context, *endpoint) (int, error) {
		if n++; n < 3 {
			return 0, status.Error(codes.Unavailable, "no leader")
		}
		return n, nil
	})
	if err != nil || got != 3 {
		t.Errorf("got %d, %v", got, err)
	}
	n = 0
	_, err = ask(t.Context(), c, true, func(context.Context, *endpoint) (int, error) {
		n++
		return 0, status.Error(codes.PermissionDenied, "no")
	})
	if err == nil || n != 1 || !Refused(err) {
		t.Errorf("%d tries of what will not mend: %v", n, err)
	}
}

func TestTLSFiles(t *testing.T) {
	if cfg, err := (TLSFiles{}).Config(); cfg != nil || err != nil {
		t.Errorf("nothing named: %v, %v", cfg, err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]TLSFiles{
		"half a pair": {CertFile: empty}, "no CA": {CAFile: empty + "x"}, "empty CA": {CAFile: empty}, "empty pair": {CertFile: empty, KeyFile: empty},
	} {
		if _, err := f.Config(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// One member that is frozen costs one hedge, and then nothing.
func TestFrozenMember(t *testing.T) {
	cluster := etcdtest.StartProcesses(t, 3, etcdtest.Options{})
	c := dial(t, cluster)
	l, err := c.Lock("frozen")
	if err != nil {
		t.Fatal(err)
	}
	rec, err := l.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	held, err := l.Take(t.Context(), rec, claim("a"))
	if err != nil {
		t.Fatal(err)
	}
	frozen := cluster.Follower()
	for i, m := range cluster.Members {
		if m == frozen {
			c.preferred.Store(int32(i))
		}
	}
	frozen.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 5 {
		if err := held.Renew(ctx); err != nil {
			t.Fatalf("renew with one member frozen: %v", err)
		}
	}
	if cluster.Members[c.preferred.Load()] == frozen {
		t.Error("the frozen member is still preferred")
	}
	frozen.Resume()
	// And one that is a black hole: nobody ever answers there.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	h, err := Dial(Config{Endpoints: append([]string{"http://" + ln.Addr().String()}, cluster.Endpoints()...)})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Check(ctx); err != nil {
		t.Errorf("check with a black hole first: %v", err)
	}
}

func TestCandidates(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	c := dial(t, cluster)
	l, err := c.Lock("cands")
	if err != nil {
		t.Fatal(err)
	}
	first := Candidate{Name: "m1", Address: "10.0.0.1", ID: "one", Priority: 2, Host: "h", PID: 1, Since: time.Now()}
	p, err := l.Enlist(t.Context(), first, nil)
	if err != nil {
		t.Fatal(err)
	}
	second := first
	second.ID, second.Address = "two", "10.0.0.2"
	var taken *NameTakenError
	if _, err := l.Enlist(t.Context(), second, func(Candidate) bool { return true }); !errors.As(err, &taken) || taken.By.Address != "10.0.0.1" {
		t.Errorf("a twin: %v", err)
	}
	if _, err := l.Enlist(t.Context(), second, func(Candidate) bool { return false }); err != nil {
		t.Errorf("the successor of a dead process: %v", err)
	}
	waiting := func() []Candidate {
		info, err := Get(t.Context(), c, "cands", false)
		if err != nil {
			t.Fatal(err)
		}
		return info.Waiting
	}
	if w := waiting(); len(w) != 1 || w[0].ID != "two" {
		t.Errorf("waiting %+v", w)
	}
	if err := p.Withdraw(t.Context()); err != nil {
		t.Error(err)
	}
	// An entry that is lost is written again.
	third := Candidate{Name: "m3", ID: "three", Host: "h3"}
	q, err := l.Enlist(t.Context(), third, nil)
	if err != nil {
		t.Fatal(err)
	}
	for what, lose := range map[string]func() error{
		"its lease revoked": func() error { _, err := cluster.Client().Revoke(t.Context(), leaseID(q.lease)); return err },
		"its key deleted":   func() error { _, err := cluster.Client().Delete(t.Context(), Root+"cands/waiting/m3"); return err },
		"nothing lost":      func() error { return nil },
	} {
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		if err := q.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		testwait.For(t, "m3 to be listed again, "+what, 10*time.Second, func() error {
			for _, w := range waiting() {
				if w.Name == "m3" {
					return nil
				}
			}
			return errors.New("it is not")
		})
	}
}

// What a candidate holds is written when it changed, and only then.
func TestHeldIsWrittenOnce(t *testing.T) {
	c := dial(t, etcdtest.Start(t, 1, etcdtest.Options{}))
	l, err := c.Lock("cands")
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.Enlist(t.Context(), Candidate{Name: "m1", ID: "one"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	look := func() (held int, version int64) {
		t.Helper()
		resp, err := c.endpoints[0].kv.Range(t.Context(), &etcdserverpb.RangeRequest{Key: l.key(keyWaiting + "m1")})
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("%v, %v", resp, err)
		}
		cand, ok := parseCandidate(resp.Kvs[0])
		if !ok || cand.ID != "one" {
			t.Errorf("the entry is %s", resp.Kvs[0].Value)
		}
		return cand.Held, resp.Kvs[0].Version
	}
	for _, tc := range []struct {
		held   int
		writes int64
	}{{0, 1}, {2, 2}, {2, 2}, {1, 3}, {1, 3}, {0, 4}} {
		p.SetHeld(tc.held)
		if err := p.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if held, writes := look(); held != tc.held || writes != tc.writes {
			t.Errorf("held %d after %d writes, want %d after %d", held, writes, tc.held, tc.writes)
		}
	}
}

// One that waits for a dead host's entry to expire, as after a power cut of all,
// may wait for longer than its own lease lives.
func TestEnlistOutlivesItsLease(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	l, err := dial(t, cluster).Lock("cands")
	if err != nil {
		t.Fatal(err)
	}
	dead, err := l.Enlist(t.Context(), Candidate{Name: "m1", ID: "one", Host: "the boot before"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	enlisted := make(chan error, 1)
	go func() {
		p, err := l.Enlist(t.Context(), Candidate{Name: "m1", ID: "two", Host: "this boot"}, nil)
		if err == nil && p.lease == 0 {
			err = errors.New("without a lease")
		}
		enlisted <- err
	}()
	client := cluster.Client()
	testwait.For(t, "the successor's lease, to revoke it", 10*time.Second, func() error {
		leases, err := client.Leases(t.Context())
		if err != nil {
			return err
		}
		for _, s := range leases.Leases {
			if s.ID != leaseID(dead.lease) {
				_, err := client.Revoke(t.Context(), s.ID)
				return err
			}
		}
		return errors.New("it has none yet")
	})
	if err := dead.Withdraw(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-enlisted; err != nil {
		t.Fatal(err)
	}
}

// A name on another host may be a dead process': its entry is awaited. It stays, so
// the second one is refused, and told where the first one is.
func TestTwinOnAnotherHost(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	var said bytes.Buffer
	c, err := Dial(Config{Endpoints: cluster.Endpoints(), Logger: slog.New(slog.NewTextHandler(&said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := c.Lock("twins")
	if err != nil {
		t.Fatal(err)
	}
	first := Candidate{Name: "m1", Address: "10.0.0.1", ID: "one", Host: "h1", PID: 1, Since: time.Now()}
	p, err := l.Enlist(t.Context(), first, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	second := Candidate{Name: "m1", Address: "10.0.0.2", ID: "two", Host: "h2", PID: 1, Since: time.Now()}
	var taken *NameTakenError
	if _, err := l.Enlist(t.Context(), second, func(Candidate) bool { return false }); !errors.As(err, &taken) || taken.By.Address != "10.0.0.1" {
		t.Errorf("the second one: %v", err)
	}
	leases, err := cluster.Client().Leases(t.Context())
	if err != nil || len(leases.Leases) != 1 {
		t.Errorf("leases left behind: %+v, %v", leases, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the first one: %v", err)
	}
	if n := strings.Count(said.String(), "the name is taken"); n != 1 || !strings.Contains(said.String(), "10.0.0.1") {
		t.Errorf("told %d times why it waits: %s", n, said.String())
	}
}

func TestListAndParse(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	c := dial(t, cluster)
	for _, name := range []string{"b", "a"} {
		l, err := c.Lock(name)
		if err != nil {
			t.Fatal(err)
		}
		rec, err := l.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Take(t.Context(), rec, claim("m-"+name)); err != nil {
			t.Fatal(err)
		}
		for _, cand := range []Candidate{{Name: "m-" + name, ID: "1"}, {Name: "x", ID: "2"}, {Name: "y", ID: "3", Priority: 1}} {
			if _, err := l.Enlist(t.Context(), cand, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, serializable := range []bool{false, true} {
		infos, err := List(t.Context(), c, serializable)
		if err != nil || len(infos) != 2 || infos[0].Name != "a" || infos[1].Name != "b" {
			t.Fatalf("list: %+v, %v", infos, err)
		}
		i := infos[0]
		if i.Holder != "m-a" || i.Token == 0 || i.Beat != i.Token || i.TTL != 3*time.Second || i.Since.IsZero() {
			t.Errorf("%+v", i)
		}
		if len(i.Waiting) != 2 || i.Waiting[0].Name != "y" || i.Waiting[1].Name != "x" {
			t.Errorf("waiting %+v: by priority, without the holder", i.Waiting)
		}
	}
	if info, err := Get(t.Context(), c, "none", false); err != nil || info.Name != "" {
		t.Errorf("unknown: %+v, %v", info, err)
	}
	// A key of the user's own, and one that says in full what a name says.
	for _, key := range []string{"/my/lock/below", Root + "c", Root + "d/e"} {
		l, err := c.Lock(key)
		if err != nil {
			t.Fatal(err)
		}
		rec, err := l.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Take(t.Context(), rec, claim("m-"+key)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{key, key + "/", l.Name()} {
			if info, err := Get(t.Context(), c, name, false); err != nil || info.Name != l.Name() || info.Holder != "m-"+key {
				t.Errorf("%q: %+v, %v", name, info, err)
			}
		}
	}
	if info, err := Get(t.Context(), c, "/my/lock", false); err != nil || info.Name != "" {
		t.Errorf("what lies below it is another one: %+v, %v", info, err)
	}
	for _, bad := range []string{"", "/", "a/b", "-a", "a ", strings.Repeat("x", 201), "/hactl/singletons"} {
		if _, err := Prefix(bad); err == nil {
			t.Errorf("name %q is accepted", bad)
		}
	}
	for name, want := range map[string]string{"a": Root + "a/", "/my/lock": "/my/lock/", "/my/lock/": "/my/lock/"} {
		if got, err := Prefix(name); err != nil || got != want {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, err := range []error{errors.New("remote error: tls: bad certificate"), &tls.CertificateVerificationError{}} {
		if !Refused(err) {
			t.Errorf("%v may mend?", err)
		}
	}
	if Refused(errors.New("connection refused")) {
		t.Error("a refused connection may mend")
	}
}
