package etcdcluster

import (
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
)

// tlsMasters makes masters as the configuration describes them, with their real
// certificates, each under a folder of its own.
func tlsMasters(t *testing.T, n int) ([]*master, []layout.Layout, *config.Cluster) {
	t.Helper()
	c := config.Default()
	c.Name = "prod"
	for _, name := range []string{"m1", "m2", "m3"}[:n] {
		c.Masters = append(c.Masters, config.Master{Name: name, Address: etcdtest.Address(t)})
	}
	var ms []*master
	var ls []layout.Layout
	for i, m := range c.Masters {
		l := layout.Layout{Root: t.TempDir()}
		if err := l.MkdirAll(); err != nil {
			t.Fatal(err)
		}
		store, err := pki.New(pki.Config{Dir: l.PKI(), Cluster: c.Name})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			_, err = store.EnsureCAs()
		} else {
			_, err = pki.CopyCAs(ls[0].PKI(), l.PKI())
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.EnsureLeaves(pki.Leaves{Self: pki.Master{Name: m.Name, Address: m.Address}, ServiceIP: "10.96.0.1"}); err != nil {
			t.Fatal(err)
		}
		cfg, err := FromConfig(c, l, m.Name)
		if err != nil {
			t.Fatal(err)
		}
		cfg.NoFsync = true
		ms, ls = append(ms, &master{tb: t, cfg: cfg}), append(ls, l)
	}
	return ms, ls, c
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ms, ls, c := tlsMasters(t, 3)
	startAll(ms)
	good := ClientFiles(ls[0])
	client, err := pki.ClientTLS(pki.Files{Cert: good.Cert, Key: good.Key, CA: good.CA})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range observe(t.Context(), c.EtcdClientURLs(), client, patience) {
		if !m.Reachable || m.LeaderID == "" {
			t.Errorf("with the right certificate: %+v", m)
		}
	}

	// Nobody without a certificate of etcd's CA, and nothing older than TLS 1.3.
	bare := &tls.Config{RootCAs: client.RootCAs}
	old := client.Clone()
	old.MaxVersion = tls.VersionTLS12
	kube := client.Clone()
	kube.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		dir := ls[0].PKI()
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "apiserver-kubelet-client.crt"), filepath.Join(dir, "apiserver-kubelet-client.key"))
		return &pair, err
	}
	for name, conf := range map[string]*tls.Config{"no certificate": bare, "TLS 1.2": old, "a certificate of Kubernetes' CA": kube} {
		if m := Observe(t.Context(), c.EtcdClientURLs()[:1], conf)[0]; m.Reachable {
			t.Errorf("with %s: %+v", name, m)
		}
	}

	// A client's certificate is good at the clients' port only.
	if err := handshake(t, ms[0].cfg.ClientURL, client); err != nil {
		t.Errorf("the tool's certificate at the client port: %v", err)
	}
	if err := handshake(t, ms[0].cfg.PeerURL, client); err == nil {
		t.Error("the tool's certificate is taken at the peer port")
	}
	peer := client.Clone()
	peer.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(ms[1].cfg.PeerTLS.Cert, ms[1].cfg.PeerTLS.Key)
		return &pair, err
	}
	if err := handshake(t, ms[0].cfg.PeerURL, peer); err != nil {
		t.Errorf("a member's certificate at the peer port: %v", err)
	}

	// What lies there is a master's own affair.
	for path, want := range map[string]os.FileMode{
		ms[0].cfg.DataDir: 0o700, filepath.Join(ms[0].cfg.StateDir, intentFile): 0o600, filepath.Join(ms[0].cfg.StateDir, lockFile): 0o600,
	} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %v", path, fi.Mode(), err, want)
		}
	}
}

// handshake does TLS and then reads: with TLS 1.3 a server's refusal comes
// after the client is content.
func handshake(t *testing.T, to string, conf *tls.Config) error {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	conf = conf.Clone()
	conf.NextProtos = []string{"h2"}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", u.Host, conf)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return nil // it waits for us to speak
	}
	return err
}

func TestConfigIsChecked(t *testing.T) {
	files := TLSFiles{"c", "k", "a"}
	good := Config{
		Name: "m1", Cluster: "prod", DataDir: "/d", StateDir: "/s",
		ClientURL: "https://10.0.0.1:2379", PeerURL: "https://10.0.0.1:2380", ServerTLS: files, PeerTLS: files,
	}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for want, f := range map[string]func(*Config){
		"Name is missing":                       func(c *Config) { c.Name = "" },
		"Cluster is missing":                    func(c *Config) { c.Cluster = "" },
		"DataDir is missing":                    func(c *Config) { c.DataDir = "" },
		"StateDir is missing":                   func(c *Config) { c.StateDir = "" },
		"are the same folder":                   func(c *Config) { c.DataDir = c.StateDir },
		"ClientURL: \"\"":                       func(c *Config) { c.ClientURL = "" },
		"PeerURL: \"https://m1:2380\"":          func(c *Config) { c.PeerURL = "https://m1:2380" },
		"10.0.0.1 is not a loopback address":    func(c *Config) { c.PeerURL = "http://10.0.0.1:2380" },
		"nothing more":                          func(c *Config) { c.ClientURL += "/x" },
		"needs a certificate, a key and a CA":   func(c *Config) { c.PeerTLS.CA = "" },
		"MetricsURL: \"http://10.0.0.1:2381\"":  func(c *Config) { c.MetricsURL = "http://10.0.0.1:2381" },
		"only plain http on a loopback address": func(c *Config) { c.MetricsURL = "https://127.0.0.1:2381" },
		"Heartbeat 1µs: must be at least 1ms":   func(c *Config) { c.Heartbeat = time.Microsecond },
		"Election 400ms: must be at least 5":    func(c *Config) { c.Election = 400 * time.Millisecond },
		"Election 1m0s":                         func(c *Config) { c.Election = time.Minute },
		"Quota -1":                              func(c *Config) { c.Quota = -1 },
	} {
		c := good
		f(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func TestFromConfig(t *testing.T) {
	c := config.Default()
	c.Name = "prod"
	c.Masters = []config.Master{{Name: "m1", Address: "10.0.0.1"}, {Name: "m2", Address: "fd00::2"}}
	l := layout.Layout{Root: "/r"}
	cfg, err := FromConfig(c, l, "m2")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.ClientURL != "https://[fd00::2]:2379" || cfg.PeerURL != "https://[fd00::2]:2380" || cfg.MetricsURL != "http://127.0.0.1:2381" ||
		cfg.DataDir != "/r/var/lib/hactl/etcd" || cfg.PeerTLS.Cert != "/r/etc/kubernetes/pki/etcd/peer.crt" || cfg.Heartbeat != 100*time.Millisecond {
		t.Errorf("got %+v", cfg)
	}
	if _, err := New(cfg); err != nil {
		t.Errorf("what the configuration makes is refused: %v", err)
	}
	if _, err := FromConfig(c, l, "m9"); err == nil || !strings.Contains(err.Error(), `no master "m9"`) {
		t.Errorf("a name that is not there: %v", err)
	}
	if ps := Peers(c); len(ps) != 2 || ps[1] != (Peer{"m2", "https://[fd00::2]:2380"}) {
		t.Errorf("peers %v", ps)
	}
	in := NewIntent(c.Name, "m2", Peers(c))
	if err := in.validate(); err != nil {
		t.Errorf("the intent of these masters: %v", err)
	}
}
