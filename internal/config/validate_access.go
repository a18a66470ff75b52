package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// authorizers that kube-apiserver knows. AlwaysAllow is not among those that
// may be given: with it the whole cluster is open to everyone.
var authorizers = []string{"Node", "RBAC", "ABAC", "Webhook"}

func (k *checker) apiServer(a APIServer) {
	if len(a.AuthorizationModes) == 0 {
		k.bad("apiServer.authorizationModes", "", "missing: at least one of %s", strings.Join(authorizers, ", "))
	}
	seen := map[string]bool{}
	for i, mode := range a.AuthorizationModes {
		at := fmt.Sprintf("apiServer.authorizationModes[%d]", i)
		switch {
		case mode == "AlwaysAllow":
			k.bad(at, mode, "would let everyone do everything")
		case !slices.Contains(authorizers, mode):
			hint := ""
			if near := nearest(mode, authorizers); near != "" {
				hint = "; did you mean " + near + "?"
			}
			k.bad(at, mode, "must be one of %s%s", strings.Join(authorizers, ", "), hint)
		case seen[mode]:
			k.bad(at, mode, "given twice")
		}
		seen[mode] = true
	}
	switch {
	case seen["ABAC"] && a.ABACPolicyFile == "":
		k.bad("apiServer.abacPolicyFile", "", "missing: apiServer.authorizationModes has ABAC, which needs its policy")
	case !seen["ABAC"] && a.ABACPolicyFile != "":
		k.bad("apiServer.abacPolicyFile", a.ABACPolicyFile, "would be ignored: add ABAC to apiServer.authorizationModes")
	}
	k.file("apiServer.abacPolicyFile", a.ABACPolicyFile, false)
	k.file("apiServer.tokenAuthFile", a.TokenAuthFile, false)
	if a.OIDC != nil {
		k.oidc(*a.OIDC)
	}
	k.extraArgs("apiServer.extraArgs", a.ExtraArgs)
}

func (k *checker) oidc(o OIDC) {
	u, err := url.Parse(o.IssuerURL)
	switch {
	case o.IssuerURL == "":
		k.bad("apiServer.oidc.issuerURL", "", "missing: the issuer")
	case err != nil || u.Host == "" || u.Scheme != "https":
		k.bad("apiServer.oidc.issuerURL", o.IssuerURL, "must be an https:// URL; kube-apiserver takes no other")
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		k.bad("apiServer.oidc.issuerURL", o.IssuerURL, "must be scheme, host and path only: it is compared with the tokens' issuer")
	}
	if o.ClientID == "" {
		k.bad("apiServer.oidc.clientID", "", "missing: the audience of the tokens")
	}
	k.file("apiServer.oidc.caFile", o.CAFile, false)
}

func (k *checker) extraArgs(path string, args map[string]string) {
	names := make([]string, 0, len(args))
	for name := range args {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch {
		case name == "" || strings.ContainsAny(name, "= \t\n"):
			k.bad(path+"."+name, args[name], "its name must be a flag's")
		case strings.HasPrefix(name, "-"):
			k.bad(path+"."+name, args[name], "leave the dashes out: %s", strings.TrimLeft(name, "-"))
		}
	}
}
