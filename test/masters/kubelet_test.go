//go:build lab

package masters

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/test/hosts"
	"github.com/hactl/hactl/test/node"
)

// The kubelet's files: what a user gives it before and after bootstrap.
const (
	// The cluster's CA is there, and its key's owner known, once bootstrap has made it.
	bootstrapKubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://%s:6443", certificate-authority: /etc/kubernetes/pki/ca.crt}}]
users: [{name: u, user: {token: abcdef.0123456789abcdef}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`
	// kubeadm's way of letting nodes in: a token that may ask for a certificate,
	// which is approved.
	nodesMayJoin = `apiVersion: v1
kind: Secret
metadata: {name: bootstrap-token-abcdef, namespace: kube-system}
type: bootstrap.kubernetes.io/token
stringData: {token-id: abcdef, token-secret: 0123456789abcdef, usage-bootstrap-authentication: "true", auth-extra-groups: "system:bootstrappers:hactl"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: nodes-ask}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:node-bootstrapper"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:bootstrappers:hactl"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: nodes-are-approved}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:bootstrappers:hactl"}]
`
	podLog = "/var/log/podwork/work"
)

// A machine with a kubelet and a container runtime, both disabled, is a node after
// bootstrap: both are enabled and run, the kubelet joins through the front door and
// runs a static pod; also after a reboot.
func TestKubelet(t *testing.T) {
	cfg := hosts.Config{Hosts: 1}
	if err := node.Equip(t.Context(), &cfg); err != nil {
		t.Fatal(err)
	}
	image, err := node.Image(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := upWith(t, cfg)
	// Its serving certificate is the cluster's, so that the API server believes it.
	options := node.Options{Image: image, Config: "serverTLSBootstrap: true\nauthentication: {x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}\n"}
	if err := node.Install(t.Context(), m.Host(1), options); err != nil {
		t.Fatal(err)
	}
	for _, unit := range []string{node.Runtime, node.Kubelet} {
		if o := m.command(t.Context(), "m1", "systemctl", "is-enabled", unit); o.stdout != "disabled\n" {
			t.Fatalf("before: %v", o)
		}
		if o := m.command(t.Context(), "m1", "systemctl", "is-active", unit); o.stdout != "inactive\n" {
			t.Fatalf("before: %v", o)
		}
	}
	m.shell(t, "m1", "mkdir /var/log/podwork")
	m.write(t, "m1", "/etc/kubernetes/bootstrap-kubelet.conf", fmt.Sprintf(bootstrapKubeconfig, m.Host(1).Address()), 0o600)
	m.write(t, "m1", node.StaticPods+"/work.yaml", node.Pod("work", podLog, "0s"), 0o600)
	m.configure(t, "m1")
	m.bootstrap(t, []string{"m1"})
	m.nodeUnitsRun(t)
	m.healthy(t, "m1")

	began := time.Now()
	m.write(t, "m1", "/root/nodes.yaml", nodesMayJoin, 0o600)
	m.kubectl(t, "apply", "-f", "/root/nodes.yaml")
	m.nodeReady(t, began)
	m.podRuns(t)
	t.Logf("measure: a node that is ready and runs its pod: %.1fs", time.Since(began).Seconds())
	m.approveServing(t)
	testwait.For(t, "the pod's log through the API server", patience, func() error {
		o := m.command(t.Context(), "m1", kubectl, "--kubeconfig", "/etc/kubernetes/admin.conf", "logs", "work-m1")
		if o.code != 0 || !strings.Contains(o.stdout, "podwork began") {
			return fmt.Errorf("%v", o)
		}
		return nil
	})

	before := m.mainPID(t, "m1", "kubelet")
	m.must(t, "m1", "bootstrap")
	if after := m.mainPID(t, "m1", "kubelet"); after != before {
		t.Errorf("bootstrap, run again, restarted the kubelet: process %d, before %d", after, before)
	}

	if err := m.Host(1).Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	booted := time.Now()
	m.nodeUnitsRun(t)
	m.healthy(t, "m1")
	m.nodeReady(t, booted)
	m.podRuns(t)

	m.shell(t, "m1", "rm "+node.StaticPods+"/work.yaml")
	testwait.For(t, "the pod to end with its manifest", patience, func() error {
		if o := m.command(t.Context(), "m1", "pgrep", "-f", "^/podwork work"); o.code != 1 {
			return fmt.Errorf("%v", o)
		}
		return nil
	})
}

// nodeUnitsRun waits until kubelet and runtime are active; enabled they must be at
// once.
func (m *masters) nodeUnitsRun(t *testing.T) {
	t.Helper()
	for _, unit := range []string{node.Runtime, node.Kubelet} {
		if o := m.command(t.Context(), "m1", "systemctl", "is-enabled", unit); o.stdout != "enabled\n" {
			t.Errorf("%v", o)
		}
		// Without a certificate a kubelet ends, and is started again, until it may join.
		testwait.For(t, unit+" to be active", patience, func() error {
			if o := m.command(t.Context(), "m1", "systemctl", "is-active", unit); o.stdout != "active\n" {
				return fmt.Errorf("%v", o)
			}
			return nil
		})
	}
}

// kubectl asks through the front door.
func (m *masters) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	o := m.command(t.Context(), "m1", append([]string{kubectl, "--kubeconfig", "/etc/kubernetes/admin.conf"}, args...)...)
	if o.code != 0 {
		t.Fatal(o)
	}
	return o.stdout
}

// nodeReady waits until the API says that the node is ready, and the kubelet has
// renewed its lease after since.
func (m *masters) nodeReady(t *testing.T, since time.Time) {
	t.Helper()
	testwait.For(t, "a node that is ready", patience, func() error {
		var n struct {
			Status struct {
				Conditions []struct{ Type, Status, Message string }
				NodeInfo   struct{ KubeletVersion, ContainerRuntimeVersion string }
			}
		}
		var lease struct{ Spec struct{ RenewTime time.Time } }
		if err := errors.Join(m.object(t, &n, "node", "m1"), m.object(t, &lease, "-n", "kube-node-lease", "lease", "m1")); err != nil {
			return err
		}
		if !lease.Spec.RenewTime.After(since) {
			return fmt.Errorf("its lease was last renewed at %v", lease.Spec.RenewTime)
		}
		for _, c := range n.Status.Conditions {
			if c.Type == "Ready" && c.Status == "True" {
				t.Logf("the node is ready: %+v", n.Status.NodeInfo)
				return nil
			}
		}
		return fmt.Errorf("%+v", n.Status.Conditions)
	})
}

// object reads one through the front door.
func (m *masters) object(t *testing.T, into any, what ...string) error {
	o := m.command(t.Context(), "m1", append([]string{kubectl, "--kubeconfig", "/etc/kubernetes/admin.conf", "get", "-o", "json"}, what...)...)
	if o.code != 0 {
		return fmt.Errorf("%v", o)
	}
	return json.Unmarshal([]byte(o.stdout), into)
}

// podRuns waits until the API shows the static pod as running, and its process
// writes.
func (m *masters) podRuns(t *testing.T) {
	t.Helper()
	testwait.For(t, "the static pod in the API", patience, func() error {
		var pod struct {
			Status struct{ Phase, Reason string }
		}
		err := m.object(t, &pod, "pod", "work-m1")
		if err == nil && pod.Status.Phase != "Running" {
			err = fmt.Errorf("%+v", pod.Status)
		}
		return err
	})
	lines := func() string { return m.shell(t, "m1", "stat -c %s "+podLog).stdout }
	before := lines()
	testwait.For(t, "the pod to write", patience, func() error {
		if lines() == before {
			return errors.New("its log does not grow")
		}
		return nil
	})
}

// approveServing lets the kubelet have its serving certificate, which is for a
// person to decide.
func (m *masters) approveServing(t *testing.T) {
	t.Helper()
	testwait.For(t, "the kubelet to ask for a serving certificate", patience, func() error {
		names := strings.Fields(m.kubectl(t, "get", "csr", "-o", `jsonpath={range .items[?(@.spec.signerName=="kubernetes.io/kubelet-serving")]}{.metadata.name} {end}`))
		if len(names) == 0 {
			return errors.New("not yet")
		}
		m.kubectl(t, append([]string{"certificate", "approve"}, names...)...)
		return nil
	})
}
