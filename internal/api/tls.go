package api

import (
	"crypto/tls"
	"path/filepath"

	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
)

// Organization is what a client's certificate must name to be let in, and what
// the server's must name to be believed.
const Organization = pki.OrgMasters

// ServerTLS is the agent's side of a master's files: any client of the etcd CA
// passes the handshake, so that the Server can tell those that are no masters
// why they are refused. The files are read again when they change.
func ServerTLS(l layout.Layout) (*tls.Config, error) {
	return serverTLS(files(l, "agent"))
}

func serverTLS(f pki.Files) (*tls.Config, error) {
	cfg, err := pki.ServerTLS(f)
	if err != nil {
		return nil, err
	}
	each := cfg.GetConfigForClient
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := each(hello)
		if err != nil {
			return nil, err
		}
		strict(c)
		return c, nil
	}
	strict(cfg)
	return cfg, nil
}

// strict: both sides are ours, so nothing old has to be spoken; and HTTP/2 would
// hide from a client why its handshake failed.
func strict(c *tls.Config) {
	c.MinVersion = tls.VersionTLS13
	c.NextProtos = []string{"http/1.1"}
}

// ClientTLS is the CLI's side: its certificate is the admin's, and the server
// must be the master with the given name or address.
func ClientTLS(l layout.Layout, serverName string) (*tls.Config, error) {
	f := files(l, "admin")
	f.ServerName = serverName
	return clientTLS(f)
}

func clientTLS(f pki.Files) (*tls.Config, error) {
	f.Organization = Organization
	cfg, err := pki.ClientTLS(f)
	if err != nil {
		return nil, err
	}
	strict(cfg)
	return cfg, nil
}

func files(l layout.Layout, name string) pki.Files {
	dir := l.PKI()
	return pki.Files{
		Cert: filepath.Join(dir, "hactl", name+".crt"),
		Key:  filepath.Join(dir, "hactl", name+".key"),
		CA:   filepath.Join(dir, "etcd", "ca.crt"),
	}
}
