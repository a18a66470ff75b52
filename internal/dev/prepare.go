package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/rendezvous"
	"github.com/hactl/hactl/internal/workload"
)

// dropInFile is the user's drop-in in each host's drop-in folder.
const dropInFile = "50-dev.yaml"

// prepare writes every file of every host that is missing or out of date. It
// may be cut short at any point and run again.
func (f *Folder) prepare(cfg Config) error {
	names := f.MasterNames()
	first := f.Layout(names[0])
	if err := f.writeCommon(cfg); err != nil {
		return err
	}
	loaded, err := config.Load(first)
	if err != nil {
		return err
	}
	secrets, err := f.secrets(loaded)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := f.prepareMaster(loaded, name, secrets, cfg.Programs); err != nil {
			return fmt.Errorf("prepare %s: %w", name, err)
		}
	}
	if err := f.prepareFrontDoor(cfg.Programs); err != nil {
		return fmt.Errorf("prepare %s: %w", FrontDoorHost, err)
	}
	return f.writeKubeconfig(loaded)
}

// writeCommon makes each host's folders, its configuration and its token.
func (f *Folder) writeCommon(cfg Config) error {
	token, err := f.token()
	if err != nil {
		return err
	}
	text, err := config.Marshal(f.clusterConfig(cfg.Programs.KubeBin))
	if err != nil {
		return err
	}
	var dropIn []byte
	if cfg.DropIn != "" {
		if dropIn, err = os.ReadFile(cfg.DropIn); err != nil {
			return fmt.Errorf("--drop-in: %w", err)
		}
	}
	for _, h := range f.Hosts() {
		l := f.Layout(h)
		if err := l.MkdirAll(); err != nil {
			return err
		}
		if err := keep(l.ConfigFile(), text, 0o644); err != nil {
			return err
		}
		if dropIn != nil {
			if err := keep(filepath.Join(l.ConfigDropIns(), dropInFile), dropIn, 0o644); err != nil {
				return err
			}
		}
		if h == FrontDoorHost {
			continue // a worker has no part in the masters' secrets
		}
		if err := keep(l.TokenFile(), []byte(token+"\n"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// token returns the folder's token, made when there is none.
func (f *Folder) token() (string, error) {
	token, err := pki.ReadToken(f.Layout(f.MasterNames()[0]).TokenFile())
	if errors.Is(err, fs.ErrNotExist) {
		return pki.NewToken(time.Time{}), nil
	}
	return token, err
}

// clusterConfig is the cluster's configuration before any drop-in; kubeBin is the
// folder of Kubernetes' programs.
func (f *Folder) clusterConfig(kubeBin string) *config.Cluster {
	c := config.Default()
	c.Name = "dev"
	c.Masters = nil
	for i, name := range f.MasterNames() {
		c.Masters = append(c.Masters, config.Master{Name: name, Address: f.Address(i)})
	}
	c.FrontDoor.Host, _, _ = net.SplitHostPort(f.Info.FrontDoor)
	c.FrontDoor.Port = f.frontDoorPort()
	c.Kubernetes.Version = f.Info.Kube
	c.Kubernetes.BinDir = kubeBin
	return c
}

// secrets returns what all masters share: of any that has it all, or else made,
// or completed, on the first one. A folder of a version that knew fewer of them is
// healed so.
func (f *Folder) secrets(c *config.Cluster) (rendezvous.Secrets, error) {
	names := f.MasterNames()
	for _, name := range names {
		s, err := master.ReadSecrets(f.Layout(name), c)
		if err != nil && !errors.Is(err, master.ErrHalfSecrets) {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if s != nil {
			return s, nil
		}
	}
	return master.EnsureSecrets(f.Layout(names[0]), c)
}

func (f *Folder) prepareMaster(c *config.Cluster, name string, secrets rendezvous.Secrets, p master.Programs) error {
	l := f.Layout(name)
	if err := master.WriteSecrets(l, c, secrets); err != nil {
		return err
	}
	if err := f.intent(c, name); err != nil {
		return err
	}
	host, err := master.New(c, name, l, p)
	if err != nil {
		return err
	}
	if err := host.WriteFiles(); err != nil {
		return err
	}
	units, err := host.Units()
	if err != nil {
		return err
	}
	return writeUnits(l.UnitsFile(), units)
}

// intent gives a master that has none the permission to found the cluster.
func (f *Folder) intent(c *config.Cluster, name string) error {
	l := f.Layout(name)
	_, err := etcdcluster.ReadIntent(l.State())
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	peers := make([]etcdcluster.Peer, len(c.Masters))
	for i, m := range c.Masters {
		peers[i] = etcdcluster.Peer{Name: m.Name, URL: m.EtcdPeerURL()}
	}
	return etcdcluster.WriteIntent(l.State(), l.EtcdData(), etcdcluster.NewIntent(c.Name, name, peers))
}

// prepareFrontDoor makes a worker's balancer: it knows the Kubernetes CA, to
// verify the API servers, and no secret.
func (f *Folder) prepareFrontDoor(p master.Programs) error {
	l := f.Layout(FrontDoorHost)
	ca, err := os.ReadFile(filepath.Join(f.Layout(f.MasterNames()[0]).PKI(), "ca.crt"))
	if err != nil {
		return err
	}
	if err := keep(filepath.Join(l.PKI(), "ca.crt"), ca, 0o644); err != nil {
		return err
	}
	return writeUnits(l.UnitsFile(), []workload.Unit{master.FrontDoor(l, p, f.Info.FrontDoor, f.frontDoorMetrics())})
}

func (f *Folder) writeKubeconfig(c *config.Cluster) error {
	text, err := os.ReadFile(f.Layout(f.MasterNames()[0]).Kubeconfig("admin"))
	if err != nil {
		return err
	}
	k, err := pki.ParseKubeconfig(text)
	if err != nil {
		return err
	}
	k.Cluster, k.Server = c.Name, "https://"+f.Info.FrontDoor
	if text, err = k.Marshal(); err != nil {
		return err
	}
	return keep(f.Kubeconfig(), text, 0o600)
}

func writeUnits(path string, units []workload.Unit) error {
	text, err := json.MarshalIndent(units, "", "  ")
	if err != nil {
		return err
	}
	return keep(path, append(text, '\n'), 0o600)
}

// keep writes a file unless it has that content already.
func keep(path string, content []byte, perm fs.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && slices.Equal(old, content) {
		return nil
	}
	return atomicfile.Write(path, content, perm)
}
