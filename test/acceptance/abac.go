package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The people of the ABAC plane and their tokens.
var abacUsers = []struct{ name, token string }{
	{"ada", "ada-token-8c1f0d"},   // everything in the namespace library
	{"bob", "bob-token-51e7aa"},   // may look at everything there, and nowhere else
	{"eve", "eve-token-d02b94"},   // nothing
	{"root", "root-token-7b9c3e"}, // everything everywhere
}

// abacNamespace is the one that the policy names; a policy is a file, so it
// cannot have a name of the run's own.
const abacNamespace = "library"

// ABACFiles writes the policy and the static tokens of RunABAC to dir, for
//
//	apiServer:
//	  authorizationModes: [Node, ABAC]
//	  abacPolicyFile: POLICY
//	  tokenAuthFile: TOKENS
//
// and returns their paths. Without RBAC the policy must also say what the
// control plane's own parts may do.
func ABACFiles(dir string) (policy, tokens string, err error) {
	var lines, users strings.Builder
	rule := func(spec string) {
		fmt.Fprintf(&lines, `{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{%s}}`+"\n", spec)
	}
	for _, who := range []string{
		`"user":"system:kube-scheduler"`, `"user":"system:kube-controller-manager"`,
		`"group":"system:serviceaccounts:kube-system"`, `"user":"root"`,
	} {
		rule(who + `,"namespace":"*","resource":"*","apiGroup":"*"`)
		rule(who + `,"nonResourcePath":"*"`)
	}
	rule(`"user":"ada","namespace":"` + abacNamespace + `","resource":"*","apiGroup":"*"`)
	rule(`"user":"bob","namespace":"` + abacNamespace + `","resource":"*","apiGroup":"*","readonly":true`)
	// Everybody may ask who they are and what they may; kubectl asks which kinds
	// there are.
	rule(`"group":"system:authenticated","resource":"selfsubjectreviews","apiGroup":"authentication.k8s.io"`)
	rule(`"group":"system:authenticated","resource":"selfsubjectaccessreviews","apiGroup":"authorization.k8s.io"`)
	rule(`"group":"system:authenticated","nonResourcePath":"/api*","readonly":true`)
	rule(`"group":"system:authenticated","nonResourcePath":"/openapi*","readonly":true`)
	for i, u := range abacUsers {
		fmt.Fprintf(&users, "%s,%s,%d\n", u.token, u.name, 1000+i)
	}
	policy, tokens = filepath.Join(dir, "abac-policy.jsonl"), filepath.Join(dir, "tokens.csv")
	if err := os.WriteFile(policy, []byte(lines.String()), 0o600); err != nil {
		return "", "", err
	}
	return policy, tokens, os.WriteFile(tokens, []byte(users.String()), 0o600)
}

// RunABAC checks attribute-based access control on a plane that was started
// with the files of ABACFiles. EtcdGet is not used.
func RunABAC(t *testing.T, cfg Config) {
	r := newRun(t, cfg)
	r.startKWOK(t)
	r.nodes(t)
	as := map[string]kubectl{}
	for _, u := range abacUsers {
		as[u.name] = r.as(t, u.name, u.token)
	}
	r.do(t, "create", "namespace", abacNamespace)
	t.Cleanup(func() { r.do(t, "delete", "namespace", abacNamespace, patience) })
	r.do(t, "wait", "--for=create", "serviceaccount/default", "-n", abacNamespace, patience)
	elsewhere := r.namespace(t, "elsewhere")

	t.Run("tokens say who one is", func(t *testing.T) {
		for _, u := range abacUsers {
			if got := as[u.name].do(t, "auth", "whoami", jsonpath(".status.userInfo.username")); got != u.name {
				t.Errorf("%s's token says %q", u.name, got)
			}
			want := "yes"
			if u.name == "eve" {
				want = "no"
			}
			// It ends with 1 when the answer is no.
			if got, err := as[u.name].run(t.Context(), "", "auth", "can-i", "list", "pods", "-n", abacNamespace); !strings.HasPrefix(got, want) {
				t.Errorf("may %s list pods? %q, %v; want %s", u.name, got, err, want)
			}
		}
		r.as(t, "mallory", "made-up-token").refused(t, "Unauthorized", "", "auth", "whoami")
	})
	t.Run("the policy says what one may", func(t *testing.T) {
		as["ada"].do(t, "create", "configmap", "catalogue", "-n", abacNamespace, "--from-literal=books=3")
		as["ada"].refused(t, `User "ada" cannot create resource "configmaps"`, "", "create", "configmap", "catalogue", "-n", elsewhere)
		as["ada"].refused(t, `User "ada" cannot list resource "nodes"`, "", "get", "nodes")
		if got := as["bob"].do(t, "get", "configmap", "catalogue", "-n", abacNamespace, jsonpath(".data.books")); got != "3" {
			t.Errorf("bob reads %q", got)
		}
		as["bob"].refused(t, `User "bob" cannot delete resource "configmaps"`, "", "delete", "configmap", "catalogue", "-n", abacNamespace)
		as["bob"].refused(t, `User "bob" cannot get resource "configmaps"`, "", "get", "configmap", "catalogue", "-n", elsewhere)
		as["eve"].refused(t, `User "eve" cannot get resource "configmaps"`, "", "get", "configmap", "catalogue", "-n", abacNamespace)
		as["root"].do(t, "get", "nodes,configmaps", "-A")
	})
	t.Run("roles count for nothing", func(t *testing.T) {
		r.do(t, "create", "clusterrolebinding", r.id, "--clusterrole=cluster-admin", "--user=eve")
		t.Cleanup(func() { r.do(t, "delete", "clusterrolebinding", r.id) })
		as["eve"].refused(t, `User "eve" cannot get resource "configmaps"`, "", "get", "configmap", "catalogue", "-n", abacNamespace)
	})
	t.Run("controllers and scheduler work under the policy", func(t *testing.T) {
		as["ada"].apply(t, deployment("reading-room", "example.com/room:1", 2, "acceptance: "+r.id), "create", "-n", abacNamespace, "-f", "-")
		r.running(t, abacNamespace, "deployment/reading-room", 2)
		as["ada"].do(t, "delete", "deployment", "reading-room", "-n", abacNamespace, patience)
	})
}
