package lb

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Backend is one server that connections can go to, as a user writes it.
type Backend struct {
	// Name is what people call it; default: Address. Unique.
	Name string `json:"name"`
	// Address is IP:port, [IPv6]:port, name:port (resolved again and again, each
	// IP address being a backend of its own) or unix:PATH.
	Address string `json:"address"`
	Weight  int    `json:"weight,omitempty"` // 1 to 256; default 1
	Zone    string `json:"zone,omitempty"`   // for the algorithm local-first
}

const (
	maxWeight   = 256
	maxBackends = 1024 // of a list; more is taken for a mistake
	maxName     = 253
)

// ParseBackend reads ADDR[,name=N][,weight=N][,zone=Z].
func ParseBackend(s string) (Backend, error) {
	fields := strings.Split(s, ",")
	b := Backend{Address: strings.TrimSpace(fields[0]), Weight: 1}
	seen := map[string]bool{}
	for _, f := range fields[1:] {
		key, value, ok := strings.Cut(strings.TrimSpace(f), "=")
		if !ok || value == "" {
			return Backend{}, fmt.Errorf("%q: want name=…, weight=… or zone=…", f)
		}
		if seen[key] {
			return Backend{}, fmt.Errorf("%s is given twice", key)
		}
		seen[key] = true
		switch key {
		case "name":
			b.Name = value
		case "zone":
			b.Zone = value
		case "weight":
			n, err := strconv.Atoi(value)
			if err != nil {
				return Backend{}, fmt.Errorf("weight %q: want a whole number from 1 to %d", value, maxWeight)
			}
			b.Weight = n
		default:
			return Backend{}, fmt.Errorf("unknown field %q: want name, weight or zone", key)
		}
	}
	return b.normal()
}

// normal returns b with defaults and a canonical address.
func (b Backend) normal() (Backend, error) {
	addr, err := canonicalAddress(b.Address)
	if err != nil {
		return Backend{}, err
	}
	b.Address = addr
	if b.Weight == 0 {
		b.Weight = 1
	}
	b.Name = cmp.Or(b.Name, b.Address)
	switch {
	case b.Weight < 1 || b.Weight > maxWeight:
		return Backend{}, fmt.Errorf("backend %s: weight %d: want 1 to %d", b.Name, b.Weight, maxWeight)
	case !plainWord(b.Name, maxName):
		return Backend{}, fmt.Errorf("backend name %q: want up to %d printable characters without spaces or commas", b.Name, maxName)
	case b.Zone != "" && !plainWord(b.Zone, maxName):
		return Backend{}, fmt.Errorf("backend %s: zone %q: want up to %d printable characters without spaces or commas", b.Name, b.Zone, maxName)
	}
	return b, nil
}

func (b Backend) String() string {
	s := b.Address
	if b.Name != b.Address {
		s += ",name=" + b.Name
	}
	if b.Weight > 1 {
		s += ",weight=" + strconv.Itoa(b.Weight)
	}
	if b.Zone != "" {
		s += ",zone=" + b.Zone
	}
	return s
}

func plainWord(s string, most int) bool {
	return s != "" && len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == ',' || r == 0x7f || r == 0xfffd
	})
}

// canonicalAddress checks an address and writes it the one way we compare it.
func canonicalAddress(s string) (string, error) {
	if s == "" {
		return "", errors.New("address is missing: want IP:port, name:port or unix:PATH")
	}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if !strings.HasPrefix(path, "/") || len(path) > 100 || !plainWord(path, 100) {
			return "", fmt.Errorf("address %q: want unix:/an/absolute/path of up to 100 bytes", s)
		}
		return s, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("address %q: want IP:port, name:port or unix:PATH", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("address %q: port %q: want 1 to 65535", s, port)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap()
		if ip.IsUnspecified() || ip.IsMulticast() {
			return "", fmt.Errorf("address %q: no server can be reached at %s", s, ip)
		}
		return netip.AddrPortFrom(ip, uint16(n)).String(), nil
	}
	if !hostName(host) {
		return "", fmt.Errorf("address %q: host %q is neither an IP address nor a name", s, host)
	}
	return net.JoinHostPort(strings.ToLower(host), strconv.FormatUint(n, 10)), nil
}

func hostName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	digits := true
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			switch {
			case r >= '0' && r <= '9':
			case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '-', r == '_':
				digits = false
			default:
				return false
			}
		}
	}
	return !digits // 10.0.0.300 is a wrong address, not a name
}

// isName says whether the address holds a host name to resolve.
func (b Backend) isName() bool {
	if strings.HasPrefix(b.Address, "unix:") {
		return false
	}
	_, err := netip.ParseAddrPort(b.Address)
	return err != nil
}

// checkList normalises a whole list and refuses one that cannot be meant.
func checkList(list []Backend) ([]Backend, error) {
	if len(list) == 0 {
		return nil, errors.New("no backend in the list")
	}
	if len(list) > maxBackends {
		return nil, fmt.Errorf("%d backends: want at most %d", len(list), maxBackends)
	}
	var (
		errs  []error
		out   = make([]Backend, 0, len(list))
		names = map[string]bool{}
		addrs = map[string]bool{}
	)
	for _, b := range list {
		b, err := b.normal()
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case names[b.Name]:
			errs = append(errs, fmt.Errorf("backend %s is there twice", b.Name))
		case addrs[b.Address]:
			errs = append(errs, fmt.Errorf("backend %s: address %s is there twice", b.Name, b.Address))
		}
		names[b.Name], addrs[b.Address] = true, true
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b Backend) int { return cmp.Compare(a.Name, b.Name) })
	return out, errors.Join(errs...)
}
