package acceptance

import (
	"fmt"
	"testing"
)

// pod is the manifest of a pod whose container asks for resources, as YAML.
func (r *run) pod(name, resources string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeSelector: {acceptance: %s}
  containers: [{name: main, image: "example.com/x:1", resources: {%s}}]
`, name, r.id, resources)
}

// quota: what is within the quota is taken, one more is refused, also when a
// controller asks, and freeing room lets the next one in.
func (r *run) quota(t *testing.T) {
	ns := r.namespace(t, "quota")
	r.do(t, "create", "quota", "small", "-n", ns, "--hard=pods=2,requests.cpu=1")
	r.do(t, "wait", "resourcequota/small", "-n", ns, "--for=jsonpath={.status.hard.pods}=2", patience)
	breach := r.pod("too-much", "requests: {cpu: 1500m}")
	eventually(t, "every API server to know the quota", func() error {
		return r.refusal(t, "exceeded quota: small", breach, "create", "--dry-run=server", "-n", ns, "-f", "-")
	})
	r.refused(t, "exceeded quota: small, requested: requests.cpu=1500m", breach, "create", "-n", ns, "-f", "-")
	// With a quota on CPU, a pod must say how much it wants.
	r.refused(t, "must specify requests.cpu", r.pod("silent", ""), "create", "-n", ns, "-f", "-")

	r.apply(t, r.pod("one", "requests: {cpu: 400m}"), "create", "-n", ns, "-f", "-")
	r.apply(t, r.pod("two", "requests: {cpu: 400m}"), "create", "-n", ns, "-f", "-")
	r.refused(t, "exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2", r.pod("three", "requests: {cpu: 100m}"), "create", "-n", ns, "-f", "-")
	r.prints(t, "2 800m", "get", "resourcequota/small", "-n", ns, "-o=jsonpath={.status.used.pods} {.status.used.requests\\.cpu}")

	// A controller that asks for more than fits makes what fits and says why.
	r.do(t, "delete", "pod", "two", "-n", ns, patience)
	r.apply(t, `
apiVersion: v1
kind: ReplicationController
metadata: {name: greedy}
spec:
  replicas: 3
  selector: {app: greedy}
  template:
    metadata: {labels: {app: greedy}}
    spec:
      nodeSelector: {acceptance: `+r.id+`}
      containers: [{name: main, image: "example.com/x:1", resources: {requests: {cpu: 100m}}}]
`, "apply", "-n", ns, "-f", "-")
	r.running(t, ns, "rc/greedy", 1)
	r.prints(t, "FailedCreate", "get", "rc/greedy", "-n", ns, jsonpath(`.status.conditions[?(@.type=="ReplicaFailure")].reason`))
}

// limitRange: a container that says nothing gets the defaults, one beyond the
// limits is refused.
func (r *run) limitRange(t *testing.T) {
	ns := r.namespace(t, "limits")
	r.apply(t, `
apiVersion: v1
kind: LimitRange
metadata: {name: modest}
spec:
  limits:
    - type: Container
      min: {cpu: 50m}
      max: {cpu: 500m, memory: 256Mi}
      default: {cpu: 300m, memory: 128Mi}
      defaultRequest: {cpu: 100m, memory: 64Mi}
`, "apply", "-n", ns, "-f", "-")
	big := r.pod("big", "requests: {cpu: 2}, limits: {cpu: 2}")
	eventually(t, "every API server to know the limits", func() error {
		return r.refusal(t, "maximum cpu usage per Container is 500m", big, "create", "--dry-run=server", "-n", ns, "-f", "-")
	})
	r.refused(t, "maximum cpu usage per Container is 500m, but limit is 2", big, "create", "-n", ns, "-f", "-")
	r.refused(t, "minimum cpu usage per Container is 50m, but request is 10m", r.pod("tiny", "requests: {cpu: 10m}"), "create", "-n", ns, "-f", "-")
	r.refused(t, "maximum memory usage per Container is 256Mi", r.pod("fat", "limits: {memory: 1Gi}"), "create", "-n", ns, "-f", "-")

	r.apply(t, r.pod("plain", ""), "create", "-n", ns, "-f", "-")
	if got := r.do(t, "get", "pod", "plain", "-n", ns, "-o=jsonpath={.spec.containers[0].resources.requests.cpu} {.spec.containers[0].resources.limits.memory}"); got != "100m 128Mi" {
		t.Errorf("defaults of a pod that says nothing: %q, want 100m 128Mi", got)
	}
	r.do(t, "wait", "--for=condition=Ready", "pod/plain", "-n", ns, patience)
}
