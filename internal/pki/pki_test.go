package pki

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// clock is a time that a test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newStore(t *testing.T, dir string) (*Store, *clock) {
	t.Helper()
	c := &clock{start}
	s, err := New(Config{Dir: dir, Cluster: "prod", Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	s.write = fastWrite
	return s, c
}

// fastWrite is atomicfile.Write without waiting for the disk.
func fastWrite(path string, data []byte, perm fs.FileMode) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, perm); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func leavesOf(name string) Leaves {
	masters := []Master{{"m1", "10.0.0.1"}, {"m2", "10.0.0.2"}, {"m3", "10.0.0.3"}}
	l := Leaves{Masters: masters, ServiceIP: "10.96.0.1", SANs: []string{"k8s.example.com", "192.0.2.7"}}
	for _, m := range masters {
		if m.Name == name {
			l.Self = m
		}
	}
	return l
}

const server = "https://10.0.0.1:6443"

// ensureAll is what a master does at each start.
func ensureAll(s *Store, conf string) ([]Change, error) {
	a, err := s.EnsureCAs()
	if err != nil {
		return a, err
	}
	b, err := s.EnsureLeaves(leavesOf("m1"))
	if err != nil {
		return b, err
	}
	c, err := s.EnsureKubeconfigs(conf, server)
	return slices.Concat(a, b, c), err
}

func mustEnsure(t *testing.T, s *Store, conf string) []Change {
	t.Helper()
	changes, err := ensureAll(s, conf)
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

// tree reads every file below dir.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		files[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func leafCert(t *testing.T, s *Store, name string) *x509.Certificate {
	t.Helper()
	certs, err := readCerts(s.file(name + ".crt"))
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

func TestEnsureMakesTheWholeSetOnce(t *testing.T) {
	conf := t.TempDir()
	dir := filepath.Join(conf, "pki")
	s, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	changes := mustEnsure(t, s, conf)
	first := tree(t, conf)
	want := []string{"admin.conf", "scheduler.conf", "controller-manager.conf"}
	for _, f := range caFiles() {
		want = append(want, "pki/"+f)
	}
	for _, f := range leafNames {
		want = append(want, "pki/"+f+".key", "pki/"+f+".crt")
	}
	if got := slices.Sorted(maps.Keys(first)); !slices.Equal(got, sorted(want)) {
		t.Errorf("files %v\nwant %v", got, sorted(want))
	}
	if len(changes) != len(want) {
		t.Errorf("%d changes told, %d files made: %v", len(changes), len(want), changes)
	}
	if again := mustEnsure(t, s, conf); len(again) > 0 {
		t.Errorf("a second run changed %v", again)
	}
	if !maps.Equal(first, tree(t, conf)) {
		t.Error("a second run changed files without telling")
	}
}

func TestModes(t *testing.T) {
	conf := t.TempDir()
	dir := filepath.Join(conf, "pki")
	s, _ := newStore(t, dir)
	mustEnsure(t, s, conf)
	check := func() {
		t.Helper()
		err := filepath.WalkDir(conf, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == conf {
				return err
			}
			fi, err := d.Info()
			want := fs.FileMode(0o644)
			switch {
			case d.IsDir():
				want = 0o700
			case strings.HasSuffix(path, ".key") || strings.HasSuffix(path, ".conf"):
				want = 0o600
			}
			if err == nil && fi.Mode().Perm() != want {
				t.Errorf("%s is %04o, want %04o", path, fi.Mode().Perm(), want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	check()
	for _, p := range []string{"pki/ca.key", "pki/sa.key", "pki/etcd/peer.key", "admin.conf"} {
		if err := os.Chmod(filepath.Join(conf, p), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "etcd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if changes := mustEnsure(t, s, conf); len(changes) > 0 {
		t.Errorf("open files were made again, not closed: %v", changes)
	}
	check()
}

func TestWhatTheLeavesSay(t *testing.T) {
	conf := t.TempDir()
	s, _ := newStore(t, filepath.Join(conf, "pki"))
	mustEnsure(t, s, conf)
	own := []string{"127.0.0.1", "::1", "10.0.0.1", "localhost", "m1"}
	api := append([]string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "10.96.0.1",
		"m2", "m3", "10.0.0.2", "10.0.0.3", "k8s.example.com", "192.0.2.7"}, own...)
	cases := map[string]struct {
		ca, subject string
		usages      string
		names       []string
	}{
		"apiserver":                {"ca", "CN=kube-apiserver", "server", api},
		"apiserver-kubelet-client": {"ca", "CN=kube-apiserver-kubelet-client,O=system:masters", "client", nil},
		"apiserver-etcd-client":    {"etcd/ca", "CN=kube-apiserver-etcd-client", "client", nil},
		"front-proxy-client":       {"front-proxy-ca", "CN=front-proxy-client", "client", nil},
		"etcd/server":              {"etcd/ca", "CN=m1", "server client", own},
		"etcd/peer":                {"etcd/ca", "CN=m1", "server client", own},
		"etcd/healthcheck-client":  {"etcd/ca", "CN=hactl-etcd-client", "client", nil},
		"hactl/agent":              {"etcd/ca", "CN=m1,O=hactl:masters", "server client", own},
		"hactl/admin":              {"etcd/ca", "CN=hactl-admin,O=hactl:masters", "client", nil},
	}
	if len(cases) != len(leafNames) {
		t.Fatalf("%d cases for %d leaves", len(cases), len(leafNames))
	}
	for name, c := range cases {
		t.Run(strings.ReplaceAll(name, "/", "-"), func(t *testing.T) {
			cert := leafCert(t, s, name)
			if got := cert.Subject.String(); got != c.subject {
				t.Errorf("subject %s, want %s", got, c.subject)
			}
			if got := strings.Join(usageWords(cert.ExtKeyUsage), " "); got != c.usages {
				t.Errorf("usages %s, want %s", got, c.usages)
			}
			if got := sorted(append(slices.Clone(cert.DNSNames), addresses(cert)...)); !slices.Equal(got, sorted(c.names)) {
				t.Errorf("names %v, want %v", got, sorted(c.names))
			}
			if cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature {
				t.Errorf("CA %v, key usage %b", cert.IsCA, cert.KeyUsage)
			}
			if !cert.NotBefore.Equal(start.Add(-5*time.Minute)) || !cert.NotAfter.Equal(start.AddDate(1, 0, 0)) {
				t.Errorf("valid %s to %s", cert.NotBefore, cert.NotAfter)
			}
			for _, ca := range cas {
				err := cert.CheckSignatureFrom(leafCert(t, s, ca.name))
				if (err == nil) != (ca.name == c.ca) {
					t.Errorf("signed by %s: %v", ca.name, err)
				}
			}
		})
	}
	for _, ca := range cas {
		cert := leafCert(t, s, ca.name)
		if !cert.IsCA || !cert.MaxPathLenZero || !cert.NotAfter.Equal(start.Add(caLifetime)) || cert.Subject.String() != "CN="+ca.commonName+",O=prod" {
			t.Errorf("%s: CA %v, path %v, until %s, %s", ca.name, cert.IsCA, cert.MaxPathLenZero, cert.NotAfter, cert.Subject)
		}
	}
}

// Each way in which a leaf can be bad gets it issued again, and nothing else.
func TestEnsureIssuesAgainWhatIsBad(t *testing.T) {
	const name = "etcd/peer"
	cases := []struct {
		name string
		harm func(t *testing.T, s *Store, c *clock)
		why  string
		all  bool // it concerns every leaf
	}{
		{"certificate gone", func(t *testing.T, s *Store, _ *clock) { remove(t, s.file(name+".crt")) }, "missing", false},
		{"key gone", func(t *testing.T, s *Store, _ *clock) { remove(t, s.file(name+".key")) }, "missing", false},
		{"both gone", func(t *testing.T, s *Store, _ *clock) { remove(t, s.file(name+".key"), s.file(name+".crt")) }, "missing", false},
		{"certificate empty", func(t *testing.T, s *Store, _ *clock) { put(t, s.file(name+".crt"), "") }, "no PEM certificate", false},
		{"certificate garbage", func(t *testing.T, s *Store, _ *clock) {
			put(t, s.file(name+".crt"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
		}, "unreadable", false},
		{"key garbage", func(t *testing.T, s *Store, _ *clock) { put(t, s.file(name+".key"), "x") }, "no PEM private key", false},
		{"key of another", func(t *testing.T, s *Store, _ *clock) { copyFile(t, s.file("etcd/server.key"), s.file(name+".key")) }, "its key is another", false},
		{"certificate of another leaf", func(t *testing.T, s *Store, _ *clock) {
			copyFile(t, s.file("hactl/agent.key"), s.file(name+".key"))
			copyFile(t, s.file("hactl/agent.crt"), s.file(name+".crt"))
		}, "made out to CN=m1,O=hactl:masters", false},
		{"of another CA", func(t *testing.T, s *Store, _ *clock) {
			o, _ := newStore(t, t.TempDir())
			mustEnsure(t, o, t.TempDir())
			copyFile(t, o.file(name+".key"), s.file(name+".key"))
			copyFile(t, o.file(name+".crt"), s.file(name+".crt"))
		}, "not signed by etcd/ca.crt", false},
		{"soon expiring", func(_ *testing.T, _ *Store, c *clock) { c.t = start.Add(leafLifetime - 29*24*time.Hour) }, "expires 2027-11-22", true},
		{"expired", func(_ *testing.T, _ *Store, c *clock) { c.t = start.Add(leafLifetime + time.Second) }, "expired 2027-11-22", true},
		{"from the future", func(_ *testing.T, _ *Store, c *clock) { c.t = start.Add(-4 * time.Minute) }, "", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, clk := newStore(t, t.TempDir())
			conf := t.TempDir()
			mustEnsure(t, s, conf)
			c.harm(t, s, clk)
			changes, err := s.EnsureLeaves(leavesOf("m1"))
			if err != nil {
				t.Fatal(err)
			}
			if c.why == "" {
				if len(changes) > 0 {
					t.Errorf("changed %v", changes)
				}
				return
			}
			for _, ch := range changes {
				if !strings.Contains(ch.Why, c.why) {
					t.Errorf("%s: %q, want %q", ch.File, ch.Why, c.why)
				}
				if !c.all && !strings.HasPrefix(ch.File, s.file(name)) {
					t.Errorf("%s was changed too", ch.File)
				}
			}
			if want := len(leafNames); c.all && len(changes) != want || len(changes) == 0 {
				t.Errorf("%d changes: %v", len(changes), changes)
			}
			if again, err := s.EnsureLeaves(leavesOf("m1")); err != nil || len(again) > 0 {
				t.Errorf("once more: %v, %v", again, err)
			}
		})
	}
}

func TestNewNamesAreIssued(t *testing.T) {
	s, _ := newStore(t, t.TempDir())
	mustEnsure(t, s, t.TempDir())
	key := read(t, s.file("apiserver.key"))
	l := leavesOf("m1")
	l.Masters = append(l.Masters, Master{"m4", "10.0.0.4"})
	changes, err := s.EnsureLeaves(l)
	if err != nil || len(changes) != 1 || changes[0] != (Change{s.file("apiserver.crt"), "made out to other names"}) {
		t.Fatalf("%v, %v; want only the API server's certificate", changes, err)
	}
	if err := leafCert(t, s, "apiserver").VerifyHostname("10.0.0.4"); err != nil {
		t.Error(err)
	}
	if read(t, s.file("apiserver.key")) != key {
		t.Error("the key changed; a renewal should replace one file")
	}
}

// A leaf that lives as long as its CA is not issued again and again.
func TestLeafAtTheEndOfItsCA(t *testing.T) {
	s, clk := newStore(t, t.TempDir())
	mustEnsure(t, s, t.TempDir())
	clk.t = start.Add(caLifetime - 10*24*time.Hour)
	if changes, err := s.EnsureLeaves(leavesOf("m1")); err != nil || len(changes) != len(leafNames) {
		t.Fatalf("%v, %v", changes, err)
	}
	if got := leafCert(t, s, "etcd/peer").NotAfter; !got.Equal(start.Add(caLifetime)) {
		t.Errorf("valid until %s, beyond its CA", got)
	}
	if changes, err := s.EnsureLeaves(leavesOf("m1")); err != nil || len(changes) > 0 {
		t.Errorf("issued again: %v, %v", changes, err)
	}
	clk.t = start.Add(caLifetime + time.Second)
	_, err := s.EnsureLeaves(leavesOf("m1"))
	if exitcode.Of(err) != exitcode.Refused || !strings.Contains(err.Error(), "it expired on 2036-11-19") {
		t.Errorf("after the CA's end: %v", err)
	}
}

func TestEnsureCAsRefusesABrokenSet(t *testing.T) {
	cases := []struct {
		name string
		harm func(t *testing.T, s *Store)
		want string // in the error
		hint string
	}{
		{"CA certificate gone", func(t *testing.T, s *Store) { remove(t, s.file("ca.crt")) }, "ca.crt is missing", "another master"},
		{"CA key gone", func(t *testing.T, s *Store) { remove(t, s.file("etcd/ca.key")) }, "etcd/ca.key is missing", "another master"},
		{"a whole CA gone", func(t *testing.T, s *Store) { remove(t, s.file("etcd/ca.key"), s.file("etcd/ca.crt")) }, "etcd/ca.key, etcd/ca.crt are missing", "another master"},
		{"service account key gone", func(t *testing.T, s *Store) { remove(t, s.file("sa.key")) }, "sa.key is missing", "another master"},
		{"all CAs gone, leaves left", func(t *testing.T, s *Store) {
			for _, f := range caFiles() {
				remove(t, s.file(f))
			}
		}, "etcd/peer.crt", "remove that folder"},
		{"CA certificate empty", func(t *testing.T, s *Store) { put(t, s.file("ca.crt"), "") }, "ca.crt cannot be used", "copy"},
		{"CA key cut", func(t *testing.T, s *Store) { put(t, s.file("ca.key"), read(t, s.file("ca.key"))[:80]) }, "ca.key cannot be used", "copy"},
		{"CA key of another", func(t *testing.T, s *Store) { copyFile(t, s.file("etcd/ca.key"), s.file("ca.key")) }, "does not fit the key", "ca.crt"},
		{"a leaf as CA", func(t *testing.T, s *Store) {
			copyFile(t, s.file("apiserver.crt"), s.file("ca.crt"))
			copyFile(t, s.file("apiserver.key"), s.file("ca.key"))
		}, "not a CA", "ca.crt"},
		{"service account key garbage", func(t *testing.T, s *Store) { put(t, s.file("sa.key"), "x") }, "sa.key cannot be used", "copy"},
		{"public key of another", func(t *testing.T, s *Store) { put(t, s.file("sa.pub"), "x") }, "sa.pub cannot be used", "copy"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, _ := newStore(t, t.TempDir())
			mustEnsure(t, s, t.TempDir())
			c.harm(t, s)
			before := tree(t, s.dir)
			_, err := s.EnsureCAs()
			var coded *exitcode.Error
			if !errors.As(err, &coded) || coded.Code != exitcode.Refused || !strings.Contains(err.Error(), c.want) || !strings.Contains(coded.Hint, c.hint) {
				t.Errorf("%v, hint %q; want a refusal with %q and %q", err, coded.Hint, c.want, c.hint)
			}
			if !maps.Equal(before, tree(t, s.dir)) {
				t.Error("the refusal changed files")
			}
		})
	}
}

func TestPublicKeyIsMadeAgain(t *testing.T) {
	s, _ := newStore(t, t.TempDir())
	mustEnsure(t, s, t.TempDir())
	want := read(t, s.file("sa.pub"))
	remove(t, s.file("sa.pub"))
	if changes := mustEnsure(t, s, t.TempDir()); changes[0].File != s.file("sa.pub") || read(t, s.file("sa.pub")) != want {
		t.Errorf("%v", changes)
	}
}

func TestClockBehindTheCA(t *testing.T) {
	s, clk := newStore(t, t.TempDir())
	mustEnsure(t, s, t.TempDir())
	clk.t = start.Add(-time.Hour)
	_, err := s.EnsureCAs()
	if err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("%v; want one that names the clock", err)
	}
}

// errCut stands for the loss of power.
var errCut = errors.New("cut")

// The power fails at each write in turn, before it and after it; the next run
// completes the set, and what was written before the cut stays.
func TestCutAtEachWrite(t *testing.T) {
	prepared := t.TempDir()
	s, _ := newStore(t, filepath.Join(prepared, "pki"))
	mustEnsure(t, s, prepared)
	scenarios := map[string]struct {
		from string
		at   time.Time
		lose []string // files' endings
	}{
		"first making":      {"", start, nil},
		"leaves expired":    {prepared, start.Add(leafLifetime + time.Hour), nil},
		"leaves' keys lost": {prepared, start, leafNames},
	}
	for name, sc := range scenarios {
		t.Run(name, func(t *testing.T) {
			for n := 0; ; n++ {
				for _, after := range []bool{false, true} {
					conf := t.TempDir()
					if sc.from != "" {
						if err := os.CopyFS(conf, os.DirFS(sc.from)); err != nil {
							t.Fatal(err)
						}
					}
					s, clk := newStore(t, filepath.Join(conf, "pki"))
					clk.t = sc.at
					for _, l := range sc.lose {
						remove(t, s.file(l+".key"))
					}
					if done := cutAt(t, s, conf, n, after); done {
						if n == 0 {
							t.Fatal("nothing was written at all")
						}
						return
					}
				}
			}
		})
	}
}

// cutAt fails write n and all later ones, checks the next run's repair, and
// tells whether there was no write n.
func cutAt(t *testing.T, s *Store, conf string, n int, after bool) (done bool) {
	t.Helper()
	writes := 0
	s.write = func(path string, data []byte, perm fs.FileMode) error {
		writes++
		if writes <= n || after && writes == n+1 {
			if err := fastWrite(path, data, perm); err != nil || writes <= n {
				return err
			}
		}
		// A temporary file is left behind, as by a real cut.
		put(t, filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp-123"), string(data[:len(data)/2]))
		return errCut
	}
	_, err := ensureAll(s, conf)
	if writes <= n {
		if err != nil {
			t.Fatal(err)
		}
		return true
	}
	if !errors.Is(err, errCut) {
		t.Fatalf("cut %d: %v", n, err)
	}
	before := tree(t, s.dir)
	s.write = fastWrite
	mustEnsure(t, s, conf)
	if again := mustEnsure(t, s, conf); len(again) > 0 {
		t.Errorf("cut %d: not whole after one run: %v", n, again)
	}
	now := tree(t, conf)
	for _, f := range caFiles() {
		if old, ok := before[f]; ok && old != now["pki/"+f] {
			t.Errorf("cut %d: %s was made a second time", n, f)
		}
	}
	for f := range now {
		if strings.Contains(f, "tmp-") || strings.Contains(f, makingMark) {
			t.Errorf("cut %d: %s is left", n, f)
		}
	}
	return false
}

func TestConcurrentEnsureMakesOneSet(t *testing.T) {
	dir, conf := t.TempDir(), t.TempDir()
	const n = 4
	errs := make(chan error, n)
	for range n {
		s, err := New(Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := ensureAll(s, conf)
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	s, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if changes := mustEnsure(t, s, conf); len(changes) > 0 {
		t.Errorf("not whole: %v", changes)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no folder":         {},
		"negative lead":     {Dir: "/x", RenewBefore: -1},
		"lead as long as a": {Dir: "/x", RenewBefore: leafLifetime},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	s, _ := newStore(t, t.TempDir())
	if _, err := s.EnsureLeaves(Leaves{Self: Master{Address: "x"}, ServiceIP: ""}); err == nil ||
		!strings.Contains(err.Error(), "Self.Name") || !strings.Contains(err.Error(), "Self.Address") || !strings.Contains(err.Error(), "ServiceIP") {
		t.Errorf("%v; want all three", err)
	}
}

func remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.Clone(data))
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	put(t, to, read(t, from))
}
