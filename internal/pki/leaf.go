package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// OrgMasters is the organization in the certificates of hactl's own
// connections. Only a master has one.
const OrgMasters = "hactl:masters"

// APIServerName is a name in every API server's certificate, whatever its
// address: who reaches one through a balancer verifies it by this name.
const APIServerName = "kubernetes"

// Master is one master as certificates name it.
type Master struct {
	Name    string // DNS label
	Address string // IP address
}

// Leaves says for whom the leaves are made out.
type Leaves struct {
	Self    Master
	Masters []Master // all of them; Self may be left out
	// ServiceIP is the first address of the services' range, under which pods
	// reach the API servers.
	ServiceIP string
	// SANs are further names and addresses of the API server: the front door's.
	SANs []string
}

// leafNames are all leaves of a master, by their files without ending.
var leafNames = []string{
	"apiserver", "apiserver-kubelet-client", "apiserver-etcd-client", "front-proxy-client",
	"etcd/server", "etcd/peer", "etcd/healthcheck-client", "hactl/agent", "hactl/admin",
}

// leaf is a certificate as it should be.
type leaf struct {
	name    string // file without ending
	ca      string
	subject pkix.Name
	usages  []x509.ExtKeyUsage
	names   []string // DNS names and IP addresses
}

var (
	clientOnly = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	serverOnly = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	// etcd's members dial themselves and each other with their server
	// certificate, and hactl's agents each other.
	bothWays = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
)

// specs lists the leaves of one master.
func (l Leaves) specs() ([]leaf, error) {
	var errs []error
	if l.Self.Name == "" {
		errs = append(errs, errors.New("pki: Leaves.Self.Name: missing"))
	}
	for field, a := range map[string]string{"Self.Address": l.Self.Address, "ServiceIP": l.ServiceIP} {
		if _, err := netip.ParseAddr(a); err != nil {
			errs = append(errs, fmt.Errorf("pki: Leaves.%s: %q: not an IP address", field, a))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	local := []string{"localhost", "127.0.0.1", "::1"}
	own := append([]string{l.Self.Name, l.Self.Address}, local...)
	api := append([]string{APIServerName, "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		l.ServiceIP}, own...)
	for _, m := range l.Masters {
		api = append(api, m.Name, m.Address)
	}
	api = append(api, l.SANs...)
	org := func(cn string, o ...string) pkix.Name { return pkix.Name{CommonName: cn, Organization: o} }
	return []leaf{
		{"apiserver", caKubernetes, org("kube-apiserver"), serverOnly, api},
		{"apiserver-kubelet-client", caKubernetes, org("kube-apiserver-kubelet-client", "system:masters"), clientOnly, nil},
		{"apiserver-etcd-client", caEtcd, org("kube-apiserver-etcd-client"), clientOnly, nil},
		{"front-proxy-client", caFrontProxy, org("front-proxy-client"), clientOnly, nil},
		{"etcd/server", caEtcd, org(l.Self.Name), bothWays, own},
		{"etcd/peer", caEtcd, org(l.Self.Name), bothWays, own},
		{"etcd/healthcheck-client", caEtcd, org("hactl-etcd-client"), clientOnly, nil},
		{"hactl/agent", caEtcd, org(l.Self.Name, OrgMasters), bothWays, own},
		{"hactl/admin", caEtcd, org("hactl-admin", OrgMasters), clientOnly, nil},
	}, nil
}

// EnsureLeaves keeps the good leaves of a master and issues the others (again).
// A CA's key is read only when it has to sign. The changes made so far are
// returned with an error too.
func (s *Store) EnsureLeaves(l Leaves) ([]Change, error) {
	specs, err := l.specs()
	if err != nil {
		return nil, err
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var changes []Change
	var errs []error
	for _, spec := range specs {
		made, err := s.ensureLeaf(spec)
		changes = append(changes, made...)
		errs = append(errs, err)
	}
	return changes, errors.Join(errs...)
}

func (s *Store) ensureLeaf(want leaf) ([]Change, error) {
	keyFile, certFile := s.file(want.name+".key"), s.file(want.name+".crt")
	roots, err := readCerts(s.file(want.ca + ".crt"))
	if err != nil {
		return nil, broken(s.file(want.ca+".crt"), err)
	}
	key, keyFault := readKey(keyFile)
	if keyFault == nil {
		if err := tighten(keyFile, 0o600); err != nil {
			return nil, err
		}
	}
	certs, err := readCerts(certFile)
	why := ""
	switch {
	case keyFault != nil:
		why = "its key: " + plain(keyFault)
	case err != nil:
		why = plain(err)
	default:
		why = s.wrong(want, certs[0], key, roots)
	}
	if why == "" {
		return nil, nil
	}
	ca, err := s.authority(want.ca)
	if err != nil {
		return nil, fmt.Errorf("issue %s (%s): %w", certFile, why, err)
	}
	var changes []Change
	if keyFault != nil {
		if key, err = newKey(); err != nil {
			return nil, err
		}
		if err := s.writeKey(keyFile, key); err != nil {
			return nil, err
		}
		changes = append(changes, Change{keyFile, plain(keyFault)})
	}
	der, err := s.sign(ca, want, key)
	if err != nil {
		return changes, fmt.Errorf("sign %s: %w", certFile, err)
	}
	if err := s.write(certFile, encodeCert(der), 0o644); err != nil {
		return changes, err
	}
	return append(changes, Change{certFile, why}), nil
}

func plain(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "missing"
	}
	return "unreadable: " + err.Error()
}

// wrong says why have is not as it should be; "" when it is.
func (s *Store) wrong(want leaf, have *x509.Certificate, key crypto.Signer, roots []*x509.Certificate) string {
	now := s.now()
	pool := x509.NewCertPool()
	var lastRoot time.Time
	for _, c := range roots {
		pool.AddCert(c)
		if c.NotAfter.After(lastRoot) {
			lastRoot = c.NotAfter
		}
	}
	dns, ips := sortNames(want.names)
	switch {
	case !fits(have, key):
		return "its key is another"
	case now.Before(have.NotBefore):
		return "not yet valid: it begins " + day(have.NotBefore)
	case now.After(have.NotAfter):
		return "expired " + day(have.NotAfter)
	case now.Add(s.renewBefore).After(have.NotAfter) && have.NotAfter.Before(lastRoot):
		return "expires " + day(have.NotAfter) // and a new one would live longer
	case have.Subject.CommonName != want.subject.CommonName || !slices.Equal(have.Subject.Organization, want.subject.Organization):
		return "made out to " + have.Subject.String()
	case !slices.Equal(have.ExtKeyUsage, want.usages):
		return "has other usages"
	case !slices.Equal(sorted(have.DNSNames), dns) || !slices.Equal(addresses(have), ips):
		return "made out to other names"
	}
	if _, err := have.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: want.usages}); err != nil {
		return "not signed by " + want.ca + ".crt"
	}
	return ""
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// sign issues a leaf for key.
func (s *Store) sign(ca *authority, want leaf, key crypto.Signer) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := s.now()
	dns, ips := sortNames(want.names)
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               want.subject,
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(leafLifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           want.usages,
		BasicConstraintsValid: true,
		DNSNames:              dns,
	}
	for _, ip := range ips {
		tmpl.IPAddresses = append(tmpl.IPAddresses, netip.MustParseAddr(ip).AsSlice())
	}
	if ca.cert.NotAfter.Before(tmpl.NotAfter) {
		tmpl.NotAfter = ca.cert.NotAfter // beyond its CA's end it would be worth nothing
	}
	if tmpl.NotBefore.Before(ca.cert.NotBefore) {
		tmpl.NotBefore = ca.cert.NotBefore
	}
	return x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
}

// sortNames parts names into DNS names and IP addresses, each sorted and
// without duplicates, so that two lists can be compared.
func sortNames(names []string) (dns, ips []string) {
	for _, n := range names {
		switch a, err := netip.ParseAddr(n); {
		case n == "":
		case err == nil:
			ips = append(ips, a.Unmap().String())
		default:
			dns = append(dns, strings.ToLower(n))
		}
	}
	return sorted(dns), sorted(ips)
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}

func addresses(c *x509.Certificate) []string {
	var ips []string
	for _, ip := range c.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			ips = append(ips, a.Unmap().String())
		}
	}
	return sorted(ips)
}
