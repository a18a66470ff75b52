package bootstrap

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/preflight"
	"github.com/hactl/hactl/internal/rendezvous"
)

// ownAddresses are the addresses on this machine's interfaces.
func ownAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("this machine's addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out, nil
}

// Own is what a machine is, by its disk.
type Own struct {
	Phase     rendezvous.Phase
	Intent    etcdcluster.Intent // zero: none
	HasIntent bool
	HasData   bool   // an etcd member's log
	CA        string // fingerprint of the CA set; empty: there is none, or not all of it
}

// Lost tells that the machine was a member and its data are gone.
func (o Own) Lost() bool { return o.HasIntent && o.Intent.State == etcdcluster.Used && !o.HasData }

// ReadOwn finds out what this machine is. The permission to found or join makes it
// a member already: somebody's cluster depends on it.
func ReadOwn(l layout.Layout, c *config.Cluster) (Own, error) {
	var o Own
	in, err := etcdcluster.ReadIntent(l.State())
	switch {
	case err == nil:
		o.Intent, o.HasIntent = in, true
	case !errors.Is(err, fs.ErrNotExist):
		return o, exitcode.Errorf(exitcode.Refused, "read the intent: %w", err).
			WithHint("mend the file, or begin anew: hactl reset")
	}
	if _, err := os.Stat(filepath.Join(l.EtcdData(), "member", "wal")); err == nil {
		o.HasData = true
	} else if !errors.Is(err, fs.ErrNotExist) {
		return o, err
	}
	secrets, err := master.ReadSecrets(l, c)
	if err != nil && !errors.Is(err, master.ErrHalfSecrets) {
		return o, err
	}
	o.CA = secrets.Fingerprint()
	switch {
	case o.HasIntent && o.Intent.State == etcdcluster.Removed:
		o.Phase = rendezvous.Removed
	case o.HasIntent || o.HasData:
		o.Phase = rendezvous.Member
	case secrets != nil:
		o.Phase = rendezvous.Holding
	default:
		// Half of them: what was begun is begun again, and completed.
		o.Phase = rendezvous.Fresh
	}
	return o, nil
}

// WhoAmI returns the configuration's master that this machine is: the one called
// name, or without a name, the one whose address or host name it has.
func WhoAmI(c *config.Cluster, name string) (config.Master, error) {
	addresses, err := ownAddresses()
	if err != nil {
		return config.Master{}, err
	}
	hostname, err := os.Hostname()
	if err != nil {
		return config.Master{}, err
	}
	m, err := preflight.Self(c, name, hostname, addresses)
	if err != nil {
		return m, exitcode.Errorf(exitcode.Usage, "%w", err).WithHint("--name NAME")
	}
	return m, nil
}
