package kube

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
)

// The API servers' side of the time that a graceful stop takes.
const (
	requestTimeout = time.Minute      // the longest that a request may run; kube-apiserver's default
	watchGrace     = 10 * time.Second // to end watches one by one instead of all at once
)

// serviceAccountIssuer is the "iss" of service account tokens. It is the name
// that kubeadm gives too; changing it makes all issued tokens invalid.
const serviceAccountIssuer = "https://kubernetes.default.svc.cluster.local"

// loopbackAdvertise stands in for the advertised address when the masters live
// on loopback addresses, which kube-apiserver refuses to advertise. It is one
// of RFC 5737's documentation addresses, so it leads nowhere.
const loopbackAdvertise = "192.0.2.1"

// APIServer returns the command line of master's kube-apiserver: the program's
// path, then its flags. It errs on an unknown master and on extraArgs that
// kube-apiserver would refuse together with ours.
func APIServer(l layout.Layout, c *config.Cluster, master string) ([]string, error) {
	h, err := on(l, c, master, "kube-apiserver")
	if err != nil {
		return nil, err
	}
	if err := checkExtraArgs(c.APIServer); err != nil {
		return nil, err
	}
	var f flags
	h.serving(&f)
	h.etcd(&f)
	h.authentication(&f)
	h.authorization(&f)
	h.serviceAccounts(&f)
	h.outgoing(&f)
	h.audit(&f)
	h.stopping(&f)
	f.override(c.APIServer.ExtraArgs)
	return f.argv(h.program("kube-apiserver")), nil
}

// checkExtraArgs refuses what cannot go together with our flags, so that the
// mistake is told here and not in the log of a process that does not start.
func checkExtraArgs(a config.APIServer) error {
	if _, theirs := a.ExtraArgs["authentication-config"]; theirs {
		return nil // then anonymous requests and issuers are the user's business
	}
	for _, name := range slices.Sorted(maps.Keys(a.ExtraArgs)) {
		switch {
		case name == "anonymous-auth":
			return fmt.Errorf("apiServer.extraArgs.%s: anonymous requests are limited to the health paths by %s; to change that, set extraArgs.authentication-config to a file of your own", name, authenticationName)
		case strings.HasPrefix(name, "oidc-"):
			return fmt.Errorf("apiServer.extraArgs.%s: kube-apiserver takes no --oidc-* beside an authentication file; use apiServer.oidc", name)
		}
	}
	return nil
}

func (h host) serving(f *flags) {
	c := h.cluster
	if a, err := netip.ParseAddr(h.master.Address); err == nil && a.IsLoopback() {
		f.set("advertise-address", loopbackAdvertise)
		f.set("endpoint-reconciler-type", "none")
	} else {
		f.set("advertise-address", h.master.Address)
	}
	f.set("bind-address", h.master.Address)
	f.int("secure-port", c.APIServer.Port)
	f.set("tls-cert-file", h.pki("apiserver.crt"))
	f.set("tls-private-key-file", h.pki("apiserver.key"))
	f.tls()
	f.set("service-cluster-ip-range", c.Kubernetes.ServiceCIDR)
	f.bool("allow-privileged", true)
	f.list("enable-admission-plugins", "NodeRestriction", "DenyServiceExternalIPs")
}

// etcd connects the API server to its own master's member, and to no other.
//
// kube-apiserver's etcd client spreads its requests evenly over the members
// that it is given; it has no notion of a preferred one. Given all members,
// each API server sends a third of its requests to each master: one member
// that hangs, or one machine that vanishes without a word, then slows every
// API server at the same time, until the client's keep-alive gives up (40 s),
// and no balancer can route around it. Given its own member only, a sick
// member makes one API server sick; its /readyz says so and the balancers take
// it out: one failure stays one failure.
//
// Measured on three masters, half reads and half writes on new connections, a
// follower frozen for 8 s: 10 % of the requests took over a second, those
// before the ejection; with all members 15 %, for as long as it was frozen. A
// follower killed and restarted within a second fails no request in either
// case (the client waits for the connection), but some wait for it, up to
// 1.4 s instead of 0.5 s. Killing the leader costs the same in both.
func (h host) etcd(f *flags) {
	f.list("etcd-servers", h.master.EtcdClientURL())
	f.set("etcd-cafile", h.pki("etcd/ca.crt"))
	f.set("etcd-certfile", h.pki("apiserver-etcd-client.crt"))
	f.set("etcd-keyfile", h.pki("apiserver-etcd-client.key"))
	f.set("encryption-provider-config", EncryptionFile(h.Layout))
	f.bool("encryption-provider-config-automatic-reload", true)
}

func (h host) authentication(f *flags) {
	f.set("client-ca-file", h.pki("ca.crt"))
	f.set("authentication-config", h.file(authenticationName))
	f.bool("enable-bootstrap-token-auth", true)
	if file := h.cluster.APIServer.TokenAuthFile; file != "" {
		f.set("token-auth-file", file)
	}
	f.set("requestheader-client-ca-file", h.pki("front-proxy-ca.crt"))
	f.set("requestheader-allowed-names", "front-proxy-client")
	f.set("requestheader-username-headers", "X-Remote-User")
	f.set("requestheader-group-headers", "X-Remote-Group")
	f.set("requestheader-extra-headers-prefix", "X-Remote-Extra-")
}

func (h host) authorization(f *flags) {
	a := h.cluster.APIServer
	f.list("authorization-mode", modes(a)...)
	if slices.Contains(modes(a), "ABAC") {
		f.set("authorization-policy-file", h.file(abacName))
	}
}

func modes(a config.APIServer) []string {
	if len(a.AuthorizationModes) == 0 {
		return []string{"Node", "RBAC"}
	}
	return a.AuthorizationModes
}

func (h host) serviceAccounts(f *flags) {
	f.set("service-account-issuer", serviceAccountIssuer)
	f.set("service-account-key-file", h.pki("sa.pub"))
	f.set("service-account-signing-key-file", h.pki("sa.key"))
	f.bool("service-account-lookup", true)
	// Else the tokens in pods would be good for a year instead of an hour.
	f.bool("service-account-extend-token-expiration", false)
}

// outgoing is how the API server shows itself to kubelets and to extension API
// servers.
func (h host) outgoing(f *flags) {
	f.set("kubelet-certificate-authority", h.pki("ca.crt"))
	f.set("kubelet-client-certificate", h.pki("apiserver-kubelet-client.crt"))
	f.set("kubelet-client-key", h.pki("apiserver-kubelet-client.key"))
	f.list("kubelet-preferred-address-types", "InternalIP", "ExternalIP", "Hostname")
	f.set("proxy-client-cert-file", h.pki("front-proxy-client.crt"))
	f.set("proxy-client-key-file", h.pki("front-proxy-client.key"))
}

func (h host) audit(f *flags) {
	f.set("audit-policy-file", h.file(auditPolicyName))
	f.set("audit-log-path", AuditLog(h.Layout))
	f.int("audit-log-maxage", 30) // days
	f.int("audit-log-maxbackup", 10)
	f.int("audit-log-maxsize", 100) // MB
}

func (h host) stopping(f *flags) {
	f.duration("request-timeout", requestTimeout)
	f.duration("shutdown-delay-duration", ShutdownDelay(h.cluster))
	f.bool("shutdown-send-retry-after", true)
	f.duration("shutdown-watch-termination-grace-period", watchGrace)
	// One in a thousand requests asks its client to connect again, so that
	// load evens out after a master came back. Alone, a server would only
	// annoy its clients.
	if len(h.cluster.Masters) > 1 {
		f.set("goaway-chance", "0.001")
	}
}

// ShutdownDelay is how long an API server that was told to stop goes on
// serving, with a red /readyz, before it refuses: as long as the slowest
// balancer may need to notice (every check of loadBalancer.check at its latest,
// one of them timing out), and two seconds for balancers on busy workers.
func ShutdownDelay(c *config.Cluster) time.Duration {
	check := c.LoadBalancer.Check
	delay := time.Duration(max(check.Fall, 1))*check.Every + check.Timeout + 2*time.Second
	return delay.Round(time.Second)
}

// StopTimeout is how long a supervisor must wait between SIGTERM and SIGKILL of
// an API server: its drain, the longest request and its watches; less cuts
// requests off. Idle servers stop right after ShutdownDelay.
func StopTimeout(c *config.Cluster) time.Duration {
	return ShutdownDelay(c) + requestTimeout + watchGrace + 5*time.Second
}
