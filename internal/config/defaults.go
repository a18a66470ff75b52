package config

import "time"

// The values of apiVersion and kind that this hactl reads and writes.
const (
	APIVersion = "hactl/v1alpha1"
	Kind       = "Cluster"
)

// The two singletons that hactl knows how to run.
const (
	KubeScheduler         = "kube-scheduler"
	KubeControllerManager = "kube-controller-manager"
)

// DefaultTokenFile is where the shared secret lies unless token.file says
// otherwise; it moves with --root, a path that the user gave does not.
const DefaultTokenFile = "/etc/hactl/token"

// defaultTTL of a singleton: the least that survives the loss of etcd's leader
// (an election of 1s, twice) with a margin.
const defaultTTL = 3 * time.Second

// Default is a cluster with every default and without what only the user can
// know: its name and its masters. It does not pass Validate until those are
// given.
func Default() *Cluster {
	return &Cluster{
		APIVersion: APIVersion,
		Kind:       Kind,
		Token:      Token{File: DefaultTokenFile},
		FrontDoor:  FrontDoor{Port: 6443},
		Kubernetes: Kubernetes{
			Version:     "v1.36.3",
			BinDir:      "/opt/hactl/kube",
			ServiceCIDR: "10.96.0.0/16",
			ClusterCIDR: "10.244.0.0/16",
		},
		APIServer: APIServer{Port: 6444, AuthorizationModes: []string{"Node", "RBAC"}},
		Singletons: []Singleton{
			{Name: KubeScheduler, TTL: defaultTTL},
			{Name: KubeControllerManager, TTL: defaultTTL},
		},
		Etcd: Etcd{
			Heartbeat: 100 * time.Millisecond,
			Election:  time.Second,
			Quota:     8 << 30,
			Backup:    Backup{Every: time.Hour, Keep: 48, To: []string{"dir:///var/backups/hactl"}},
		},
		LoadBalancer: LoadBalancer{Check: Check{Every: 500 * time.Millisecond, Timeout: time.Second, Rise: 1, Fall: 2}},
		Agent:        Agent{Port: 9443, GossipPort: 7946, JoinPort: 7947},
		Watchdog: Watchdog{
			Every: time.Second, Timeout: 2 * time.Second, Fall: 3, Window: 10 * time.Minute, Budget: 5, ClusterBudget: 10, Reboot: RebootNever,
			Limits: Limits{
				Hold: 5 * time.Minute, Files: 90, DiskFree: 10,
				// An API server's needs grow with the cluster: no limit is right for all.
				Etcd:         Limit{Memory: 8 << 30, Goroutines: 200_000},
				LoadBalancer: Limit{Memory: 2 << 30, Goroutines: 50_000},
				Podmaster:    Limit{Memory: 512 << 20, Goroutines: 5000},
			},
		},
	}
}

// newElement is a list element, or the target of a pointer, with its defaults.
func (d *decoder) newElement(sample any) any {
	switch sample.(type) {
	case Singleton:
		return Singleton{TTL: defaultTTL}
	case OIDC:
		return OIDC{UsernameClaim: "sub", UsernamePrefix: "oidc:", GroupsPrefix: "oidc:"}
	default:
		return sample
	}
}
