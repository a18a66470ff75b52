package preflight

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/hactl/hactl/internal/config"
)

// Self finds which of the configuration's masters this machine is: the one called
// wanted; without it the one whose address is among addresses, and if that is
// none or several, the one called like the host. The error says what to give.
func Self(c *config.Cluster, wanted, hostname string, addresses []netip.Addr) (config.Master, error) {
	if wanted != "" {
		if m, ok := c.MasterByName(wanted); ok {
			return m, nil
		}
		return config.Master{}, fmt.Errorf("the configuration has no master %q, only %s", wanted, mastersInWords(c))
	}
	var here []config.Master
	for _, m := range c.Masters {
		if isLocal(m.Address, addresses) {
			here = append(here, m)
		}
	}
	if len(here) == 1 {
		return here[0], nil
	}
	short, _, _ := strings.Cut(hostname, ".")
	if m, ok := c.MasterByName(strings.ToLower(short)); ok {
		return m, nil
	}
	if len(here) > 1 {
		return config.Master{}, fmt.Errorf("this machine has the addresses of %d masters, and is called %s like none of them", len(here), hostname)
	}
	return config.Master{}, fmt.Errorf("this machine, %s with %s, has neither name nor address of a master: %s",
		hostname, addressesInWords(addresses), mastersInWords(c))
}

// isLocal says whether an address is on this machine. Every loopback address is,
// although interfaces list one alone.
func isLocal(address string, addresses []netip.Addr) bool {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	if a.Unmap().IsLoopback() {
		return true
	}
	for _, have := range addresses {
		if have.Unmap().WithZone("") == a.Unmap().WithZone("") {
			return true
		}
	}
	return false
}

func mastersInWords(c *config.Cluster) string {
	words := make([]string, 0, len(c.Masters))
	for _, m := range c.Masters {
		words = append(words, fmt.Sprintf("%s (%s)", m.Name, m.Address))
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

// addressesInWords lists what others can reach; loopback and link-local addresses
// only distract.
func addressesInWords(addresses []netip.Addr) string {
	var words []string
	for _, a := range addresses {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			words = append(words, a.String())
		}
	}
	if len(words) == 0 {
		return "no address"
	}
	return strings.Join(words, ", ")
}
