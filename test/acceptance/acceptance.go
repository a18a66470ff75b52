// Package acceptance is the workload that says whether a control plane is a
// Kubernetes control plane: what a course on Kubernetes makes its pupils do,
// driven with the real kubectl through the front door, on nodes that KWOK
// plays. docs/acceptance.md tells it in words; the tests here have its names.
//
// Everything that it makes has the run's own name, so it can be repeated on the
// same cluster, and is removed at the end.
package acceptance

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Config says what to test and with which programs.
type Config struct {
	Kubectl    string // path of kubectl
	Kubeconfig string // an administrator's; its server is the front door. It is not changed
	KWOK       string // path of kwok
	KWOKStages string // path of kwok-stages, whose output is kwok's configuration
	// EtcdGet returns the raw value of a key in etcd, past the API servers, and
	// nil when there is no such key. It is asked for keys such as
	// /registry/secrets/NAMESPACE/NAME.
	EtcdGet func(ctx context.Context, key string) ([]byte, error)
}

// Run does the whole course; each step is a subtest with namespaces of its own,
// so that steps run beside each other and one that failed keeps no other from
// running.
func Run(t *testing.T, cfg Config) {
	r := newRun(t, cfg)
	r.startKWOK(t)
	r.nodes(t)
	for _, step := range []struct {
		name string
		do   func(*run, *testing.T)
	}{
		{"contexts and namespaces", (*run).contexts},
		{"replication controller", (*run).replicationController},
		{"labels and node selectors", (*run).placement},
		{"resource quota", (*run).quota},
		{"limit range", (*run).limitRange},
		{"service account, bound token and RBAC", (*run).serviceAccount},
		{"secrets are encrypted in etcd", (*run).secrets},
		{"rolling update and rollback", (*run).rollout},
		{"a deleted namespace is emptied", (*run).deleteNamespace},
	} {
		t.Run(step.name, func(t *testing.T) {
			t.Parallel()
			step.do(r, t)
		})
	}
}

// run is one pass through the course.
type run struct {
	cfg Config
	kubectl
	id string // in the name of all that it makes
}

func newRun(t *testing.T, cfg Config) *run {
	t.Helper()
	for what, path := range map[string]string{"Kubectl": cfg.Kubectl, "Kubeconfig": cfg.Kubeconfig, "KWOK": cfg.KWOK, "KWOKStages": cfg.KWOKStages} {
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("Config.%s: %v", what, err)
		}
	}
	return &run{
		cfg:     cfg,
		id:      "acc-" + strings.ToLower(rand.Text()[:6]),
		kubectl: kubectl{program: cfg.Kubectl, kubeconfig: cfg.Kubeconfig, cache: filepath.Join(t.TempDir(), "cache")}.copied(t),
	}
}

// namespace makes the namespace of one step and waits until pods can be made in
// it. It is removed with all that is in it when the step has ended; the run's
// end waits for that.
func (r *run) namespace(t *testing.T, step string) string {
	t.Helper()
	ns := r.id + "-" + step
	r.apply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: "+ns+", labels: {acceptance: "+r.id+"}}}", "create", "-f", "-")
	t.Cleanup(func() {
		r.do(t, "delete", "namespace", ns, "--ignore-not-found", "--wait=false")
	})
	// The controller manager makes it; pods are refused before.
	r.do(t, "wait", "--for=create", "serviceaccount/default", "-n", ns, patience)
	return ns
}

// names returns what a query prints, one a line, without the kind.
func names(out string) []string {
	var list []string
	for _, f := range strings.Fields(out) {
		_, name, found := strings.Cut(f, "/")
		if !found {
			name = f
		}
		list = append(list, name)
	}
	return list
}

// jsonpath is the argument that prints one field.
func jsonpath(path string) string { return fmt.Sprintf("-o=jsonpath={%s}", path) }
