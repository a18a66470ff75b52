package config

import "time"

// Cluster is the whole configuration of a cluster: one file, the same on every
// master.
type Cluster struct {
	APIVersion string `yaml:"apiVersion"` // hactl/v1alpha1
	Kind       string `yaml:"kind"`       // Cluster
	// Name is the cluster's name: part of certificates, of the etcd cluster
	// token and of the gossip label, so that two clusters never mix.
	Name  string `yaml:"name"`
	Token Token  `yaml:"token"`
	// Masters are all machines of the control plane. Either Masters or
	// Discovery is given.
	Masters      []Master     `yaml:"masters,omitempty"`
	Discovery    *Discovery   `yaml:"discovery,omitempty"`
	FrontDoor    FrontDoor    `yaml:"frontDoor"`
	Kubernetes   Kubernetes   `yaml:"kubernetes"`
	APIServer    APIServer    `yaml:"apiServer"`
	Singletons   []Singleton  `yaml:"singletons"`
	Etcd         Etcd         `yaml:"etcd"`
	LoadBalancer LoadBalancer `yaml:"loadBalancer"`
	Agent        Agent        `yaml:"agent"`
	Watchdog     Watchdog     `yaml:"watchdog"`
}

// Token says where the shared secret is kept.
type Token struct {
	File string `yaml:"file"` // default /etc/hactl/token
}

// Master is one machine of the control plane.
type Master struct {
	Name    string `yaml:"name"`    // a DNS label, unique
	Address string `yaml:"address"` // an IP address that the other masters reach, unique
}

// Discovery finds the masters by gossip instead of a list.
type Discovery struct {
	Seeds  []string `yaml:"seeds"`  // host or host:port of some masters
	Expect int      `yaml:"expect"` // how many masters there will be
}

// FrontDoor is the address that clients use: the load balancer's.
type FrontDoor struct {
	Host string   `yaml:"host"` // empty: each master's own balancer
	Port int      `yaml:"port"` // default 6443
	SANs []string `yaml:"sans"` // further names and addresses in the API servers' certificate
}

// Kubernetes says which Kubernetes runs and where its programs lie.
type Kubernetes struct {
	Version     string `yaml:"version"`     // default v1.36.3
	BinDir      string `yaml:"binDir"`      // default /opt/hactl/kube
	ServiceCIDR string `yaml:"serviceCIDR"` // default 10.96.0.0/16
	ClusterCIDR string `yaml:"clusterCIDR"` // pods' addresses; default 10.244.0.0/16
}

// APIServer configures kube-apiserver.
type APIServer struct {
	Port int `yaml:"port"` // default 6444; the front door has 6443
	// AuthorizationModes is the order of authorizers; default Node, RBAC.
	// ABAC needs ABACPolicyFile.
	AuthorizationModes []string          `yaml:"authorizationModes,omitempty"`
	ABACPolicyFile     string            `yaml:"abacPolicyFile,omitempty"`
	TokenAuthFile      string            `yaml:"tokenAuthFile,omitempty"` // static tokens, CSV
	OIDC               *OIDC             `yaml:"oidc,omitempty"`
	ExtraArgs          map[string]string `yaml:"extraArgs,omitempty"` // flag name without dashes → value; overrides ours
}

// OIDC lets the API servers trust an OpenID Connect issuer.
type OIDC struct {
	IssuerURL      string `yaml:"issuerURL"`
	ClientID       string `yaml:"clientID"`
	CAFile         string `yaml:"caFile,omitempty"`
	UsernameClaim  string `yaml:"usernameClaim,omitempty"`  // default sub
	UsernamePrefix string `yaml:"usernamePrefix,omitempty"` // default oidc:
	GroupsClaim    string `yaml:"groupsClaim,omitempty"`
	GroupsPrefix   string `yaml:"groupsPrefix,omitempty"` // default oidc:
}

// Singleton is a program that runs once in the whole cluster, under podmaster.
// kube-scheduler and kube-controller-manager are known by name; any other name
// needs Command.
type Singleton struct {
	Name      string            `yaml:"name"`
	TTL       time.Duration     `yaml:"ttl"` // default 3s
	Command   []string          `yaml:"command,omitempty"`
	HealthURL string            `yaml:"healthURL,omitempty"`
	ExtraArgs map[string]string `yaml:"extraArgs,omitempty"` // for the two known ones
}

// Etcd configures the embedded members.
type Etcd struct {
	Heartbeat time.Duration `yaml:"heartbeat"` // default 100ms; 0.5 to 1.5 times the round trip between masters
	Election  time.Duration `yaml:"election"`  // default 1s; at least 5 times Heartbeat
	Quota     Size          `yaml:"quota"`     // default 8Gi, etcd's suggested ceiling
	Backup    Backup        `yaml:"backup"`
}

// Backup says when and where snapshots go.
type Backup struct {
	Every time.Duration `yaml:"every"` // default 1h
	Keep  int           `yaml:"keep"`  // default 48
	To    []string      `yaml:"to"`    // URLs; default dir:///var/backups/hactl
}

// LoadBalancer configures the balancer on every master.
type LoadBalancer struct {
	Check Check `yaml:"check"`
}

// Check is a health check of a backend.
type Check struct {
	Every   time.Duration `yaml:"every"`   // default 500ms
	Timeout time.Duration `yaml:"timeout"` // default 1s
	Rise    int           `yaml:"rise"`    // good answers that make a backend ready; default 1
	Fall    int           `yaml:"fall"`    // bad answers that eject it; default 2
}

// Agent configures hactl agent.
type Agent struct {
	Port       int `yaml:"port"`       // API; default 9443
	GossipPort int `yaml:"gossipPort"` // memberlist; default 7946
	JoinPort   int `yaml:"joinPort"`   // where machines with the token meet; default 7947
}

// Watchdog configures the restarting of hung processes.
type Watchdog struct {
	Every   time.Duration `yaml:"every"`   // between two probes of one process; default 1s
	Timeout time.Duration `yaml:"timeout"` // a probe that takes longer has failed; default 2s
	Fall    int           `yaml:"fall"`    // failed probes in a row that count as hung; default 3
	Window  time.Duration `yaml:"window"`  // over which Budget counts; default 10m
	Budget  int           `yaml:"budget"`  // restarts of one process within Window; default 5
	// ClusterBudget is how many restarts of API servers and etcd members all
	// masters together may make within Window; default 10.
	ClusterBudget int    `yaml:"clusterBudget"`
	Reboot        string `yaml:"reboot"` // never (default) or allowed: whether a host that cannot be healed reboots
	Limits        Limits `yaml:"limits"`
}

// Limits are what the watchdog takes for a leak, and when it warns.
type Limits struct {
	Hold         time.Duration `yaml:"hold"`     // how long something must be past its limit; default 5m
	Files        int           `yaml:"files"`    // open files, in percent of the process's own limit; default 90, 0: no limit
	DiskFree     int           `yaml:"diskFree"` // free space in percent below which to warn; default 10, 0: never
	Etcd         Limit         `yaml:"etcd"`
	APIServer    Limit         `yaml:"apiServer"`
	LoadBalancer Limit         `yaml:"loadBalancer"`
	Podmaster    Limit         `yaml:"podmaster"`
}

// Limit is what the main process of one kind of unit may use; 0: no limit.
type Limit struct {
	Memory     Size `yaml:"memory"` // without mapped files, such as etcd's database
	Goroutines int  `yaml:"goroutines"`
}

// The values of Watchdog.Reboot.
const (
	RebootNever   = "never"
	RebootAllowed = "allowed"
)
