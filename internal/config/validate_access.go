package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// maxMasters: more than seven etcd members only slow each write down.
const maxMasters = 7

func (k *checker) masters(c *Cluster) {
	switch {
	case len(c.Masters) > 0 && c.Discovery != nil:
		k.bad("discovery", "", "either masters or discovery, not both")
	case len(c.Masters) == 0 && c.Discovery == nil:
		k.bad("masters", "", "missing: list the masters (or give discovery)")
	case len(c.Masters) > maxMasters:
		k.bad("masters", len(c.Masters), "at most %d: each further etcd member makes every write slower", maxMasters)
	}
	names, addresses := map[string]int{}, map[netip.Addr]int{}
	loopback := 0
	for i, m := range c.Masters {
		at := fmt.Sprintf("masters[%d]", i)
		k.label(at+".name", m.Name, "the master's name")
		if first, twice := names[m.Name]; twice && m.Name != "" {
			k.bad(at+".name", m.Name, "same as masters[%d].name", first)
		} else {
			names[m.Name] = i
		}
		a, ok := k.address(at+".address", m.Address)
		if !ok {
			continue
		}
		if first, twice := addresses[a]; twice {
			k.bad(at+".address", m.Address, "same as masters[%d].address", first)
			continue
		}
		addresses[a] = i
		if a.IsLoopback() {
			loopback++
		}
	}
	if loopback > 0 && loopback < len(addresses) {
		for i, m := range c.Masters {
			if a, err := netip.ParseAddr(m.Address); err == nil && a.IsLoopback() {
				k.bad(fmt.Sprintf("masters[%d].address", i), m.Address, "a loopback address, which the masters on other machines cannot reach")
			}
		}
	}
	if c.Discovery != nil {
		k.discovery(*c.Discovery)
	}
}

func (k *checker) discovery(d Discovery) {
	if len(d.Seeds) == 0 {
		k.bad("discovery.seeds", "", "missing: at least one master that the others can ask")
	}
	for i, s := range d.Seeds {
		host := s
		if h, p, err := net.SplitHostPort(s); err == nil && !strings.Contains(s, "/") {
			host = h
			if n, err := net.LookupPort("tcp", p); err != nil || n < 1 || strings.Trim(p, "0123456789") != "" {
				k.bad(fmt.Sprintf("discovery.seeds[%d]", i), s, "its port must be a number from 1 to 65535")
			}
		}
		if !isHost(host) || strings.HasPrefix(host, "*") {
			k.bad(fmt.Sprintf("discovery.seeds[%d]", i), s, "must be a host or host:port")
		}
	}
	if d.Expect < 1 || d.Expect > maxMasters {
		k.bad("discovery.expect", d.Expect, "must be from 1 to %d: how many masters there will be", maxMasters)
	}
}

// address checks one that other machines are to reach.
func (k *checker) address(path, value string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(value)
	why := ""
	switch {
	case value == "":
		why = "missing: the IP address that the other masters reach"
	case err != nil && strings.Contains(value, "/"):
		why = "not an IP address: leave the mask out"
	case err != nil && !strings.Contains(value, "::") && strings.Contains(value, ":"):
		why = "not an IP address: leave the port out"
	case err != nil:
		why = "not an IP address (names are not resolved here: certificates and etcd members are bound to it)"
	case a.Is4In6():
		why = "write it as " + a.Unmap().String()
	case a.Zone() != "":
		why = "an address with a zone means something else on each machine"
	case a.IsUnspecified():
		why = "means every address; give the one that the other masters reach"
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		why = "not the address of one machine"
	case a.IsLinkLocalUnicast():
		why = "a link-local address is not reachable in a stable way"
	case a.String() != value:
		why = "write it as " + a.String() + ", so that it is the same everywhere"
	}
	if why != "" {
		k.bad(path, value, "%s", why)
	}
	return a, why == ""
}

func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	// A name of digits and dots is an address gone wrong, not a name.
	return len(s) <= 253 && dnsName.MatchString(s) && strings.Trim(s, "0123456789.") != ""
}

func (k *checker) frontDoor(f FrontDoor) {
	if f.Host != "" {
		a, err := netip.ParseAddr(f.Host)
		_, _, split := net.SplitHostPort(f.Host)
		switch {
		case err == nil && (a.IsUnspecified() || a.IsMulticast()):
			k.bad("frontDoor.host", f.Host, "not an address that a client can dial")
		case err != nil && split == nil && !strings.Contains(f.Host, "/"):
			k.bad("frontDoor.host", f.Host, "leave the port out; it goes into frontDoor.port")
		case !isHost(f.Host) || strings.HasPrefix(f.Host, "*"):
			k.bad("frontDoor.host", f.Host, "must be a DNS name or an IP address")
		}
	}
	seen := map[string]int{}
	for i, s := range f.SANs {
		at := fmt.Sprintf("frontDoor.sans[%d]", i)
		if first, twice := seen[strings.ToLower(s)]; twice {
			k.bad(at, s, "same as frontDoor.sans[%d]", first)
		} else if !isHost(s) {
			k.bad(at, s, "must be a DNS name or an IP address, without scheme and port")
		}
		seen[strings.ToLower(s)] = i
	}
}

// authorizers that kube-apiserver knows. AlwaysAllow is not among those that
// may be given: with it the whole cluster is open to everyone.
var authorizers = []string{"Node", "RBAC", "ABAC", "Webhook"}

func (k *checker) apiServer(a APIServer) {
	if len(a.AuthorizationModes) == 0 {
		k.bad("apiServer.authorizationModes", "", "missing: at least one of %s", strings.Join(authorizers, ", "))
	}
	seen := map[string]bool{}
	for i, mode := range a.AuthorizationModes {
		at := fmt.Sprintf("apiServer.authorizationModes[%d]", i)
		switch {
		case mode == "AlwaysAllow":
			k.bad(at, mode, "would let everyone do everything")
		case !slices.Contains(authorizers, mode):
			hint := ""
			if near := nearest(mode, authorizers); near != "" {
				hint = "; did you mean " + near + "?"
			}
			k.bad(at, mode, "must be one of %s%s", strings.Join(authorizers, ", "), hint)
		case seen[mode]:
			k.bad(at, mode, "given twice")
		}
		seen[mode] = true
	}
	switch {
	case seen["ABAC"] && a.ABACPolicyFile == "":
		k.bad("apiServer.abacPolicyFile", "", "missing: apiServer.authorizationModes has ABAC, which needs its policy")
	case !seen["ABAC"] && a.ABACPolicyFile != "":
		k.bad("apiServer.abacPolicyFile", a.ABACPolicyFile, "would be ignored: add ABAC to apiServer.authorizationModes")
	}
	k.file("apiServer.abacPolicyFile", a.ABACPolicyFile, false)
	k.file("apiServer.tokenAuthFile", a.TokenAuthFile, false)
	if a.OIDC != nil {
		k.oidc(*a.OIDC)
	}
	k.extraArgs("apiServer.extraArgs", a.ExtraArgs)
}

func (k *checker) oidc(o OIDC) {
	u, err := url.Parse(o.IssuerURL)
	switch {
	case o.IssuerURL == "":
		k.bad("apiServer.oidc.issuerURL", "", "missing: the issuer")
	case err != nil || u.Host == "" || u.Scheme != "https":
		k.bad("apiServer.oidc.issuerURL", o.IssuerURL, "must be an https:// URL; kube-apiserver takes no other")
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		k.bad("apiServer.oidc.issuerURL", o.IssuerURL, "must be scheme, host and path only: it is compared with the tokens' issuer")
	}
	if o.ClientID == "" {
		k.bad("apiServer.oidc.clientID", "", "missing: the audience of the tokens")
	}
	k.file("apiServer.oidc.caFile", o.CAFile, false)
}

func (k *checker) extraArgs(path string, args map[string]string) {
	names := make([]string, 0, len(args))
	for name := range args {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch {
		case name == "" || strings.ContainsAny(name, "= \t\n"):
			k.bad(path+"."+name, args[name], "its name must be a flag's")
		case strings.HasPrefix(name, "-"):
			k.bad(path+"."+name, args[name], "leave the dashes out: %s", strings.TrimLeft(name, "-"))
		}
	}
}

func (k *checker) singletons(c *Cluster) {
	least := 2 * time.Second
	if c.Etcd.Election <= maxElection { // else that is the fault
		least = max(least, MinTTL(c.Etcd.Heartbeat, c.Etcd.Election))
	}
	names := map[string]int{}
	for i, s := range c.Singletons {
		at := fmt.Sprintf("singletons[%d]", i)
		k.label(at+".name", s.Name, "the singleton's name")
		if first, twice := names[s.Name]; twice && s.Name != "" {
			k.bad(at+".name", s.Name, "same as singletons[%d].name", first)
		} else {
			names[s.Name] = i
		}
		switch {
		case s.TTL < least:
			k.bad(at+".ttl", formatDuration(s.TTL), "etcd grants no lease below %s (one and a half times etcd.election %s, in whole seconds, and at least 2s)", least, formatDuration(c.Etcd.Election))
		case s.TTL%time.Second != 0:
			k.bad(at+".ttl", formatDuration(s.TTL), "etcd's leases are whole seconds: %s or %s", s.TTL.Truncate(time.Second), s.TTL.Truncate(time.Second)+time.Second)
		}
		k.singletonCommand(at, s)
		if s.HealthURL != "" {
			if u, err := url.Parse(s.HealthURL); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
				k.bad(at+".healthURL", s.HealthURL, "must be an http:// or https:// URL")
			}
		}
		k.extraArgs(at+".extraArgs", s.ExtraArgs)
	}
}

// singletonCommand checks that it is clear what a singleton runs.
func (k *checker) singletonCommand(at string, s Singleton) {
	known := []string{KubeScheduler, KubeControllerManager}
	switch {
	case slices.Contains(known, s.Name):
		if len(s.Command) > 0 {
			k.bad(at+".command", strings.Join(s.Command, " "), "%s brings its own command; use extraArgs, or give it another name", s.Name)
		}
		return
	case len(s.Command) == 0 && s.Name != "":
		hint := ""
		if near := nearest(s.Name, known); near != "" {
			hint = "; or did you mean " + near + "?"
		}
		k.bad(at+".command", "", "missing: hactl knows how to run only %s%s", strings.Join(known, " and "), hint)
	case len(s.Command) > 0 && !path.IsAbs(s.Command[0]):
		k.bad(at+".command[0]", s.Command[0], "must be the absolute path of a program")
	}
	if len(s.ExtraArgs) > 0 {
		k.bad(at+".extraArgs", "", "only for %s; put them into command", strings.Join(known, " and "))
	}
}

// backupURL checks a place for snapshots.
func (k *checker) backupURL(field, to string) {
	u, err := url.Parse(to)
	switch {
	case err != nil || u.Scheme == "":
		k.bad(field, to, "must be a URL: dir:///folder or s3://bucket/prefix")
	case u.Scheme == "dir":
		if u.Host != "" || !path.IsAbs(u.Path) || path.Clean(u.Path) == "/" {
			k.bad(field, to, "must be dir:// and an absolute folder, three slashes in all: dir:///var/backups/hactl")
		}
	case u.Scheme == "s3":
		if u.Host == "" {
			k.bad(field, to, "must name the bucket: s3://bucket/prefix")
		}
	default:
		k.bad(field, to, "unknown kind of place %s:; known are dir: and s3:", u.Scheme)
	}
}

// ports checks that they are ports and that no two things on one master want
// the same. Masters on other machines do not matter; those that share a
// machine have addresses of their own.
func (k *checker) ports(c *Cluster) {
	masters := c.Masters
	if len(masters) == 0 {
		masters = []Master{{Address: "192.0.2.1"}} // discovery: any will do
	}
	told := map[string]bool{}
	for _, p := range c.Ports(masters[0]) {
		if p.Port < 1 || p.Port > 65535 {
			k.bad(p.Path, p.Port, "must be a port from 1 to 65535")
			told[p.Path] = true
		}
	}
	for _, m := range masters {
		// One table for a master's own address and its loopback address: the
		// API server may listen on all of them.
		users := map[int]Port{}
		for _, p := range c.Ports(m) {
			first, taken := users[p.Port]
			if !taken {
				users[p.Port] = p
				continue
			}
			field, other := p, first
			if field.Path == "" {
				field, other = first, p
			}
			if field.Path == "" || told[field.Path] {
				continue
			}
			told[field.Path] = true
			with := other.User
			if other.Path != "" {
				with += " (" + other.Path + ")"
			}
			k.bad(field.Path, field.Port, "%s has this port already", with)
		}
	}
}
