package kube

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
)

// flags is a command line in the making: each flag once, in the order in which
// it was first set.
type flags struct {
	names  []string
	values map[string]string
}

func (f *flags) set(name, value string) {
	if f.values == nil {
		f.values = map[string]string{}
	}
	if _, known := f.values[name]; !known {
		f.names = append(f.names, name)
	}
	f.values[name] = value
}

func (f *flags) list(name string, values ...string) { f.set(name, strings.Join(values, ",")) }
func (f *flags) bool(name string, value bool)       { f.set(name, strconv.FormatBool(value)) }
func (f *flags) int(name string, value int)         { f.set(name, strconv.Itoa(value)) }

func (f *flags) duration(name string, value time.Duration) { f.set(name, value.String()) }

// override sets what the user wants: our flags keep their place, others follow
// in the order of their names.
func (f *flags) override(extra map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(extra)) {
		f.set(name, extra[name])
	}
}

// argv is program followed by all flags.
func (f *flags) argv(program string) []string {
	out := []string{program}
	for _, name := range f.names {
		out = append(out, "--"+name+"="+f.values[name])
	}
	return out
}

// strongCiphers are the suites of TLS 1.2 with forward secrecy and
// authenticated encryption. Those of TLS 1.3 are all strong and not
// configurable.
var strongCiphers = []string{
	"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
	"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
	"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
	"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
	"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
	"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
}

// tls sets what every component's own HTTPS port has.
func (f *flags) tls() {
	f.set("tls-min-version", "VersionTLS12")
	f.list("tls-cipher-suites", strongCiphers...)
	f.bool("profiling", false)
}

// host is one master's view of the cluster.
type host struct {
	layout.Layout
	cluster *config.Cluster
	master  config.Master
}

// on returns the view of the master with the given name.
func on(l layout.Layout, c *config.Cluster, master, component string) (host, error) {
	m, ok := c.MasterByName(master)
	if !ok {
		return host{}, fmt.Errorf("command line of %s: no master %q in the configuration", component, master)
	}
	return host{Layout: l, cluster: c, master: m}, nil
}

func (h host) program(name string) string { return filepath.Join(h.cluster.Kubernetes.BinDir, name) }

func (h host) pki(name string) string { return filepath.Join(h.PKI(), filepath.FromSlash(name)) }
