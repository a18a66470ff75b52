package pki

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// realStore is a set in today's time, for handshakes.
func realStore(t *testing.T) *Store {
	t.Helper()
	s, err := New(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s.write = fastWrite
	mustEnsure(t, s, t.TempDir())
	return s
}

func (s *Store) files(leaf, ca string) Files {
	return Files{Cert: s.file(leaf + ".crt"), Key: s.file(leaf + ".key"), CA: s.file(ca + ".crt")}
}

// shake connects a client to a server and passes one byte each way; it returns
// both sides' errors and what the client saw.
func shake(t *testing.T, server, client *tls.Config) (seen tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		conn := tls.Server(raw, server)
		if err := conn.HandshakeContext(t.Context()); err != nil {
			done <- err
			return
		}
		_, err = conn.Write([]byte{1})
		done <- err
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, client)
	// With TLS 1.3 a client learns of its refusal only when it reads.
	_, clientErr = io.ReadFull(conn, make([]byte, 1))
	serverErr = <-done
	return conn.ConnectionState(), serverErr, clientErr
}

func mustTLS(t *testing.T, f func(Files) (*tls.Config, error), files Files) *tls.Config {
	t.Helper()
	cfg, err := f(files)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestWhoMayTalk(t *testing.T) {
	s, other := realStore(t), realStore(t)
	masters := func(f Files) Files { f.Organization = OrgMasters; f.ServerName = "m1"; return f }
	agent := masters(s.files("hactl/agent", "etcd/ca"))
	noCert := masters(Files{CA: s.file("etcd/ca.crt")})
	named := func(f Files, name string) Files { f.ServerName = name; return f }
	cases := []struct {
		name           string
		server, client Files
		serverSays     string // "": accepted
		clientSays     string // part of the client's error
	}{
		{"an agent and the CLI", agent, masters(s.files("hactl/admin", "etcd/ca")), "", ""},
		{"two agents", agent, agent, "", ""},
		{"an agent by its address", agent, named(agent, "10.0.0.1"), "", ""},
		{"a client without a certificate", agent, noCert, "certificate", "tls"},
		{"a client without a certificate, of any organization", s.files("etcd/server", "etcd/ca"), Files{CA: s.file("etcd/ca.crt"), ServerName: "m1"}, "certificate", "tls"},
		{"a client that Kubernetes signed, with O=system:masters", agent, Files{Cert: s.file("apiserver-kubelet-client.crt"), Key: s.file("apiserver-kubelet-client.key"),
			CA: s.file("etcd/ca.crt"), ServerName: "m1"}, "unknown authority", "tls"},
		{"a client of etcd's CA that is no master", agent, named(s.files("etcd/healthcheck-client", "etcd/ca"), "m1"),
			"does not carry the organization hactl:masters", "tls"},
		{"a client of another cluster", agent, Files{Cert: other.file("hactl/admin.crt"), Key: other.file("hactl/admin.key"), CA: s.file("etcd/ca.crt"), ServerName: "m1"},
			"unknown authority", "tls"},
		{"a server that is no master", named(s.files("etcd/server", "etcd/ca"), ""), masters(s.files("hactl/admin", "etcd/ca")),
			"bad certificate", "does not carry the organization hactl:masters"},
		{"a server of another name", agent, named(agent, "m2"), "bad certificate", "m2"},
		{"a client certificate as server", s.files("hactl/admin", "etcd/ca"), agent, "bad certificate", "x509"},
		{"a server certificate as client", agent, Files{Cert: s.file("apiserver.crt"), Key: s.file("apiserver.key"), CA: s.file("etcd/ca.crt"), ServerName: "m1"}, "x509", "tls"},
		{"etcd and a client of its CA", s.files("etcd/server", "etcd/ca"), named(s.files("apiserver-etcd-client", "etcd/ca"), "10.0.0.1"), "", ""},
		{"the API server by its fixed name", s.files("apiserver", "ca"), Files{Cert: s.file("apiserver-kubelet-client.crt"), Key: s.file("apiserver-kubelet-client.key"),
			CA: s.file("ca.crt"), ServerName: APIServerName}, "", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			seen, serverErr, clientErr := shake(t, mustTLS(t, ServerTLS, c.server), mustTLS(t, ClientTLS, c.client))
			if c.serverSays == "" {
				if serverErr != nil || clientErr != nil || seen.Version < tls.VersionTLS12 {
					t.Fatalf("server %v, client %v, version %x", serverErr, clientErr, seen.Version)
				}
				return
			}
			if serverErr == nil || !strings.Contains(serverErr.Error(), c.serverSays) {
				t.Errorf("server: %v, want %q", serverErr, c.serverSays)
			}
			if clientErr == nil || !strings.Contains(clientErr.Error(), c.clientSays) {
				t.Errorf("client: %v, want %q", clientErr, c.clientSays)
			}
		})
	}
	t.Run("the refusal can be told", func(t *testing.T) {
		_, serverErr, _ := shake(t, mustTLS(t, ServerTLS, agent), mustTLS(t, ClientTLS, named(s.files("etcd/healthcheck-client", "etcd/ca"), "m1")))
		var peer *PeerError
		if !errors.As(serverErr, &peer) || peer.Want != OrgMasters || peer.Subject != "CN=hactl-etcd-client" {
			t.Errorf("%#v", serverErr)
		}
	})
	t.Run("old TLS", func(t *testing.T) {
		old := mustTLS(t, ClientTLS, agent)
		old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		if _, serverErr, _ := shake(t, mustTLS(t, ServerTLS, agent), old); serverErr == nil {
			t.Error("TLS 1.1 was accepted")
		}
	})
}

func TestRenewedCertificatesAreUsedWithoutRestart(t *testing.T) {
	s := realStore(t)
	f := s.files("hactl/agent", "etcd/ca")
	f.Organization, f.ServerName = OrgMasters, "m1"
	server, client := mustTLS(t, ServerTLS, f), mustTLS(t, ClientTLS, f)
	serials := func() (serverSerial, clientSerial string) {
		t.Helper()
		var fromClient string
		watched := server.Clone()
		inner := watched.GetConfigForClient
		watched.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := inner(h)
			if err == nil {
				verify := c.VerifyConnection
				c.VerifyConnection = func(cs tls.ConnectionState) error {
					fromClient = cs.PeerCertificates[0].SerialNumber.String()
					return verify(cs)
				}
			}
			return c, err
		}
		seen, serverErr, clientErr := shake(t, watched, client)
		if serverErr != nil || clientErr != nil {
			t.Fatal(serverErr, clientErr)
		}
		return seen.PeerCertificates[0].SerialNumber.String(), fromClient
	}
	check := func(what string) {
		t.Helper()
		want := leafCert(t, s, "hactl/agent").SerialNumber.String()
		if sv, cl := serials(); sv != want || cl != want {
			t.Errorf("%s: server shows %s, client %s, on disk is %s", what, sv, cl, want)
		}
	}
	check("at first")
	for _, newKeys := range []bool{false, true} {
		if _, err := s.Renew(Renewal{Names: []string{"hactl/agent"}, NewKeys: newKeys}); err != nil {
			t.Fatal(err)
		}
		check("renewed")
	}
	// Half renewed, or lost: the old pair serves.
	want := leafCert(t, s, "hactl/agent").SerialNumber.String()
	goodKey, goodCert := read(t, f.Key), read(t, f.Cert)
	for what, harm := range map[string]func(){
		"a new key, the old certificate": func() { copyFile(t, s.file("etcd/peer.key"), f.Key) },
		"no certificate":                 func() { remove(t, f.Cert) },
	} {
		harm()
		if sv, cl := serials(); sv != want || cl != want {
			t.Errorf("%s: server shows %s, client %s, want the old %s", what, sv, cl, want)
		}
		put(t, f.Key, goodKey)
		put(t, f.Cert, goodCert)
	}
	check("healed")
}

func TestServerTakesANewCA(t *testing.T) {
	s, other := realStore(t), realStore(t)
	f := s.files("hactl/agent", "etcd/ca")
	server := mustTLS(t, ServerTLS, f)
	client := mustTLS(t, ClientTLS, Files{Cert: other.file("hactl/admin.crt"), Key: other.file("hactl/admin.key"), CA: f.CA, ServerName: "m1"})
	if _, serverErr, _ := shake(t, server, client); serverErr == nil {
		t.Fatal("accepted before its CA was added")
	}
	if err := fastWrite(f.CA, []byte(read(t, f.CA)+read(t, other.file("etcd/ca.crt"))), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, serverErr, clientErr := shake(t, server, client); serverErr != nil || clientErr != nil {
		t.Errorf("with both CAs: %v, %v", serverErr, clientErr)
	}
}

func TestHTTP2(t *testing.T) {
	s := realStore(t)
	f := s.files("hactl/agent", "etcd/ca")
	f.Organization = OrgMasters
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	srv.TLS = mustTLS(t, ServerTLS, f)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	tr := &http.Transport{TLSClientConfig: mustTLS(t, ClientTLS, f), ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "HTTP/2.0" {
		t.Errorf("spoke %s", body)
	}
}

func TestTLSRefuses(t *testing.T) {
	s := realStore(t)
	good := s.files("hactl/agent", "etcd/ca")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name           string
		files          Files
		server, client string // in the error; "": none
	}{
		{"no CA", Files{Cert: good.Cert, Key: good.Key}, "needs Cert, Key and CA", "needs CA"},
		{"no certificate", Files{CA: good.CA}, "needs Cert, Key and CA", ""},
		{"CA missing", Files{Cert: good.Cert, Key: good.Key, CA: "/nonexistent"}, "/nonexistent", "/nonexistent"},
		{"CA empty", Files{Cert: good.Cert, Key: good.Key, CA: empty}, "no PEM certificate", "no PEM certificate"},
		{"key missing", Files{Cert: good.Cert, Key: "/nonexistent", CA: good.CA}, "/nonexistent", "/nonexistent"},
		{"key of another", Files{Cert: good.Cert, Key: s.file("etcd/peer.key"), CA: good.CA}, "does not match", "does not match"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for side, f := range map[string]func(Files) (*tls.Config, error){c.server: ServerTLS, c.client: ClientTLS} {
				_, err := f(c.files)
				if (err == nil) != (side == "") || err != nil && !strings.Contains(err.Error(), side) {
					t.Errorf("%v, want %q", err, side)
				}
			}
		})
	}
}
