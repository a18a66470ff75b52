package config

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
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
