package acceptance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// contexts: two namespaces, a context for each, and what one sees in them.
func (r *run) contexts(t *testing.T) {
	a, b := r.namespace(t, "dev"), r.namespace(t, "ops")
	k := r.copied(t)
	cluster := k.do(t, "config", "view", "--minify", jsonpath(".contexts[0].context.cluster"))
	user := k.do(t, "config", "view", "--minify", jsonpath(".contexts[0].context.user"))
	for _, ns := range []string{a, b} {
		k.do(t, "config", "set-context", ns, "--namespace="+ns, "--cluster="+cluster, "--user="+user)
	}
	k.do(t, "config", "use-context", a)
	if got := k.do(t, "config", "current-context"); got != a {
		t.Errorf("the current context is %s, want %s", got, a)
	}
	// Without -n, what is made lands in the context's namespace …
	k.do(t, "create", "configmap", "here", "--from-literal=in="+a)
	if got := k.do(t, "get", "configmap", "here", "-n", a, jsonpath(".data.in")); got != a {
		t.Errorf("in %s: %q", a, got)
	}
	// … and is not seen from the other one.
	k.do(t, "config", "use-context", b)
	k.refused(t, `configmaps "here" not found`, "", "get", "configmap", "here")
	if got := k.do(t, "get", "configmap", "here", "--context="+a, jsonpath(".data.in")); got != a {
		t.Errorf("through --context: %q", got)
	}
	// Two objects of one name live side by side.
	k.do(t, "create", "configmap", "here", "--from-literal=in="+b)
	if got := k.do(t, "get", "configmap", "here", "-n", a, jsonpath(".data.in")); got != a {
		t.Errorf("%s was changed from %s: %q", a, b, got)
	}
}

// pods are the names of the pods that a selector finds.
func (r *run) pods(t *testing.T, ns, selector string) []string {
	t.Helper()
	return names(r.do(t, "get", "pods", "-n", ns, "-l", selector, "-o=name"))
}

// on returns the nodes on which the pods of a selector are, sorted, each once.
func (r *run) on(t *testing.T, ns, selector string) []string {
	t.Helper()
	nodes := strings.Fields(r.do(t, "get", "pods", "-n", ns, "-l", selector, jsonpath(".items[*].spec.nodeName")))
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// replicationController: so many pods as it says run on nodes, a lost one is
// replaced, and it scales.
func (r *run) replicationController(t *testing.T) {
	ns := r.namespace(t, "rc")
	r.apply(t, fmt.Sprintf(`
apiVersion: v1
kind: ReplicationController
metadata: {name: web}
spec:
  replicas: 3
  selector: {app: web}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {acceptance: %s}
      containers: [{name: web, image: example.com/web:1}]
`, r.id), "apply", "-n", ns, "-f", "-")
	r.running(t, ns, "rc/web", 3)
	first := r.pods(t, ns, "app=web")
	for _, node := range r.on(t, ns, "app=web") {
		if !strings.HasPrefix(node, r.id) {
			t.Errorf("a pod runs on %s, which is none of the run's nodes", node)
		}
	}

	lost := first[0]
	r.do(t, "delete", "pod", lost, "-n", ns, patience)
	eventually(t, "the lost pod's successor", func() error {
		now := r.pods(t, ns, "app=web")
		if len(now) != 3 || slices.Contains(now, lost) {
			return fmt.Errorf("pods %q after the loss of %s", now, lost)
		}
		return nil
	})
	r.running(t, ns, "rc/web", 3)
	r.do(t, "scale", "rc/web", "-n", ns, "--replicas=5")
	r.running(t, ns, "rc/web", 5)
	r.do(t, "scale", "rc/web", "-n", ns, "--replicas=1")
	eventually(t, "one pod to be left", func() error {
		if now := r.pods(t, ns, "app=web"); len(now) != 1 {
			return fmt.Errorf("pods %q", now)
		}
		return nil
	})
}

// running waits until a controller says that n of its pods are ready.
func (r *run) running(t *testing.T, ns, object string, n int) {
	t.Helper()
	r.do(t, "wait", object, "-n", ns, fmt.Sprintf("--for=jsonpath={.status.readyReplicas}=%d", n), patience)
}

// deployment is the manifest of a deployment on nodes that selector names.
func deployment(name, image string, replicas int, selector string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[3]d
  selector: {matchLabels: {app: %[1]s}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      nodeSelector: {%[4]s}
      containers: [{name: main, image: "%[2]s"}]
`, name, image, replicas, selector)
}

// placement: node selectors decide where pods go, and labels of nodes where
// they can go; labels of pods find them.
func (r *run) placement(t *testing.T) {
	ns := r.namespace(t, "labels")
	mine := "acceptance: " + r.id
	r.apply(t, deployment("fast", "example.com/db:1", 3, mine+", disk: ssd"), "apply", "-n", ns, "-f", "-")
	r.apply(t, deployment("cheap", "example.com/log:1", 4, mine+", disk: hdd"), "apply", "-n", ns, "-f", "-")
	r.running(t, ns, "deployment/fast", 3)
	r.running(t, ns, "deployment/cheap", 4)
	if err := same(r.on(t, ns, "app=fast"), []string{r.node("node3")}); err != nil {
		t.Errorf("pods that want an SSD: %v", err)
	}
	if err := same(r.on(t, ns, "app=cheap"), []string{r.node("node1"), r.node("node2")}); err != nil {
		t.Errorf("pods that want a spinning disk: %v", err)
	}

	// No node has the label: the pod waits. Then one gets it.
	r.apply(t, deployment("picky", "example.com/ml:1", 1, mine+", gpu: big"), "apply", "-n", ns, "-f", "-")
	r.prints(t, "Unschedulable", "get", "pods", "-n", ns, "-l", "app=picky", jsonpath(`.items[0].status.conditions[?(@.type=="PodScheduled")].reason`))
	r.do(t, "label", "node", r.node("node2"), "gpu=big")
	r.running(t, ns, "deployment/picky", 1)
	if err := same(r.on(t, ns, "app=picky"), []string{r.node("node2")}); err != nil {
		t.Errorf("the pod that wants a GPU: %v", err)
	}

	// Labels find pods: with sets, with not.
	r.do(t, "label", "pods", "-n", ns, "-l", "app=fast", "tier=data")
	for selector, want := range map[string]int{"tier=data": 3, "tier!=data": 5, "app in (cheap,picky)": 5, "app,!tier": 5, "app notin (fast)": 5} {
		if got := r.pods(t, ns, selector); len(got) != want {
			t.Errorf("-l %q finds %q, want %d", selector, got, want)
		}
	}
}

// rollout: a new template reaches every pod without a gap, its history can be
// read, and it can be taken back; so can one that never gets ready.
func (r *run) rollout(t *testing.T) {
	ns := r.namespace(t, "rollout")
	r.apply(t, deployment("shop", "example.com/shop:1", 3, "acceptance: "+r.id), "apply", "-n", ns, "-f", "-")
	images := func(want ...string) {
		t.Helper()
		r.do(t, "rollout", "status", "deployment/shop", "-n", ns, patience)
		eventually(t, "pods of the old template to go", func() error {
			return same(strings.Fields(r.do(t, "get", "pods", "-n", ns, "-l", "app=shop", jsonpath(".items[*].spec.containers[0].image"))), want)
		})
	}
	const v1, v2 = "example.com/shop:1", "example.com/shop:2"
	images(v1, v1, v1)
	r.do(t, "set", "image", "deployment/shop", "-n", ns, "main="+v2)
	images(v2, v2, v2)
	history := r.do(t, "rollout", "history", "deployment/shop", "-n", ns)
	if !strings.Contains(history, "\n1 ") || !strings.Contains(history, "\n2 ") {
		t.Errorf("history:\n%s", history)
	}
	if got := r.do(t, "rollout", "history", "deployment/shop", "-n", ns, "--revision=1"); !strings.Contains(got, v1) {
		t.Errorf("revision 1:\n%s", got)
	}
	r.do(t, "rollout", "undo", "deployment/shop", "-n", ns)
	images(v1, v1, v1)

	// One that no node can run: the old pods stay, and the way back works.
	r.do(t, "patch", "deployment/shop", "-n", ns, "-p", `{"spec":{"template":{"spec":{"nodeSelector":{"moon":"base"}}}}}`)
	r.prints(t, "1", "get", "deployment/shop", "-n", ns, jsonpath(".status.unavailableReplicas"))
	if got := r.do(t, "get", "deployment/shop", "-n", ns, jsonpath(".status.availableReplicas")); got != "3" {
		t.Errorf("%s pods serve during the stuck roll-out, want 3", got)
	}
	r.do(t, "rollout", "undo", "deployment/shop", "-n", ns)
	images(v1, v1, v1)
}

// deleteNamespace: a namespace takes everything in it along, and what is not
// in it stays.
func (r *run) deleteNamespace(t *testing.T) {
	ns, other := r.namespace(t, "gone"), r.namespace(t, "stays")
	r.apply(t, deployment("app", "example.com/app:1", 2, "acceptance: "+r.id), "apply", "-n", ns, "-f", "-")
	r.do(t, "create", "secret", "generic", "s", "-n", ns, "--from-literal=k=v")
	r.do(t, "create", "configmap", "c", "-n", ns, "--from-literal=k=v")
	r.do(t, "create", "serviceaccount", "robot", "-n", ns)
	r.do(t, "create", "service", "clusterip", "app", "-n", ns, "--tcp=80:8080")
	r.do(t, "create", "configmap", "c", "-n", other, "--from-literal=k=v")
	r.running(t, ns, "deployment/app", 2)
	keys := []string{"/registry/secrets/" + ns + "/s", "/registry/configmaps/" + ns + "/c", "/registry/deployments/" + ns + "/app", "/registry/pods/" + ns + "/" + r.pods(t, ns, "app=app")[0]}
	for _, key := range keys {
		if r.etcd(t, key) == nil {
			t.Fatalf("%s is not in etcd, so its end would prove nothing", key)
		}
	}

	r.do(t, "delete", "namespace", ns, "--wait=false")
	r.do(t, "wait", "--for=delete", "namespace/"+ns, patience)
	r.refused(t, "not found", "", "get", "namespace", ns)
	for _, key := range keys {
		if r.etcd(t, key) != nil {
			t.Errorf("%s is still in etcd", key)
		}
	}
	kinds := strings.Fields(r.do(t, "api-resources", "--namespaced", "--verbs=list", "-o=name"))
	if len(kinds) < 20 {
		t.Fatalf("only %q are known", kinds)
	}
	kinds = slices.DeleteFunc(kinds, func(k string) bool { return strings.HasPrefix(k, "events") }) // they tell of the end itself
	if left := r.do(t, "get", strings.Join(kinds, ","), "-n", ns, "-o=name", "--ignore-not-found"); left != "" {
		t.Errorf("left in %s: %s", ns, left)
	}
	if got := r.do(t, "get", "configmap", "c", "-n", other, jsonpath(".data.k")); got != "v" {
		t.Errorf("the other namespace's object: %q", got)
	}
}

// etcd returns the raw value of a key, nil when there is none.
func (r *run) etcd(t *testing.T, key string) []byte {
	t.Helper()
	value, err := r.cfg.EtcdGet(t.Context(), key)
	if err != nil {
		t.Fatalf("read %s from etcd: %v", key, err)
	}
	return value
}
