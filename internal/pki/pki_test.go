package pki

import (
	"bytes"
	"crypto/x509"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
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
