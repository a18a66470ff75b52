//go:build faults

package lb

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/process"
	"github.com/hactl/hactl/internal/testwait"
)

// patience is how long anything may take on a slow machine.
const patience = 3 * time.Minute

// plane is an etcd and three real API servers.
type plane struct {
	t     *testing.T // of all faults
	dir   string
	etcd  *etcdtest.Cluster
	apis  [3]*apiServer
	roots *x509.CertPool
	admin tls.Certificate
}

// apiServer is one kube-apiserver, alone on its address.
type apiServer struct {
	p    *plane
	name string
	addr string
	log  *os.File
	proc *process.Process
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	p := &plane{t: t, dir: t.TempDir()}
	p.etcd = etcdtest.StartProcesses(t, 1, etcdtest.Options{})
	p.makePKI()
	for i := range p.apis {
		name := fmt.Sprintf("m%d", i+1)
		log, err := os.Create(filepath.Join(p.dir, name+".log"))
		if err != nil {
			t.Fatal(err)
		}
		a := &apiServer{p: p, name: name, addr: fmt.Sprintf("127.0.4.%d", i+1), log: log}
		p.apis[i] = a
		a.start()
		t.Cleanup(func() {
			_ = a.proc.Kill()
			a.proc.Wait()
			if t.Failed() {
				t.Logf("end of the log of %s:\n%s", a.name, tail(log.Name(), 3<<10))
			}
			log.Close()
		})
		if i == 0 {
			a.waitReady(t) // it makes what the others find
		}
	}
	for _, a := range p.apis {
		a.waitReady(t)
	}
	return p
}

func tail(path string, most int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-most):])
}

func (a *apiServer) hostPort() string { return a.addr + ":6443" }

func (a *apiServer) start() {
	t, f := a.p.t, func(name string) string { return filepath.Join(a.p.dir, name) }
	t.Helper()
	var err error
	a.proc, err = process.Start(process.Config{
		Path: program(t, "bin/kube/kube-apiserver", "make kube"),
		Args: []string{
			"--etcd-servers=" + strings.Join(a.p.etcd.Endpoints(), ","), "--bind-address=" + a.addr, "--secure-port=6443",
			"--advertise-address=10.99.0.1", "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.96.0.0/16",
			"--authorization-mode=RBAC", "--client-ca-file=" + f("ca.crt"),
			"--tls-cert-file=" + f("api.crt"), "--tls-private-key-file=" + f("api.key"),
			"--service-account-issuer=https://kubernetes", "--service-account-key-file=" + f("api.key"), "--service-account-signing-key-file=" + f("api.key"),
			"--shutdown-delay-duration=5s", "--goaway-chance=0", "--disable-admission-plugins=ServiceAccount", "--v=0",
		},
		Stdout: a.log, Stderr: a.log,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (a *apiServer) signal(s syscall.Signal) {
	a.p.t.Helper()
	if err := a.proc.Signal(s); err != nil {
		a.p.t.Fatalf("%v to %s: %v", s, a.name, err)
	}
}

// restart starts it after its end, and returns when it serves.
func (a *apiServer) restart(t *testing.T) {
	t.Helper()
	a.proc.Wait()
	a.start()
	a.waitReady(t)
}

// waitReady asks the server itself, not through a balancer. On a starved machine
// kube-apiserver gives up while it starts; as a unit it would be started again.
func (a *apiServer) waitReady(t *testing.T) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: a.p.tls(), DisableKeepAlives: true}
	c := &http.Client{Timeout: 5 * time.Second, Transport: tr}
	starts := 1
	testwait.For(t, a.name+" to be ready", patience, func() error {
		if err := a.proc.Err(); err != nil {
			if starts++; starts > 3 {
				t.Fatalf("%s ended: %v\n%s", a.name, err, tail(a.log.Name(), 3<<10))
			}
			t.Logf("%s ended while it started (%v), and is started again", a.name, err)
			a.start()
		}
		resp, err := c.Get("https://" + a.hostPort() + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// cutOff drops every packet to and from the server's address; mend takes it back.
func (a *apiServer) cutOff(t *testing.T) (mend func()) {
	t.Helper()
	nft(t, fmt.Sprintf(`table ip hole { chain in { type filter hook input priority 0; ip daddr %[1]s drop; ip saddr %[1]s drop; }; }`, a.addr))
	return func() { nft(t, "delete table ip hole") }
}

func nft(t *testing.T, rules string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s\n%s", err, out, rules)
	}
}

// tls is an administrator's client configuration.
func (p *plane) tls() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: p.roots, ServerName: "kubernetes", Certificates: []tls.Certificate{p.admin}}
}

// makePKI writes ca.crt, api.crt and api.key, and makes an administrator.
func (p *plane) makePKI() {
	p.t.Helper()
	ca := newAuthority(p.t)
	p.roots = ca.pool()
	api := ca.leaf(p.t, pkix.Name{CommonName: "kube-apiserver"}, "kubernetes", "localhost")
	p.admin = ca.leaf(p.t, pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	keyDER, err := x509.MarshalECPrivateKey(api.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		p.t.Fatal(err)
	}
	writePEM(p.t, filepath.Join(p.dir, "ca.crt"), "CERTIFICATE", ca.cert.Raw)
	writePEM(p.t, filepath.Join(p.dir, "api.crt"), "CERTIFICATE", api.Certificate[0])
	writePEM(p.t, filepath.Join(p.dir, "api.key"), "EC PRIVATE KEY", keyDER)
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// authority is a CA for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	return &authority{cert: sign(t, tmpl, tmpl, &key.PublicKey, key), key: key, next: 2}
}

// leaf signs a certificate for servers and clients.
func (a *authority) leaf(t *testing.T, subject pkix.Name, names ...string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: subject, DNSNames: names, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore:   a.cert.NotBefore, NotAfter: a.cert.NotAfter,
	}
	a.next++
	cert := sign(t, tmpl, a.cert, &key.PublicKey, a.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, tmpl, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
