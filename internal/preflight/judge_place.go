package preflight

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/pki"
)

func judgeConfig(f *Facts, v *verdict) {
	if f.Cluster != nil {
		for _, w := range f.Cluster.Warnings() {
			v.add(Warning, "hactl config validate", "%v", w)
		}
		return
	}
	faults := config.FieldErrors(f.ConfigErr)
	for _, fault := range faults {
		v.add(Error, "correct it: hactl config validate", "%v", fault)
	}
	if len(faults) == 0 {
		v.add(Error, hintOf(f.ConfigErr, "hactl config print-defaults"), "%v", f.ConfigErr)
	}
}

func judgeName(f *Facts, v *verdict) {
	self, err := Self(f.Cluster, f.Wanted, f.Hostname, f.Addresses)
	if err != nil {
		v.add(Error, "--name M, or correct masters in the configuration", "%v", err)
		return
	}
	if other, ok := f.Cluster.MasterByName(f.Hostname); ok && other.Name != self.Name {
		v.add(Warning, "hostnamectl set-hostname "+self.Name,
			"this machine is called %s, which is another master, and is to be %s", f.Hostname, self.Name)
	}
	for _, p := range f.others() {
		if p.Name == self.Name {
			v.add(Error, "give each machine a name of its own (--name M); if that one is an old copy, take it off the network",
				"another machine, at %s, says that it is master %s too", p.Address, p.Name)
		}
	}
}

// others are the peers that are certainly other machines.
func (f *Facts) others() []Peer {
	var others []Peer
	for _, p := range f.Peers {
		if f.Machine != "" && p.Machine != "" && p.Machine != f.Machine {
			others = append(others, p)
		}
	}
	return others
}

func judgeAddress(f *Facts, v *verdict) {
	m := f.Master
	if !isLocal(m.Address, f.Addresses) {
		v.add(Error, fmt.Sprintf("ip address add %s/… dev …, or correct masters in the configuration", m.Address),
			"%s, the address of master %s, is on no interface of this machine (it has %s)", m.Address, m.Name, addressesInWords(f.Addresses))
	}
	for _, p := range f.others() {
		if p.Address == m.Address && p.Name != m.Name {
			v.add(Error, "correct masters in the configuration, the same on every master",
				"master %s says that %s is its address too", p.Name, p.Address)
		}
	}
	if len(f.Duplicates) > 0 {
		v.add(Error, "ip neighbour; take the address away from that machine",
			"another machine in the network has %s too: %s", m.Address, strings.Join(f.Duplicates, ", "))
	}
	if f.DuplicatesErr != nil {
		v.unknown(fmt.Errorf("whether another machine has %s: %w", m.Address, f.DuplicatesErr))
	}
}

func judgePorts(f *Facts, v *verdict) {
	for _, p := range f.Ports {
		v.check = p.check()
		where := fmt.Sprintf("%s/%s", p, p.Net)
		field := ""
		if p.Path != "" {
			field = ", or give another " + p.Path
		}
		switch {
		case p.Err != nil:
			v.unknown(fmt.Errorf("%s: %w", where, p.Err))
		case p.Taken && p.Holder.PID == 0:
			v.add(Error, fmt.Sprintf("find and stop it: ss -lntup 'sport = :%d'%s", p.Port.Port, field),
				"%s, for %s, is taken", where, p.User)
		case p.Taken && !ownUnit(p.Holder.Unit):
			v.add(Error, stop(p.Holder)+field, "%s, for %s, is taken by %s", where, p.User, p.Holder)
		}
	}
}

// String is how a process is called in findings.
func (p Process) String() string {
	if p.Unit == "" {
		return fmt.Sprintf("%s (pid %d)", p.Name, p.PID)
	}
	return fmt.Sprintf("%s (pid %d, %s)", p.Name, p.PID, p.Unit)
}

// stop is how to end a process for good.
func stop(p Process) string {
	if strings.HasSuffix(p.Unit, ".service") || strings.HasSuffix(p.Unit, ".socket") {
		return "systemctl disable --now " + p.Unit
	}
	return fmt.Sprintf("stop it: kill %d", p.PID)
}

// The units of a master, as internal/master names them; the tests compare.
var ownUnits = []string{"hactl-etcd", "kube-apiserver", "hactl-lb", "hactl-agent"}

const ownPodmasters = "podmaster@"

// ownUnit says whether a unit is one of hactl's own on this machine.
func ownUnit(unit string) bool {
	name := strings.TrimSuffix(strings.TrimSuffix(unit, ".service"), ".socket")
	if name == unit {
		return false
	}
	for _, u := range ownUnits {
		if name == u {
			return true
		}
	}
	return strings.HasPrefix(name, ownPodmasters)
}

func judgeOld(f *Facts, v *verdict) {
	o := f.Old
	if len(o.Manifests) > 0 {
		v.add(Error, "if that cluster is no longer needed: kubeadm reset; otherwise use another machine",
			"static pods of another control plane are here: %s", strings.Join(o.Manifests, ", "))
	}
	for _, p := range o.Processes {
		v.add(Error, stop(p)+"; if kubelet runs it: kubeadm reset", "%s runs, which is not of this installation", p)
	}
	if o.EtcdData != "" {
		v.add(Warning, "if it is not needed any more, remove it", "another etcd has left data in %s; hactl does not touch them", o.EtcdData)
	}
	judgeOldCA(f, v)
	judgeIntent(f, v)
}

func judgeOldCA(f *Facts, v *verdict) {
	o := f.Old
	switch {
	case o.CAErr != nil:
		v.add(Error, "if nothing needs it any more, move it away", "the CA that is here cannot be read: %v", o.CAErr)
	case o.CAName == "" && o.CAOrg == "":
	case f.Cluster != nil && o.CAOrg == f.Cluster.Name:
	case o.CAOrg != "" && f.Cluster != nil:
		v.add(Error, "if that cluster is gone for good: hactl reset; otherwise use another machine",
			"%s is the CA of cluster %s, and the configuration is for %s", o.CAFile, o.CAOrg, f.Cluster.Name)
	case o.CAOrg == "":
		v.add(Warning, "move its folder away, unless it was put there for this cluster",
			"%s is a CA that hactl did not make (%s): it would be this cluster's", o.CAFile, o.CAName)
	}
}

// judgeIntent looks at which etcd member this machine is, was, or shall be.
func judgeIntent(f *Facts, v *verdict) {
	o, in := f.Old, f.Old.Intent
	const cure = "if this machine's old membership is gone for good: hactl reset"
	switch {
	case o.IntentErr != nil:
		v.add(Error, cure, "the record of this machine's etcd membership cannot be read: %v", o.IntentErr)
	case in == nil || f.Cluster == nil:
	case in.Cluster != f.Cluster.Name:
		v.add(Error, cure, "this machine is of cluster %s (%s), and the configuration is for %s", in.Cluster, o.IntentFile, f.Cluster.Name)
	case f.Master.Name != "" && in.Member != f.Master.Name:
		v.add(Error, "--name "+in.Member+"; "+cure, "this machine is master %s (%s), not %s", in.Member, o.IntentFile, f.Master.Name)
	case in.State == etcdcluster.Removed:
		v.add(Error, "to let it in again as a new one: hactl reset, then hactl join",
			"the cluster has removed this machine's member (%s)", o.IntentFile)
	}
}

func judgeToken(f *Facts, v *verdict) {
	if f.TokenErr == nil || f.member() && errors.Is(f.TokenErr, pki.ErrTokenExpired) {
		return // one that expired is as it should be once its cluster is there
	}
	level := Error
	if f.member() {
		level = Warning // what it was for is done
	}
	v.add(level, hintOf(f.TokenErr, "hactl token create"), "%v", f.TokenErr)
}

func judgePrograms(f *Facts, v *verdict) {
	for _, p := range f.Programs {
		switch {
		case p.Err != nil && p.Kubernetes:
			v.add(Error, "put Kubernetes' programs there, or correct kubernetes.binDir", "%v", p.Err)
		case p.Err != nil:
			v.add(Error, "put hactl and podmaster of one release there", "%v", p.Err)
		case !p.Kubernetes && f.Release != "" && p.Version != f.Release:
			v.add(Warning, "put hactl and podmaster of one release there", "%s is %s, and hactl is %s", p.Path, p.Version, f.Release)
		}
	}
}

func judgeKubernetes(f *Facts, v *verdict) {
	want := f.Cluster.Kubernetes.Version
	for _, p := range f.Programs {
		if p.Kubernetes && p.Err == nil && p.Version != want {
			v.add(Error, "put "+want+" there, or correct kubernetes.version", "%s is %s, and kubernetes.version is %s", p.Path, p.Version, want)
		}
	}
	if f.Kubelet != "" && newerMinor(f.Kubelet, want) {
		v.add(Warning, "upgrade the API servers before kubelet", "kubelet is %s: newer than the API server %s, which Kubernetes does not support", f.Kubelet, want)
	}
}

// newerMinor says whether version a is of a later minor release than b; false
// when one cannot be read.
func newerMinor(a, b string) bool {
	var aMajor, aMinor, bMajor, bMinor int
	if _, err := fmt.Sscanf(a, "v%d.%d", &aMajor, &aMinor); err != nil {
		return false
	}
	if _, err := fmt.Sscanf(b, "v%d.%d", &bMajor, &bMinor); err != nil {
		return false
	}
	return aMajor > bMajor || aMajor == bMajor && aMinor > bMinor
}

// hintOf is the way out that an error carries.
func hintOf(err error, otherwise string) string {
	var e *exitcode.Error
	if errors.As(err, &e) && e.Hint != "" {
		return e.Hint
	}
	return otherwise
}
