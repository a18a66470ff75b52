package pki

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestKubeconfigsWork(t *testing.T) {
	s := realStore(t)
	conf := t.TempDir()
	if _, err := s.EnsureKubeconfigs(conf, server); err != nil {
		t.Fatal(err)
	}
	for file, subject := range map[string]string{
		"admin":              "CN=kubernetes-admin,O=system:masters",
		"scheduler":          "CN=system:kube-scheduler",
		"controller-manager": "CN=system:kube-controller-manager",
	} {
		data := []byte(read(t, filepath.Join(conf, file+".conf")))
		k, err := ParseKubeconfig(data)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := parseCerts(k.Cert)
		if err != nil {
			t.Fatal(err)
		}
		key, err := parseKey(k.Key)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(k.CA)
		_, err = certs[0].Verify(x509.VerifyOptions{Roots: pool, KeyUsages: clientOnly})
		if err != nil || certs[0].Subject.String() != subject || !fits(certs[0], key) || k.Server != server || k.Cluster != "kubernetes" {
			t.Errorf("%s: %v, %s, fits %v, %s, %s", file, err, certs[0].Subject, fits(certs[0], key), k.Server, k.Cluster)
		}
	}
}

func TestKubeconfigsAreWrittenAgain(t *testing.T) {
	cases := []struct {
		name   string
		harm   func(t *testing.T, s *Store, c *clock, admin string)
		server string
		why    string
		files  int
	}{
		{"gone", func(t *testing.T, _ *Store, _ *clock, admin string) { remove(t, admin) }, server, "missing", 1},
		{"garbage", func(t *testing.T, _ *Store, _ *clock, admin string) { put(t, admin, "a: [") }, server, "unreadable", 1},
		{"empty", func(t *testing.T, _ *Store, _ *clock, admin string) { put(t, admin, "") }, server, "unreadable", 1},
		{"another's", func(t *testing.T, _ *Store, _ *clock, admin string) {
			copyFile(t, filepath.Join(filepath.Dir(admin), "scheduler.conf"), admin)
		}, server, "made out to system:kube-scheduler@prod", 1},
		{"another server", func(*testing.T, *Store, *clock, string) {}, "https://k8s.example.com:443", "its server is " + server, 3},
		{"expired", func(_ *testing.T, _ *Store, c *clock, _ string) { c.t = start.Add(leafLifetime + 1) }, server, "expired", 3},
		{"a new CA beside the old", func(t *testing.T, s *Store, _ *clock, _ string) {
			o, _ := newStore(t, t.TempDir())
			mustEnsure(t, o, t.TempDir())
			put(t, s.file("ca.crt"), read(t, s.file("ca.crt"))+read(t, o.file("ca.crt")))
		}, server, "its CA is another", 3},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			conf := t.TempDir()
			s, clk := newStore(t, filepath.Join(conf, "pki"))
			mustEnsure(t, s, conf)
			admin := filepath.Join(conf, "admin.conf")
			c.harm(t, s, clk, admin)
			changes, err := s.EnsureKubeconfigs(conf, c.server)
			if err != nil || len(changes) != c.files {
				t.Fatalf("%v, %v; want %d files", changes, err, c.files)
			}
			for _, ch := range changes {
				if !strings.Contains(ch.Why, c.why) {
					t.Errorf("%s: %s, want %s", ch.File, ch.Why, c.why)
				}
			}
			if fi, err := os.Stat(admin); err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", fi.Mode(), err)
			}
			if again, err := s.EnsureKubeconfigs(conf, c.server); err != nil || len(again) > 0 {
				t.Errorf("once more: %v, %v", again, err)
			}
		})
	}
}

func TestKubeconfigServerMustBeAURL(t *testing.T) {
	s, _ := newStore(t, t.TempDir())
	mustEnsure(t, s, t.TempDir())
	for _, bad := range []string{"", "10.0.0.1:6443", "http://10.0.0.1:6443", "https://", ":"} {
		if _, err := s.EnsureKubeconfigs(t.TempDir(), bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestKubeconfigRoundTrip(t *testing.T) {
	want := Kubeconfig{Cluster: "prod", User: "kubernetes-admin", Server: server, CA: []byte("ca"), Cert: []byte("cert"), Key: []byte("key")}
	data, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte("current-context: kubernetes-admin@prod\n")) {
		t.Errorf("%s", data)
	}
	if got, err := ParseKubeconfig(data); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "x", "[]", strings.Replace(string(data), "server:", "proxy:", 1), strings.Replace(string(data), "user: kubernetes", "user: x", 1),
		strings.Replace(string(data), "client-key-data: ", "client-key-data: '!'#", 1)} {
		if got, err := ParseKubeconfig([]byte(bad)); err == nil {
			t.Errorf("%q: read as %+v", bad, got)
		}
	}
}

func FuzzParseKubeconfig(f *testing.F) {
	good, _ := Kubeconfig{Cluster: "c", User: "u", Server: server, CA: []byte("1"), Cert: []byte("2"), Key: []byte("3")}.Marshal()
	f.Add(good)
	f.Add([]byte("contexts: [{}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := ParseKubeconfig(data)
		if err != nil {
			return
		}
		text, err := k.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseKubeconfig(text); err != nil || !reflect.DeepEqual(again, k) {
			t.Errorf("%+v was written as %+v, %v", k, again, err)
		}
	})
}
