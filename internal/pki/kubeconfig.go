package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

// Kubeconfig is what hactl puts into a kubeconfig: one cluster, one user with a
// client certificate, one context.
type Kubeconfig struct {
	Cluster string // name of the cluster entry
	User    string // name of the user entry
	Server  string // URL
	CA      []byte // PEM
	Cert    []byte // PEM
	Key     []byte // PEM
}

// kubeconfigFile is the part of the file format that hactl writes and reads.
type kubeconfigFile struct {
	APIVersion     string         `yaml:"apiVersion"`
	Kind           string         `yaml:"kind"`
	Clusters       []namedCluster `yaml:"clusters"`
	Users          []namedUser    `yaml:"users"`
	Contexts       []namedContext `yaml:"contexts"`
	CurrentContext string         `yaml:"current-context"`
}

type namedCluster struct {
	Name    string `yaml:"name"`
	Cluster struct {
		CA     string `yaml:"certificate-authority-data"`
		Server string `yaml:"server"`
	} `yaml:"cluster"`
}

type namedUser struct {
	Name string `yaml:"name"`
	User struct {
		Cert string `yaml:"client-certificate-data"`
		Key  string `yaml:"client-key-data"`
	} `yaml:"user"`
}

type namedContext struct {
	Name    string `yaml:"name"`
	Context struct {
		Cluster string `yaml:"cluster"`
		User    string `yaml:"user"`
	} `yaml:"context"`
}

// Marshal writes the file.
func (k Kubeconfig) Marshal() ([]byte, error) {
	b64 := base64.StdEncoding.EncodeToString
	f := kubeconfigFile{APIVersion: "v1", Kind: "Config", Clusters: make([]namedCluster, 1), Users: make([]namedUser, 1),
		Contexts: make([]namedContext, 1), CurrentContext: k.User + "@" + k.Cluster}
	f.Clusters[0].Name, f.Clusters[0].Cluster.Server, f.Clusters[0].Cluster.CA = k.Cluster, k.Server, b64(k.CA)
	f.Users[0].Name, f.Users[0].User.Cert, f.Users[0].User.Key = k.User, b64(k.Cert), b64(k.Key)
	f.Contexts[0].Name, f.Contexts[0].Context.Cluster, f.Contexts[0].Context.User = f.CurrentContext, k.Cluster, k.User
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(f); err != nil {
		return nil, fmt.Errorf("marshal the kubeconfig: %w", err)
	}
	return b.Bytes(), enc.Close()
}

// ParseKubeconfig reads the current context of a kubeconfig that holds its
// certificates itself.
func ParseKubeconfig(data []byte) (Kubeconfig, error) {
	var f kubeconfigFile
	if err := yaml.Unmarshal(data, &f); err != nil {
		return Kubeconfig{}, fmt.Errorf("kubeconfig: %w", err)
	}
	var k Kubeconfig
	for _, c := range f.Contexts {
		if c.Name == f.CurrentContext {
			k.Cluster, k.User = c.Context.Cluster, c.Context.User
		}
	}
	var ca, cert, key string
	for _, c := range f.Clusters {
		if c.Name == k.Cluster {
			k.Server, ca = c.Cluster.Server, c.Cluster.CA
		}
	}
	for _, u := range f.Users {
		if u.Name == k.User {
			cert, key = u.User.Cert, u.User.Key
		}
	}
	if k.Server == "" || ca == "" || cert == "" || key == "" {
		return k, errors.New("kubeconfig: its current context has no server, CA, client certificate or key of its own")
	}
	for dst, text := range map[*[]byte]string{&k.CA: ca, &k.Cert: cert, &k.Key: key} {
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return k, fmt.Errorf("kubeconfig: %w", err)
		}
		*dst = data
	}
	return k, nil
}

// Users of the kubeconfigs that every master has, by the name of their file
// without ending.
var users = []struct {
	file, name string
	org        []string
}{
	{"admin", "kubernetes-admin", []string{"system:masters"}},
	{"scheduler", "system:kube-scheduler", nil},
	{"controller-manager", "system:kube-controller-manager", nil},
}

// EnsureKubeconfigs keeps the good ones of admin.conf, scheduler.conf and
// controller-manager.conf in folder and writes the others (again), 0600. server
// is the URL of the API, as https://10.245.1.11:6443.
func (s *Store) EnsureKubeconfigs(folder, server string) ([]Change, error) {
	if u, err := url.Parse(server); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("pki: kubeconfigs: server %q: must be an https:// URL", server)
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	caFile := s.file(caKubernetes + ".crt")
	caPEM, err := os.ReadFile(caFile)
	if err != nil {
		return nil, broken(caFile, err)
	}
	roots, err := parseCerts(caPEM)
	if err != nil {
		return nil, broken(caFile, err)
	}
	removeLeftovers(folder)
	var changes []Change
	var errs []error
	for _, u := range users {
		path := filepath.Join(folder, u.file+".conf")
		want := Kubeconfig{Cluster: s.clusterName(), User: u.name, Server: server, CA: caPEM}
		spec := leaf{name: path, ca: caKubernetes, usages: clientOnly}
		spec.subject.CommonName, spec.subject.Organization = u.name, u.org
		why, err := s.ensureKubeconfig(path, want, spec, roots)
		if why != "" {
			changes = append(changes, Change{path, why})
		}
		errs = append(errs, err)
	}
	return changes, errors.Join(errs...)
}

func (s *Store) clusterName() string {
	if s.cluster == "" {
		return "kubernetes"
	}
	return s.cluster
}

// ensureKubeconfig says why it wrote path, or "".
func (s *Store) ensureKubeconfig(path string, want Kubeconfig, spec leaf, roots []*x509.Certificate) (string, error) {
	why := s.wrongKubeconfig(path, want, spec, roots)
	if why == "" {
		return "", tighten(path, 0o600)
	}
	ca, err := s.authority(caKubernetes)
	if err != nil {
		return "", fmt.Errorf("write %s (%s): %w", path, why, err)
	}
	key, err := newKey()
	if err != nil {
		return "", err
	}
	der, err := s.sign(ca, spec, key)
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", path, err)
	}
	want.Cert = encodeCert(der)
	if want.Key, err = encodeKey(key); err != nil {
		return "", err
	}
	data, err := want.Marshal()
	if err != nil {
		return "", err
	}
	return why, s.write(path, data, 0o600)
}

func (s *Store) wrongKubeconfig(path string, want Kubeconfig, spec leaf, roots []*x509.Certificate) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return plain(err)
	}
	have, err := ParseKubeconfig(data)
	if err != nil {
		return plain(err)
	}
	switch {
	case have.Server != want.Server:
		return "its server is " + have.Server
	case !bytes.Equal(have.CA, want.CA):
		return "its CA is another"
	case have.User != want.User || have.Cluster != want.Cluster:
		return "made out to " + have.User + "@" + have.Cluster
	}
	certs, err := parseCerts(have.Cert)
	if err != nil {
		return plain(err)
	}
	key, err := parseKey(have.Key)
	if err != nil {
		return plain(err)
	}
	return s.wrong(spec, certs[0], key, roots)
}
