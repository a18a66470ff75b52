package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path"
	"regexp"
	"strings"
	"time"
)

// Validate reports every fault of c, each as a *FieldError, joined; nil when
// there is none. It does not ask for an odd number of masters (CheckMasterCount)
// and does not look at the machine: files and ports are preflight's.
func (c *Cluster) Validate() error { return joinFields(c.validate()) }

// CheckMasterCount refuses an even number of masters: a second or fourth one
// adds a machine that can fail, but none that may be lost. A caller whose user
// insists (--allow-even) does not call it. With discovery it looks at
// discovery.expect.
func (c *Cluster) CheckMasterCount() error {
	n, field := len(c.Masters), "masters"
	if c.Discovery != nil {
		n, field = c.Discovery.Expect, "discovery.expect"
	}
	if n > 0 && n%2 == 0 {
		return &FieldError{Path: field, Value: fmt.Sprint(n), Err: fmt.Errorf(
			"an even number of masters survives no more losses than one fewer (%d of %d): have %d or %d", (n-1)/2, n, n-1, n+1)}
	}
	return nil
}

// MinTTL is the shortest term that outlasts an election with these timings: one and
// a half elections, rounded up to whole seconds. It is etcd's own rule for its leases.
func MinTTL(heartbeat, election time.Duration) time.Duration {
	if heartbeat <= 0 || election <= 0 {
		return 0
	}
	ticks := 3 * (election / heartbeat) / 2
	return time.Duration(math.Ceil((ticks * heartbeat).Seconds())) * time.Second
}

// checker collects faults.
type checker struct{ faults []*FieldError }

func (k *checker) bad(path string, value any, format string, args ...any) {
	k.faults = append(k.faults, &FieldError{Path: path, Value: fmt.Sprint(value), Err: fmt.Errorf(format, args...)})
}

var (
	dnsLabel    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	dnsName     = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)
	kubeVersion = regexp.MustCompile(`^v1\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$`)
)

func (c *Cluster) validate() []*FieldError {
	k := &checker{}
	k.header(c)
	k.masters(c)
	k.frontDoor(c.FrontDoor)
	k.kubernetes(c)
	k.apiServer(c.APIServer)
	k.etcd(c.Etcd)
	k.singletons(c)
	k.loops(c)
	k.ports(c)
	return k.faults
}

func (k *checker) header(c *Cluster) {
	if c.APIVersion != APIVersion {
		k.bad("apiVersion", c.APIVersion, "this hactl reads %s; a newer format needs a newer hactl", APIVersion)
	}
	if c.Kind != Kind {
		k.bad("kind", c.Kind, "must be %s", Kind)
	}
	k.label("name", c.Name, "the cluster's name")
	k.file("token.file", c.Token.File, true)
}

// label checks a name that becomes part of host names, certificates and units.
func (k *checker) label(path, name, what string) {
	switch {
	case name == "":
		k.bad(path, "", "missing: %s", what)
	case !dnsLabel.MatchString(name):
		k.bad(path, name, "must be a DNS label: at most 63 lower-case letters, digits and inner dashes")
	}
}

// file checks an absolute path.
func (k *checker) file(field, file string, required bool) {
	switch {
	case file == "" && required:
		k.bad(field, "", "missing: a file")
	case file != "" && !path.IsAbs(file):
		k.bad(field, file, "must be an absolute path: daemons have no folder of their own")
	}
}

func (k *checker) kubernetes(c *Cluster) {
	kube := c.Kubernetes
	if !kubeVersion.MatchString(kube.Version) {
		hint := ""
		if kubeVersion.MatchString("v" + kube.Version) {
			hint = "; did you mean v" + kube.Version + "?"
		}
		k.bad("kubernetes.version", kube.Version, "must be a release, as in v1.36.3%s", hint)
	}
	if kube.BinDir == "" {
		k.bad("kubernetes.binDir", "", "missing: the folder of kube-apiserver and the others")
	}
	k.file("kubernetes.binDir", kube.BinDir, false)
	service, serr := k.cidr("kubernetes.serviceCIDR", kube.ServiceCIDR)
	pods, perr := k.cidr("kubernetes.clusterCIDR", kube.ClusterCIDR)
	if serr == nil {
		switch host := service.Addr().BitLen() - service.Bits(); {
		case host > 20:
			k.bad("kubernetes.serviceCIDR", kube.ServiceCIDR, "too large: kube-apiserver takes at most 2^20 addresses, /%d", service.Addr().BitLen()-20)
		case host < 3:
			k.bad("kubernetes.serviceCIDR", kube.ServiceCIDR, "too small: kube-apiserver needs at least 8 addresses, /%d", service.Addr().BitLen()-3)
		}
	}
	if serr == nil && perr == nil && service.Overlaps(pods) {
		k.bad("kubernetes.clusterCIDR", kube.ClusterCIDR, "overlaps kubernetes.serviceCIDR %s", service)
	}
	for i, m := range c.Masters {
		a, err := netip.ParseAddr(m.Address)
		for _, r := range []struct {
			field string
			cidr  netip.Prefix
			err   error
		}{{"kubernetes.serviceCIDR", service, serr}, {"kubernetes.clusterCIDR", pods, perr}} {
			if err == nil && r.err == nil && r.cidr.Contains(a) {
				k.bad(fmt.Sprintf("masters[%d].address", i), m.Address, "lies inside %s %s", r.field, r.cidr)
			}
		}
	}
}

func (k *checker) cidr(field, value string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(value)
	switch {
	case strings.Contains(value, ","):
		err = errors.New("one range only; two families are not supported yet")
	case err != nil:
		err = errors.New("not a range of addresses, as in 10.96.0.0/16")
	case p != p.Masked():
		err = fmt.Errorf("is an address inside a range; the range is %s", p.Masked())
	case p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().IsUnspecified():
		err = errors.New("must be a range of unicast addresses")
	}
	if err != nil {
		k.bad(field, value, "%w", err)
	}
	return p, err
}

// maxElection is the longest election timeout that etcd takes.
const maxElection = 50 * time.Second

func (k *checker) etcd(e Etcd) {
	if e.Heartbeat < time.Millisecond || e.Heartbeat > maxElection/5 || e.Heartbeat%time.Millisecond != 0 {
		k.bad("etcd.heartbeat", formatDuration(e.Heartbeat), "must be whole milliseconds from 1ms to %s", maxElection/5)
	}
	switch {
	case e.Election <= 0 || e.Election%time.Millisecond != 0:
		k.bad("etcd.election", formatDuration(e.Election), "must be whole milliseconds, more than 0")
	case e.Election > maxElection:
		k.bad("etcd.election", formatDuration(e.Election), "etcd takes at most 50s")
	case e.Heartbeat <= maxElection/5 && e.Election < 5*e.Heartbeat:
		k.bad("etcd.election", formatDuration(e.Election), "must be at least 5 times etcd.heartbeat %s", formatDuration(e.Heartbeat))
	}
	if e.Quota < 1<<20 {
		k.bad("etcd.quota", e.Quota, "must be at least 1Mi")
	}
	b := e.Backup
	if b.Every < time.Second {
		k.bad("etcd.backup.every", formatDuration(b.Every), "must be at least 1s; etcd.backup.to: [] turns backups off")
	}
	if b.Keep < 1 {
		k.bad("etcd.backup.keep", b.Keep, "must be at least 1")
	}
	seen := map[string]int{}
	for i, to := range b.To {
		field := fmt.Sprintf("etcd.backup.to[%d]", i)
		if first, twice := seen[to]; twice {
			k.bad(field, to, "same as etcd.backup.to[%d]", first)
			continue
		}
		seen[to] = i
		k.backupURL(field, to)
	}
}

// loops checks the two health loops: the balancer's and the watchdog's.
func (k *checker) loops(c *Cluster) {
	check, wd := c.LoadBalancer.Check, c.Watchdog
	k.probe("loadBalancer.check", check.Every, check.Timeout)
	k.atLeastOne("loadBalancer.check.rise", check.Rise)
	k.atLeastOne("loadBalancer.check.fall", check.Fall)
	told := len(k.faults)
	k.probe("watchdog", wd.Every, wd.Timeout)
	k.atLeastOne("watchdog.fall", wd.Fall)
	k.atLeastOne("watchdog.budget", wd.Budget)
	k.limits(wd)
	sound := len(k.faults) == told
	// A restart takes at least fall failed probes, so within a window shorter
	// than budget times that, the budget could never be used up.
	// It is not asked while one of them is out of range: that is the fault.
	need := time.Duration(wd.Budget) * time.Duration(wd.Fall) * max(wd.Every, wd.Timeout)
	if wd.Window <= 0 {
		k.bad("watchdog.window", formatDuration(wd.Window), "must be more than 0")
	} else if sound && wd.Window < need {
		k.bad("watchdog.window", formatDuration(wd.Window), "the budget could never be used up: finding a hang %d times takes at least %s (budget x fall x the longer of every and timeout)",
			wd.Budget, formatDuration(need))
	}
}

// limits checks what the watchdog takes for too much.
func (k *checker) limits(wd Watchdog) {
	k.atLeastOne("watchdog.clusterBudget", wd.ClusterBudget)
	if wd.Reboot != RebootNever && wd.Reboot != RebootAllowed {
		k.bad("watchdog.reboot", wd.Reboot, "want %s or %s", RebootNever, RebootAllowed)
	}
	l := wd.Limits
	if l.Hold < 15*time.Second || l.Hold > 24*time.Hour {
		k.bad("watchdog.limits.hold", formatDuration(l.Hold), "must be from 15s to 24h")
	}
	for _, f := range []struct {
		field string
		value int
	}{{"files", l.Files}, {"diskFree", l.DiskFree}} {
		if f.value < 0 || f.value > 99 {
			k.bad("watchdog.limits."+f.field, f.value, "must be a share in percent, from 1 to 99, or 0 for none")
		}
	}
	for _, f := range []struct {
		field string
		limit Limit
	}{{"etcd", l.Etcd}, {"apiServer", l.APIServer}, {"loadBalancer", l.LoadBalancer}, {"podmaster", l.Podmaster}} {
		if m := f.limit.Memory; m != 0 && m < 64<<20 {
			k.bad("watchdog.limits."+f.field+".memory", m, "must be at least 64Mi, or 0 for no limit")
		}
		if n := f.limit.Goroutines; n != 0 && n < 1000 {
			k.bad("watchdog.limits."+f.field+".goroutines", n, "must be at least 1000, or 0 for no limit")
		}
	}
}

func (k *checker) atLeastOne(path string, n int) {
	if n < 1 || n > 1000 {
		k.bad(path, n, "must be from 1 to 1000")
	}
}

// probe checks the timing of a repeated probe.
func (k *checker) probe(path string, every, timeout time.Duration) {
	if every < 10*time.Millisecond || every > time.Hour {
		k.bad(path+".every", formatDuration(every), "must be from 10ms to 1h")
	}
	switch {
	case timeout < 10*time.Millisecond || timeout > time.Hour:
		k.bad(path+".timeout", formatDuration(timeout), "must be from 10ms to 1h")
	case every > 0 && timeout > 10*every:
		k.bad(path+".timeout", formatDuration(timeout), "at most 10 times %s.every %s: a hung probe would hide what the next ones see", path, formatDuration(every))
	}
}
