package collect

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/lb"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/child"
)

// errNotRunning is why a part of this machine tells nothing.
var errNotRunning = errors.New("not running")

// Local reads what one master's own sockets and files tell, without its agent.
type Local struct {
	Layout layout.Layout
	// Manager supervises the processes; nil: hactl's own supervisor at the
	// layout's socket.
	Manager workload.Manager
}

// Sources are those of l that a Node needs.
func (l Local) Sources() Sources {
	return Sources{Processes: l.Processes, Balancer: l.Balancer, Certificates: l.Certificates}
}

// Processes asks the supervisor.
func (l Local) Processes(ctx context.Context) ([]status.Process, error) {
	m := l.Manager
	if m == nil {
		m = child.NewClient(l.Layout.SupervisorSocket())
	}
	return Processes(m)(ctx)
}

// Balancer asks the balancer at its admin socket.
func (l Local) Balancer(ctx context.Context) (*status.LocalLB, error) {
	s, err := lb.NewClient(l.Layout.LBAdminSocket()).Status(ctx)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil, errNotRunning
	}
	if err != nil {
		return nil, err
	}
	out := &status.LocalLB{Backends: []status.Backend{}, Connections: int(s.Counts.Open)}
	for _, b := range s.Backends {
		k := status.Backend{Name: b.Name, Address: b.Address, State: b.State.String(), Connections: int(b.Connections)}
		switch {
		case b.Removed:
			k.State = status.BackendRemoved
		case b.Drained:
			k.State = status.BackendDrained
		case b.Distrusted:
			k.State = "distrusted"
		}
		if k.State != status.BackendReady {
			k.Why = b.Why
		}
		out.Backends = append(out.Backends, k)
	}
	return out, nil
}

// Certificates reads the files of the master, those of the CAs included, and
// the client certificates inside its kubeconfigs.
func (l Local) Certificates(context.Context) ([]status.Certificate, error) {
	store, err := pki.New(pki.Config{Dir: l.Layout.PKI()})
	if err != nil {
		return nil, err
	}
	certs, err := store.Certs(l.Layout.Kubeconfig("admin"), l.Layout.Kubeconfig("scheduler"), l.Layout.Kubeconfig("controller-manager"))
	if err != nil {
		return nil, err
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("no certificate in %s", l.Layout.PKI())
	}
	all := make([]status.Certificate, len(certs))
	for i, c := range certs {
		all[i] = status.Certificate{
			File: l.short(c.File), Subject: commonName(c.Subject), NotBefore: c.NotBefore, NotAfter: c.NotAfter, Error: oneLine(c.Problem),
		}
	}
	return all, nil
}

// short is a file's path below the folder of certificates, or below the one of
// kubeconfigs.
func (l Local) short(file string) string {
	for _, dir := range []string{l.Layout.PKI(), l.Layout.Kubernetes()} {
		if rel, err := filepath.Rel(dir, file); err == nil && !strings.HasPrefix(rel, "..") {
			return rel
		}
	}
	return file
}

// commonName takes the CN out of a subject such as "CN=m1,O=hactl:masters".
func commonName(subject string) string {
	for part := range strings.SplitSeq(subject, ",") {
		if cn, ok := strings.CutPrefix(strings.TrimSpace(part), "CN="); ok {
			return cn
		}
	}
	return subject
}

// Locals finds out which of the masters this machine is, by the agent's
// certificate in the layout, and returns its layout by its name. It is empty on a
// machine that is no master.
func Locals(c *config.Cluster, l layout.Layout) map[string]layout.Layout {
	name, err := nameIn(filepath.Join(l.PKI(), "hactl", "agent.crt"))
	if err != nil {
		if name, err = os.Hostname(); err != nil {
			return nil
		}
		if _, err := os.Stat(l.State()); errors.Is(err, fs.ErrNotExist) {
			return nil // the configuration is here, but nothing of a master
		}
	}
	for _, m := range c.Masters {
		if m.Name == name {
			return map[string]layout.Layout{name: l}
		}
	}
	return nil
}

// nameIn is the common name of a certificate file.
func nameIn(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return "", fmt.Errorf("%s: not PEM", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	return cert.Subject.CommonName, nil
}
