package kube

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The items of the CIS Kubernetes benchmark (v1.12, section 1.2 to 1.4) that
// flags decide. Those that ask for a flag to be absent are here as well.
func TestCISBenchmark(t *testing.T) {
	api, sched, kcm := apiServer(t, three()), scheduler(t, three()), controllerManager(t, three())
	is := func(args map[string]string, name, want string) func() bool {
		return func() bool { return args[name] == want }
	}
	set := func(args map[string]string, names ...string) func() bool {
		return func() bool {
			for _, n := range names {
				if args[n] == "" {
					return false
				}
			}
			return true
		}
	}
	unset := func(args map[string]string, name string) func() bool {
		return func() bool { _, ok := args[name]; return !ok }
	}
	has := func(args map[string]string, name, item string) func() bool {
		return func() bool { return slices.Contains(strings.Split(args[name], ","), item) }
	}
	hasNot := func(args map[string]string, name, item string) func() bool {
		return func() bool { return !has(args, name, item)() }
	}
	atLeast := func(args map[string]string, name string, n int) func() bool {
		return func() bool { got, err := strconv.Atoi(args[name]); return err == nil && got >= n }
	}
	ciphers := func(args map[string]string) func() bool {
		return func() bool {
			for s := range strings.SplitSeq(args["tls-cipher-suites"], ",") {
				if !strings.Contains(s, "_ECDHE_") || (!strings.Contains(s, "_GCM_") && !strings.Contains(s, "CHACHA20")) {
					return false
				}
			}
			return args["tls-min-version"] == "VersionTLS12"
		}
	}
	for _, c := range []struct {
		id, what string
		ok       func() bool
	}{
		{"1.2.1", "anonymous requests: only where authentication.yaml allows them (see TestAuthentication)", func() bool {
			return set(api, "authentication-config")() && unset(api, "anonymous-auth")()
		}},
		{"1.2.2", "no static tokens unless asked for", unset(api, "token-auth-file")},
		{"1.2.3", "DenyServiceExternalIPs", has(api, "enable-admission-plugins", "DenyServiceExternalIPs")},
		{"1.2.4", "client certificate for kubelets", set(api, "kubelet-client-certificate", "kubelet-client-key")},
		{"1.2.5", "kubelets' certificates are verified", set(api, "kubelet-certificate-authority")},
		{"1.2.6", "not AlwaysAllow", hasNot(api, "authorization-mode", "AlwaysAllow")},
		{"1.2.7", "Node authorizer", has(api, "authorization-mode", "Node")},
		{"1.2.8", "RBAC", has(api, "authorization-mode", "RBAC")},
		{"1.2.10", "not AlwaysAdmit", hasNot(api, "enable-admission-plugins", "AlwaysAdmit")},
		{"1.2.12", "ServiceAccount admission stays on", unset(api, "disable-admission-plugins")},
		{"1.2.13", "NamespaceLifecycle admission stays on", unset(api, "disable-admission-plugins")},
		{"1.2.14", "NodeRestriction", has(api, "enable-admission-plugins", "NodeRestriction")},
		{"1.2.15", "no profiling", is(api, "profiling", "false")},
		{"1.2.16", "audit log", set(api, "audit-log-path")},
		{"1.2.17", "audit log: 30 days", atLeast(api, "audit-log-maxage", 30)},
		{"1.2.18", "audit log: 10 files", atLeast(api, "audit-log-maxbackup", 10)},
		{"1.2.19", "audit log: 100 MB a file", atLeast(api, "audit-log-maxsize", 100)},
		{"1.2.20", "request timeout", func() bool {
			d, err := time.ParseDuration(api["request-timeout"])
			return err == nil && d > 0 && d <= 5*time.Minute
		}},
		{"1.2.21", "service account tokens are looked up", is(api, "service-account-lookup", "true")},
		{"1.2.22", "service account key", set(api, "service-account-key-file", "service-account-signing-key-file")},
		{"1.2.23", "client certificate for etcd", set(api, "etcd-certfile", "etcd-keyfile")},
		{"1.2.24", "serving certificate", set(api, "tls-cert-file", "tls-private-key-file")},
		{"1.2.25", "client CA", set(api, "client-ca-file")},
		{"1.2.26", "etcd's certificate is verified", set(api, "etcd-cafile")},
		{"1.2.27", "encryption of secrets", set(api, "encryption-provider-config")},
		{"1.2.28", "a strong provider (see TestEncryption)", set(api, "encryption-provider-config")},
		{"1.2.29", "strong ciphers", ciphers(api)},
		{"1.2.30", "tokens in pods are not extended to a year", is(api, "service-account-extend-token-expiration", "false")},
		{"1.3.1", "terminated pods are collected", atLeast(kcm, "terminated-pod-gc-threshold", 1)},
		{"1.3.2", "no profiling", is(kcm, "profiling", "false")},
		{"1.3.3", "one identity a controller", is(kcm, "use-service-account-credentials", "true")},
		{"1.3.4", "service account key", set(kcm, "service-account-private-key-file")},
		{"1.3.5", "root CA for pods", set(kcm, "root-ca-file")},
		{"1.3.6", "kubelets' serving certificates rotate (the default)", unset(kcm, "feature-gates")},
		{"1.3.7", "loopback only", is(kcm, "bind-address", "127.0.0.1")},
		{"1.4.1", "no profiling", is(sched, "profiling", "false")},
		{"1.4.2", "loopback only", is(sched, "bind-address", "127.0.0.1")},
		{"3.2.1", "audit policy", set(api, "audit-policy-file")},
		{"beyond", "strong ciphers of the controller manager", ciphers(kcm)},
		{"beyond", "strong ciphers of the scheduler", ciphers(sched)},
		{"beyond", "etcd only over TLS", func() bool { return strings.HasPrefix(api["etcd-servers"], "https://") }},
	} {
		if !c.ok() {
			t.Errorf("CIS %s, %s: not so", c.id, c.what)
		}
	}
}
