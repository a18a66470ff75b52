package main

import (
	"context"
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
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// plane is an etcd and three real API servers.
type plane struct {
	o     options
	dir   string
	roots *x509.CertPool
	etcd  *proc
	url   string
	apis  [3]*proc
	addrs [3]string
}

func startPlane(ctx context.Context, o options) (*plane, error) {
	p := &plane{o: o, dir: filepath.Join(o.dir, "plane")}
	if err := errors.Join(os.Mkdir(p.dir, 0o755), p.makePKI()); err != nil {
		return nil, err
	}
	client, err1 := freePort()
	peer, err2 := freePort()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	p.url = fmt.Sprintf("http://127.0.0.1:%d", client)
	peerURL := fmt.Sprintf("http://127.0.0.1:%d", peer)
	var err error
	p.etcd, err = start(ctx, o.etcd, "--data-dir", filepath.Join(p.dir, "etcd"), "--log-level", "error", "--unsafe-no-fsync",
		"--listen-client-urls", p.url, "--advertise-client-urls", p.url,
		"--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL, "--initial-cluster", "default="+peerURL)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		p.stop()
		return nil, err
	}
	for i := range p.apis {
		p.addrs[i] = fmt.Sprintf("127.0.3.%d:%d", i+1, port)
		if err := p.startAPI(ctx, i); err != nil {
			p.stop()
			return nil, err
		}
		if err := p.waitReady(ctx, i); err != nil {
			p.stop()
			return nil, fmt.Errorf("API server %d: %w\n%s", i, err, tail(p.apis[i].out.String()))
		}
	}
	return p, nil
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

func (p *plane) startAPI(ctx context.Context, i int) (err error) {
	host, port, _ := net.SplitHostPort(p.addrs[i])
	f := func(name string) string { return filepath.Join(p.dir, name) }
	p.apis[i], err = start(ctx, filepath.Join(p.o.kube, "kube-apiserver"),
		"--etcd-servers="+p.url, "--bind-address="+host, "--secure-port="+port, "--advertise-address=10.99.0.1",
		"--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC",
		"--tls-cert-file="+f("api.crt"), "--tls-private-key-file="+f("api.key"),
		"--service-account-issuer=https://kubernetes", "--service-account-key-file="+f("api.key"), "--service-account-signing-key-file="+f("api.key"),
		"--shutdown-delay-duration=5s", "--goaway-chance=0", "--disable-admission-plugins=ServiceAccount", "--v=0")
	return err
}

func (p *plane) stop() {
	for _, a := range p.apis {
		if a != nil {
			_ = a.cmd.Process.Kill()
			_ = a.cmd.Wait()
		}
	}
	_ = p.etcd.cmd.Process.Kill()
	_ = p.etcd.cmd.Wait()
}

func (p *plane) tls() *tls.Config { return &tls.Config{RootCAs: p.roots, ServerName: "kubernetes"} }

func (p *plane) waitReady(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	c := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: p.tls(), DisableKeepAlives: true}}
	for {
		resp, err := c.Get("https://" + p.addrs[i] + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// makePKI writes ca.crt, api.crt and api.key.
func (p *plane) makePKI() error {
	caKey, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	key, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"}, DNSNames: []string{"kubernetes", "localhost"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(caDER)
	if err != nil {
		return err
	}
	p.roots = x509.NewCertPool()
	p.roots.AddCert(cert)
	write := func(name, kind string, der []byte) error {
		return os.WriteFile(filepath.Join(p.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
	}
	return errors.Join(write("ca.crt", "CERTIFICATE", caDER), write("api.crt", "CERTIFICATE", leafDER), write("api.key", "EC PRIVATE KEY", keyDER))
}
