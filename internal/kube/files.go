package kube

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
)

// Names of the files that WriteFiles makes, in the folder of the kubeconfigs.
const (
	authenticationName = "authentication.yaml"
	auditPolicyName    = "audit-policy.yaml"
	abacName           = "abac-policy.jsonl"
)

func (h host) file(name string) string { return filepath.Join(h.Kubernetes(), name) }

// WriteFiles makes the files that the command lines name, except keys,
// certificates and kubeconfigs (package pki) and the EncryptionFile, which must
// be there. Each is replaced in one step; what is right already is not touched.
// changed lists the ones written, with which a running API server no longer
// agrees.
//
// It errs, naming every fault at once, where a file of the configuration (ABAC
// policy, tokens, the issuer's CA) cannot be read.
func WriteFiles(l layout.Layout, c *config.Cluster) (changed []string, err error) {
	h := host{Layout: l, cluster: c}
	var faults []error
	fault := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	authentication, err := authenticationConfig(c)
	fault(err)
	abac, err := abacPolicy(c.APIServer)
	fault(err)
	fault(checkTokens(c.APIServer.TokenAuthFile))
	if _, err := os.Stat(EncryptionFile(l)); err != nil {
		fault(fmt.Errorf("the key of the Secrets in etcd, which all masters share: %w", err))
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("files of kube-apiserver: %w", errors.Join(faults...))
	}
	for _, f := range []struct {
		name string
		data []byte
		perm os.FileMode
	}{
		{authenticationName, authentication, 0o600},
		{auditPolicyName, auditPolicy, 0o600},
		{abacName, abac, 0o600},
	} {
		if f.data == nil {
			continue
		}
		path := h.file(f.name)
		wrote, err := writeChanged(path, f.data, f.perm)
		if err != nil {
			return changed, err
		}
		if wrote {
			changed = append(changed, path)
		}
	}
	return changed, nil
}

func writeChanged(path string, data []byte, perm os.FileMode) (bool, error) {
	old, err := os.ReadFile(path)
	if err == nil && bytes.Equal(old, data) {
		fi, err := os.Stat(path)
		if err == nil && fi.Mode().Perm() == perm {
			return false, nil
		}
	}
	return true, atomicfile.MkdirWrite(path, data, perm, 0o755)
}

// The parts of apiserver.config.k8s.io's AuthenticationConfiguration that we
// set.
type authenticationFile struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Anonymous  anonymous `json:"anonymous"`
	JWT        []jwt     `json:"jwt,omitempty"`
}

type anonymous struct {
	Enabled    bool        `json:"enabled"`
	Conditions []condition `json:"conditions"`
}

type condition struct {
	Path string `json:"path"`
}

type jwt struct {
	Issuer struct {
		URL                  string   `json:"url"`
		Audiences            []string `json:"audiences"`
		CertificateAuthority string   `json:"certificateAuthority,omitempty"` // PEM
	} `json:"issuer"`
	ClaimMappings struct {
		Username claim  `json:"username"`
		Groups   *claim `json:"groups,omitempty"`
	} `json:"claimMappings"`
}

type claim struct {
	Claim  string `json:"claim"`
	Prefix string `json:"prefix"`
}

// healthPaths are what anybody may ask, without saying who they are.
var healthPaths = []string{"/livez", "/readyz", "/healthz"}

func authenticationConfig(c *config.Cluster) ([]byte, error) {
	f := authenticationFile{APIVersion: "apiserver.config.k8s.io/v1", Kind: "AuthenticationConfiguration"}
	if minor(c.Kubernetes.Version) < 34 {
		f.APIVersion = "apiserver.config.k8s.io/v1beta1" // v1 came with 1.34
	}
	f.Anonymous.Enabled = true
	for _, p := range healthPaths {
		f.Anonymous.Conditions = append(f.Anonymous.Conditions, condition{Path: p})
	}
	if o := c.APIServer.OIDC; o != nil {
		j, err := issuer(*o)
		if err != nil {
			return nil, err
		}
		f.JWT = append(f.JWT, j)
	}
	data, err := yaml.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", authenticationName, err)
	}
	return append([]byte("# Who may ask what without a client certificate; made by hactl.\n"), data...), nil
}

func issuer(o config.OIDC) (jwt, error) {
	var j jwt
	j.Issuer.URL = o.IssuerURL
	j.Issuer.Audiences = []string{o.ClientID}
	if o.CAFile != "" {
		ca, err := os.ReadFile(o.CAFile)
		if err != nil {
			return j, fmt.Errorf("apiServer.oidc.caFile: %w", err)
		}
		j.Issuer.CertificateAuthority = string(ca)
	}
	j.ClaimMappings.Username = claim{Claim: o.UsernameClaim, Prefix: prefix(o.UsernamePrefix)}
	if j.ClaimMappings.Username.Claim == "" {
		j.ClaimMappings.Username.Claim = "sub"
	}
	if o.GroupsClaim != "" {
		j.ClaimMappings.Groups = &claim{Claim: o.GroupsClaim, Prefix: prefix(o.GroupsPrefix)}
	}
	return j, nil
}

// prefix reads the prefix of names that an issuer vouches for: "oidc:" unless
// given, none for "-" as in kube-apiserver's flags.
func prefix(p string) string {
	switch p {
	case "":
		return "oidc:"
	case "-":
		return ""
	default:
		return p
	}
}

// minor is 36 of v1.36.3, and 0 of what is no version.
func minor(version string) int {
	parts := strings.Split(version, ".")
	if len(parts) < 2 {
		return 0
	}
	n, err := strconv.Atoi(parts[1])
	if err != nil {
		return 0
	}
	return n
}

// abacPolicy is the user's policy, or nil without ABAC. Where no RBAC grants
// the health paths to everybody, lines of ours do: without them the balancers
// would take every API server out.
func abacPolicy(a config.APIServer) ([]byte, error) {
	if !slices.Contains(modes(a), "ABAC") {
		return nil, nil
	}
	data, err := os.ReadFile(a.ABACPolicyFile)
	if err != nil {
		return nil, fmt.Errorf("apiServer.abacPolicyFile: %w", err)
	}
	if slices.Contains(modes(a), "RBAC") {
		return data, nil
	}
	if len(data) > 0 && !bytes.HasSuffix(data, []byte("\n")) {
		data = append(data, '\n')
	}
	for _, group := range []string{"system:authenticated", "system:unauthenticated"} {
		for _, path := range healthPaths {
			data = fmt.Appendf(data, `{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"group":%q,"readonly":true,"nonResourcePath":%q}}`+"\n", group, path)
		}
	}
	return data, nil
}

// checkTokens errs if the file of static tokens cannot be read, or anybody may
// read it.
func checkTokens(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("apiServer.tokenAuthFile: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("apiServer.tokenAuthFile: %w", err)
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("apiServer.tokenAuthFile: %s has mode %04o, so others can read the tokens; chmod 600 %s", path, fi.Mode().Perm(), path)
	}
	return nil
}
