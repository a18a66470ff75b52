package acceptance

import (
	"bytes"
	"encoding/base64"
	"testing"
)

// serviceAccount: a token says who one is and no more; roles say what one may;
// a token bound to a pod ends with it.
func (r *run) serviceAccount(t *testing.T) {
	ns, other := r.namespace(t, "rbac"), r.namespace(t, "rbac2")
	r.do(t, "create", "serviceaccount", "robot", "-n", ns)
	who := "system:serviceaccount:" + ns + ":robot"
	robot := r.as(t, "robot", r.do(t, "create", "token", "robot", "-n", ns, "--duration=10m"))
	if got := robot.do(t, "auth", "whoami", jsonpath(".status.userInfo.username")); got != who {
		t.Errorf("the token says %q, want %q", got, who)
	}

	// Known, but without rights.
	robot.refused(t, `User "`+who+`" cannot list resource "pods"`, "", "get", "pods", "-n", ns)
	r.do(t, "create", "role", "reader", "-n", ns, "--verb=get,list,watch", "--resource=pods")
	r.do(t, "create", "rolebinding", "robot-reads", "-n", ns, "--role=reader", "--serviceaccount="+ns+":robot")
	eventually(t, "the role to count", func() error {
		_, err := robot.run(t.Context(), "", "get", "pods", "-n", ns)
		return err
	})
	// So much and no more.
	robot.refused(t, `cannot create resource "pods"`, r.pod("mine", ""), "create", "-n", ns, "-f", "-", "--validate=false")
	robot.refused(t, `cannot list resource "secrets"`, "", "get", "secrets", "-n", ns)
	robot.refused(t, `cannot list resource "pods"`, "", "get", "pods", "-n", other)
	robot.refused(t, `cannot list resource "nodes"`, "", "get", "nodes")
	if got := r.do(t, "auth", "can-i", "list", "pods", "-n", ns, "--as="+who); got != "yes" {
		t.Errorf("can-i: %s", got)
	}
	r.do(t, "delete", "rolebinding", "robot-reads", "-n", ns)
	eventually(t, "the withdrawn role not to count", func() error {
		return robot.refusal(t, `cannot list resource "pods"`, "", "get", "pods", "-n", ns)
	})

	// A token bound to a pod is nobody's once the pod is gone.
	r.apply(t, r.pod("holder", ""), "create", "-n", ns, "-f", "-")
	r.do(t, "wait", "--for=condition=Ready", "pod/holder", "-n", ns, patience)
	uid := r.do(t, "get", "pod", "holder", "-n", ns, jsonpath(".metadata.uid"))
	bound := r.as(t, "bound", r.do(t, "create", "token", "default", "-n", ns, "--bound-object-kind=Pod", "--bound-object-name=holder", "--bound-object-uid="+uid))
	if got := bound.do(t, "auth", "whoami", jsonpath(".status.userInfo.extra['authentication\\.kubernetes\\.io/pod-name'][0]")); got != "holder" {
		t.Errorf("the bound token's pod is %q, want holder", got)
	}
	r.do(t, "delete", "pod", "holder", "-n", ns, patience)
	eventually(t, "the bound token to end", func() error {
		return bound.refusal(t, "Unauthorized", "", "auth", "whoami")
	})

	forged := r.as(t, "forged", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06YWRtaW4ifQ.")
	forged.refused(t, "Unauthorized", "", "auth", "whoami")
}

// secrets: what is secret is not readable in etcd, nor in a copy of its data;
// what is not shows that we look in the right place.
func (r *run) secrets(t *testing.T) {
	ns := r.namespace(t, "secrets")
	marker := "marker-" + r.id
	r.do(t, "create", "secret", "generic", "hidden", "-n", ns, "--from-literal=password="+marker)
	r.do(t, "create", "configmap", "open", "-n", ns, "--from-literal=password="+marker)

	raw := r.etcd(t, "/registry/secrets/"+ns+"/hidden")
	if !bytes.HasPrefix(raw, []byte("k8s:enc:")) {
		t.Errorf("the secret's value in etcd begins with %.20q, want k8s:enc:", raw)
	}
	for _, form := range []string{marker, base64.StdEncoding.EncodeToString([]byte(marker))} {
		if bytes.Contains(raw, []byte(form)) {
			t.Errorf("the secret can be read in etcd: %q", form)
		}
	}
	if raw := r.etcd(t, "/registry/configmaps/"+ns+"/open"); !bytes.Contains(raw, []byte(marker)) {
		t.Errorf("the config map's value in etcd is %.60q, without the marker: the wrong etcd?", raw)
	}
	want := base64.StdEncoding.EncodeToString([]byte(marker))
	if got := r.do(t, "get", "secret", "hidden", "-n", ns, jsonpath(".data.password")); got != want {
		t.Errorf("the API gives %q, want %q", got, want)
	}
}
