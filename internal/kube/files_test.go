package kube

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
)

// newMaster is a layout whose shared key exists.
func newMaster(t *testing.T) layout.Layout {
	t.Helper()
	l := layout.Layout{Root: t.TempDir()}
	if created, err := EnsureEncryption(l); err != nil || !created {
		t.Fatalf("encryption: %v, %v", created, err)
	}
	return l
}

func TestWriteFilesIsIdempotent(t *testing.T) {
	l, c := newMaster(t), three()
	changed, err := WriteFiles(l, c)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(l.Kubernetes(), "authentication.yaml"), filepath.Join(l.Kubernetes(), "audit-policy.yaml")}
	if !reflect.DeepEqual(changed, want) {
		t.Errorf("wrote %q, want %q", changed, want)
	}
	before, err := os.Stat(want[0])
	if err != nil {
		t.Fatal(err)
	}
	if before.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", before.Mode())
	}
	if changed, err := WriteFiles(l, c); err != nil || len(changed) > 0 {
		t.Errorf("second run: %q, %v", changed, err)
	}
	after, err := os.Stat(want[0])
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("an unchanged file was replaced: %v", err)
	}

	// A changed file, a changed mode and a changed configuration are put right.
	write(t, want[1], "garbage", 0o600)
	if changed, err := WriteFiles(l, c); err != nil || !reflect.DeepEqual(changed, want[1:]) {
		t.Errorf("after garbage: %q, %v", changed, err)
	}
	if err := os.Chmod(want[0], 0o644); err != nil {
		t.Fatal(err)
	}
	if changed, err := WriteFiles(l, c); err != nil || !reflect.DeepEqual(changed, want[:1]) {
		t.Errorf("after chmod: %q, %v", changed, err)
	}
	c.APIServer.OIDC = &config.OIDC{IssuerURL: "https://login.example.com", ClientID: "kubernetes"}
	if changed, err := WriteFiles(l, c); err != nil || !reflect.DeepEqual(changed, want[:1]) {
		t.Errorf("after a new issuer: %q, %v", changed, err)
	}
	if entries, err := filepath.Glob(filepath.Join(l.Kubernetes(), ".*")); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %q, %v", entries, err)
	}
}

// Every file that the command line names is one that we write, or one of pki's.
func TestWriteFilesMakesWhatTheFlagsName(t *testing.T) {
	l, c := newMaster(t), three()
	c.APIServer.AuthorizationModes = []string{"Node", "RBAC", "ABAC"}
	c.APIServer.ABACPolicyFile = write(t, filepath.Join(t.TempDir(), "abac"), "{}\n", 0o600)
	if _, err := WriteFiles(l, c); err != nil {
		t.Fatal(err)
	}
	argv, err := APIServer(l, c, "m1")
	for name, value := range args(t, argv, err) {
		if !strings.HasPrefix(value, "/") || strings.HasPrefix(value, l.PKI()) || name == "audit-log-path" {
			continue
		}
		if _, err := os.Stat(value); err != nil {
			t.Errorf("--%s: %v", name, err)
		}
	}
}

func TestWriteFilesTellsEveryFault(t *testing.T) {
	l, c := layout.Layout{Root: t.TempDir()}, three()
	dir := t.TempDir()
	c.APIServer.OIDC = &config.OIDC{IssuerURL: "https://x", ClientID: "y", CAFile: filepath.Join(dir, "no-ca")}
	c.APIServer.AuthorizationModes = []string{"ABAC"}
	c.APIServer.ABACPolicyFile = filepath.Join(dir, "no-policy")
	c.APIServer.TokenAuthFile = filepath.Join(dir, "no-tokens")
	_, err := WriteFiles(l, c)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"no-ca", "no-policy", "no-tokens", "encryption.yaml", "which all masters share"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
	if entries, err := os.ReadDir(l.Root); err != nil || len(entries) > 0 {
		t.Errorf("files were written: %v, %v", entries, err)
	}
}

func TestTokenFileMustBePrivate(t *testing.T) {
	l, c := newMaster(t), three()
	c.APIServer.TokenAuthFile = write(t, filepath.Join(t.TempDir(), "tokens.csv"), "secret,ada,1\n", 0o644)
	if _, err := WriteFiles(l, c); err == nil || !strings.Contains(err.Error(), "chmod 600 "+c.APIServer.TokenAuthFile) {
		t.Errorf("got %v", err)
	}
	if err := os.Chmod(c.APIServer.TokenAuthFile, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteFiles(l, c); err != nil {
		t.Error(err)
	}
}

// parse reads YAML as a tree of maps.
func parse(t *testing.T, path string) map[string]any {
	t.Helper()
	var out map[string]any
	if err := yaml.UnmarshalStrict([]byte(read(t, path)), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAuthentication(t *testing.T) {
	anonymous := map[string]any{
		"enabled": true,
		"conditions": []any{
			map[string]any{"path": "/livez"}, map[string]any{"path": "/readyz"}, map[string]any{"path": "/healthz"},
		},
	}
	ca := write(t, filepath.Join(t.TempDir(), "ca.crt"), "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n", 0o644)
	for _, c := range []struct {
		name    string
		version string
		oidc    *config.OIDC
		api     string
		jwt     any
	}{
		{"no issuer", "v1.36.3", nil, "apiserver.config.k8s.io/v1", nil},
		{"before v1", "v1.33.13", nil, "apiserver.config.k8s.io/v1beta1", nil},
		{"defaults", "v1.34.0", &config.OIDC{IssuerURL: "https://i", ClientID: "k"}, "apiserver.config.k8s.io/v1", []any{map[string]any{
			"issuer":        map[string]any{"url": "https://i", "audiences": []any{"k"}},
			"claimMappings": map[string]any{"username": map[string]any{"claim": "sub", "prefix": "oidc:"}},
		}}},
		{"all fields", "v1.36.3", &config.OIDC{
			IssuerURL: "https://i", ClientID: "k", CAFile: ca, UsernameClaim: "email", UsernamePrefix: "-", GroupsClaim: "groups", GroupsPrefix: "sso:",
		}, "apiserver.config.k8s.io/v1", []any{map[string]any{
			"issuer": map[string]any{"url": "https://i", "audiences": []any{"k"}, "certificateAuthority": read(t, ca)},
			"claimMappings": map[string]any{
				"username": map[string]any{"claim": "email", "prefix": ""},
				"groups":   map[string]any{"claim": "groups", "prefix": "sso:"},
			},
		}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, cl := newMaster(t), three()
			cl.Kubernetes.Version, cl.APIServer.OIDC = c.version, c.oidc
			if _, err := WriteFiles(l, cl); err != nil {
				t.Fatal(err)
			}
			want := map[string]any{"apiVersion": c.api, "kind": "AuthenticationConfiguration", "anonymous": anonymous}
			if c.jwt != nil {
				want["jwt"] = c.jwt
			}
			if got := parse(t, filepath.Join(l.Kubernetes(), "authentication.yaml")); !reflect.DeepEqual(got, want) {
				t.Errorf("got %v\nwant %v", got, want)
			}
		})
	}
}

func TestABACPolicy(t *testing.T) {
	const mine = `{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"ada"}}`
	for _, c := range []struct {
		name, content string
		modes         []string
		lines         int // in the written file; 0: none is written
	}{
		{"no ABAC", mine, []string{"Node", "RBAC"}, 0},
		{"beside RBAC as it is", mine + "\n", []string{"Node", "RBAC", "ABAC"}, 1},
		{"without RBAC the health paths stay open", mine + "\n", []string{"Node", "ABAC"}, 7},
		{"no newline at its end", mine, []string{"ABAC"}, 7},
		{"empty", "", []string{"ABAC"}, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, cl := newMaster(t), three()
			cl.APIServer.AuthorizationModes = c.modes
			cl.APIServer.ABACPolicyFile = write(t, filepath.Join(t.TempDir(), "abac.jsonl"), c.content, 0o600)
			if _, err := WriteFiles(l, cl); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(l.Kubernetes(), "abac-policy.jsonl")
			if c.lines == 0 {
				if _, err := os.Stat(file); !os.IsNotExist(err) {
					t.Errorf("%s: %v", file, err)
				}
				return
			}
			anybody := 0
			lines := strings.Split(strings.TrimSuffix(read(t, file), "\n"), "\n")
			for _, line := range lines {
				var p struct {
					APIVersion, Kind string
					Spec             struct {
						Group, NonResourcePath string
						Readonly               bool
					}
				}
				if err := json.Unmarshal([]byte(line), &p); err != nil || p.Kind != "Policy" {
					t.Errorf("line %q: %v", line, err)
				}
				if p.Spec.Group == "system:unauthenticated" && p.Spec.Readonly && p.Spec.NonResourcePath == "/readyz" {
					anybody++
				}
			}
			if len(lines) != c.lines || (c.lines > 2) != (anybody == 1) {
				t.Errorf("%d lines, %d for /readyz, want %d lines:\n%s", len(lines), anybody, c.lines, read(t, file))
			}
		})
	}
}

func TestEncryption(t *testing.T) {
	l := newMaster(t)
	fi, err := os.Stat(EncryptionFile(l))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	got := parse(t, EncryptionFile(l))
	rule := got["resources"].([]any)[0].(map[string]any)
	providers := rule["providers"].([]any)
	if got["kind"] != "EncryptionConfiguration" || !reflect.DeepEqual(rule["resources"], []any{"secrets"}) || len(providers) != 1 {
		t.Fatalf("got %v", got)
	}
	key := providers[0].(map[string]any)["secretbox"].(map[string]any)["keys"].([]any)[0].(map[string]any)
	raw, err := base64.StdEncoding.DecodeString(key["secret"].(string))
	if err != nil || len(raw) != 32 || key["name"] != "key1" {
		t.Errorf("key of %d bytes, named %v: %v", len(raw), key["name"], err)
	}

	before := read(t, EncryptionFile(l))
	if created, err := EnsureEncryption(l); err != nil || created || read(t, EncryptionFile(l)) != before {
		t.Errorf("the key was made anew: %v, %v", created, err)
	}
	other, err := NewEncryption()
	if err != nil || string(other) == before {
		t.Errorf("two keys are equal: %v", err)
	}
}

// The API server's own check of the policy is in the end-to-end tests; here:
// it is strict YAML, secrets are never logged with their content, and there is
// a rule for everything else.
func TestAuditPolicy(t *testing.T) {
	var p struct {
		APIVersion, Kind string
		OmitStages       []string
		Rules            []struct {
			Level                    string
			Verbs, Users, UserGroups []string
			NonResourceURLs          []string
			Resources                []struct {
				Group     string
				Resources []string
			}
		}
	}
	if err := yaml.UnmarshalStrict(auditPolicy, &p); err != nil {
		t.Fatal(err)
	}
	if p.APIVersion != "audit.k8s.io/v1" || p.Kind != "Policy" {
		t.Errorf("%s %s", p.APIVersion, p.Kind)
	}
	last := p.Rules[len(p.Rules)-1]
	if last.Level != "Metadata" || last.Verbs != nil || last.Resources != nil || last.Users != nil {
		t.Errorf("the last rule does not take everything: %+v", last)
	}
	secrets := false
	for _, r := range p.Rules {
		for _, g := range r.Resources {
			for _, res := range g.Resources {
				if res == "secrets" {
					secrets = true
					if r.Level != "Metadata" {
						t.Errorf("secrets at level %s", r.Level)
					}
				}
			}
		}
		if (r.Level == "Request" || r.Level == "RequestResponse") && !secrets {
			t.Errorf("a rule with contents comes before the one of secrets: %+v", r)
		}
	}
	if !secrets {
		t.Error("no rule for secrets")
	}
}
