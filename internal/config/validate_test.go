package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Each fault alone, made in a good Cluster: exactly one is told, with its path,
// its value and words that help.
func TestEachFault(t *testing.T) {
	ttl := 3 * time.Second
	cases := []struct {
		harm  func(c *Cluster)
		path  string
		value string
		want  string
	}{
		{func(c *Cluster) { c.APIVersion = "hactl/v2" }, "apiVersion", "hactl/v2", "newer hactl"},
		{func(c *Cluster) { c.Kind = "Node" }, "kind", "Node", "must be Cluster"},
		{func(c *Cluster) { c.Name = "" }, "name", "", "missing"},
		{func(c *Cluster) { c.Name = "Prod" }, "name", "Prod", "DNS label"},
		{func(c *Cluster) { c.Name = strings.Repeat("a", 64) }, "name", strings.Repeat("a", 64), "DNS label"},
		{func(c *Cluster) { c.Name = "a.b" }, "name", "a.b", "DNS label"},
		{func(c *Cluster) { c.Token.File = "" }, "token.file", "", "missing"},
		{func(c *Cluster) { c.Token.File = "token" }, "token.file", "token", "absolute path"},

		{func(c *Cluster) { c.Masters = nil }, "masters", "", "missing"},
		{func(c *Cluster) { c.Discovery = &Discovery{Seeds: []string{"a"}, Expect: 3} }, "discovery", "", "not both"},
		{func(c *Cluster) { c.Masters[1].Name = "m1" }, "masters[1].name", "m1", "same as masters[0].name"},
		{func(c *Cluster) { c.Masters[1].Name = "" }, "masters[1].name", "", "missing"},
		{func(c *Cluster) { c.Masters[1].Name = "m_1" }, "masters[1].name", "m_1", "DNS label"},
		{func(c *Cluster) { c.Masters[2].Address = "10.245.1.11" }, "masters[2].address", "10.245.1.11", "same as masters[0].address"},
		{func(c *Cluster) { c.Masters[2].Address = "" }, "masters[2].address", "", "missing"},
		{func(c *Cluster) { c.Masters[2].Address = "m3.example.com" }, "masters[2].address", "m3.example.com", "names are not resolved"},
		{func(c *Cluster) { c.Masters[2].Address = "10.245.1.300" }, "masters[2].address", "10.245.1.300", "not an IP address"},
		{func(c *Cluster) { c.Masters[2].Address = "10.245.1.13:2380" }, "masters[2].address", "10.245.1.13:2380", "leave the port out"},
		{func(c *Cluster) { c.Masters[2].Address = "10.245.1.13/24" }, "masters[2].address", "10.245.1.13/24", "leave the mask out"},
		{func(c *Cluster) { c.Masters[2].Address = "0.0.0.0" }, "masters[2].address", "0.0.0.0", "every address"},
		{func(c *Cluster) { c.Masters[2].Address = "::" }, "masters[2].address", "::", "every address"},
		{func(c *Cluster) { c.Masters[2].Address = "224.0.0.1" }, "masters[2].address", "224.0.0.1", "one machine"},
		{func(c *Cluster) { c.Masters[2].Address = "ff02::1" }, "masters[2].address", "ff02::1", "one machine"},
		{func(c *Cluster) { c.Masters[2].Address = "255.255.255.255" }, "masters[2].address", "255.255.255.255", "one machine"},
		{func(c *Cluster) { c.Masters[2].Address = "fe80::1" }, "masters[2].address", "fe80::1", "link-local"},
		{func(c *Cluster) { c.Masters[2].Address = "fe80::1%eth0" }, "masters[2].address", "fe80::1%eth0", "zone"},
		{func(c *Cluster) { c.Masters[2].Address = "::ffff:10.245.1.13" }, "masters[2].address", "::ffff:10.245.1.13", "write it as 10.245.1.13"},
		{func(c *Cluster) { c.Masters[2].Address = "FD00::0001" }, "masters[2].address", "FD00::0001", "write it as fd00::1"},
		{func(c *Cluster) { c.Masters[2].Address = "127.0.0.1" }, "masters[2].address", "127.0.0.1", "loopback"},
		{func(c *Cluster) { c.Masters[2].Address = "10.96.3.1" }, "masters[2].address", "10.96.3.1", "inside kubernetes.serviceCIDR 10.96.0.0/16"},
		{func(c *Cluster) { c.Masters[2].Address = "10.244.3.1" }, "masters[2].address", "10.244.3.1", "inside kubernetes.clusterCIDR"},
		{func(c *Cluster) {
			for i := 4; i <= 8; i++ {
				c.Masters = append(c.Masters, Master{fmt.Sprintf("m%d", i), fmt.Sprintf("10.0.0.%d", i)})
			}
		}, "masters", "8", "at most 7"},
		{func(c *Cluster) { c.Masters, c.Discovery = nil, &Discovery{Expect: 3} }, "discovery.seeds", "", "missing"},
		{func(c *Cluster) { c.Masters, c.Discovery = nil, &Discovery{Seeds: []string{"a", "b:0"}, Expect: 3} }, "discovery.seeds[1]", "b:0", "its port"},
		{func(c *Cluster) { c.Masters, c.Discovery = nil, &Discovery{Seeds: []string{"http://b"}, Expect: 3} }, "discovery.seeds[0]", "http://b", "host or host:port"},
		{func(c *Cluster) { c.Masters, c.Discovery = nil, &Discovery{Seeds: []string{"a"}} }, "discovery.expect", "0", "how many"},

		{func(c *Cluster) { c.FrontDoor.Host = "https://k8s.example.com" }, "frontDoor.host", "https://k8s.example.com", "DNS name or an IP"},
		{func(c *Cluster) { c.FrontDoor.Host = "k8s.example.com:443" }, "frontDoor.host", "k8s.example.com:443", "frontDoor.port"},
		{func(c *Cluster) { c.FrontDoor.Host = "0.0.0.0" }, "frontDoor.host", "0.0.0.0", "dial"},
		{func(c *Cluster) { c.FrontDoor.Host = "*.example.com" }, "frontDoor.host", "*.example.com", "DNS name"},
		{func(c *Cluster) { c.FrontDoor.Host = "10.0.0.256" }, "frontDoor.host", "10.0.0.256", "DNS name or an IP"},
		{func(c *Cluster) { c.FrontDoor.Port = 0 }, "frontDoor.port", "0", "1 to 65535"},
		{func(c *Cluster) { c.FrontDoor.Port = 65536 }, "frontDoor.port", "65536", "1 to 65535"},
		{func(c *Cluster) { c.FrontDoor.SANs = []string{"a.b", "A.b"} }, "frontDoor.sans[1]", "A.b", "same as frontDoor.sans[0]"},
		{func(c *Cluster) { c.FrontDoor.SANs = []string{"a b"} }, "frontDoor.sans[0]", "a b", "DNS name"},
		{func(c *Cluster) { c.FrontDoor.SANs = []string{""} }, "frontDoor.sans[0]", "", "DNS name"},

		{func(c *Cluster) { c.Kubernetes.Version = "1.36.3" }, "kubernetes.version", "1.36.3", "did you mean v1.36.3?"},
		{func(c *Cluster) { c.Kubernetes.Version = "v1.36" }, "kubernetes.version", "v1.36", "as in v1.36.3"},
		{func(c *Cluster) { c.Kubernetes.Version = "v1.36.03" }, "kubernetes.version", "v1.36.03", "release"},
		{func(c *Cluster) { c.Kubernetes.Version = "latest" }, "kubernetes.version", "latest", "release"},
		{func(c *Cluster) { c.Kubernetes.BinDir = "bin" }, "kubernetes.binDir", "bin", "absolute"},
		{func(c *Cluster) { c.Kubernetes.BinDir = "" }, "kubernetes.binDir", "", "missing"},
		{func(c *Cluster) { c.Kubernetes.ServiceCIDR = "10.96.0.0" }, "kubernetes.serviceCIDR", "10.96.0.0", "not a range"},
		{func(c *Cluster) { c.Kubernetes.ServiceCIDR = "10.96.0.1/16" }, "kubernetes.serviceCIDR", "10.96.0.1/16", "the range is 10.96.0.0/16"},
		{func(c *Cluster) { c.Kubernetes.ServiceCIDR = "10.96.0.0/16,fd00::/108" }, "kubernetes.serviceCIDR", "10.96.0.0/16,fd00::/108", "one range"},
		{func(c *Cluster) { c.Kubernetes.ServiceCIDR = "172.0.0.0/8" }, "kubernetes.serviceCIDR", "172.0.0.0/8", "too large"},
		{func(c *Cluster) { c.Kubernetes.ServiceCIDR = "fd00::/64" }, "kubernetes.serviceCIDR", "fd00::/64", "/108"},
		{func(c *Cluster) { c.Kubernetes.ServiceCIDR = "10.96.0.0/30" }, "kubernetes.serviceCIDR", "10.96.0.0/30", "too small"},
		{func(c *Cluster) { c.Kubernetes.ServiceCIDR = "224.0.0.0/16" }, "kubernetes.serviceCIDR", "224.0.0.0/16", "unicast"},
		{func(c *Cluster) { c.Kubernetes.ClusterCIDR = "10.96.128.0/17" }, "kubernetes.clusterCIDR", "10.96.128.0/17", "overlaps kubernetes.serviceCIDR"},
		{func(c *Cluster) { c.Kubernetes.ClusterCIDR = "" }, "kubernetes.clusterCIDR", "", "not a range"},

		{func(c *Cluster) { c.APIServer.AuthorizationModes = nil }, "apiServer.authorizationModes", "", "at least one"},
		{func(c *Cluster) { c.APIServer.AuthorizationModes = []string{"AlwaysAllow"} }, "apiServer.authorizationModes[0]", "AlwaysAllow", "everyone"},
		{func(c *Cluster) { c.APIServer.AuthorizationModes = []string{"Node", "Rbac"} }, "apiServer.authorizationModes[1]", "Rbac", "did you mean RBAC?"},
		{func(c *Cluster) { c.APIServer.AuthorizationModes = []string{"RBAC", "RBAC"} }, "apiServer.authorizationModes[1]", "RBAC", "twice"},
		{func(c *Cluster) { c.APIServer.AuthorizationModes = []string{"RBAC", "ABAC"} }, "apiServer.abacPolicyFile", "", "ABAC"},
		{func(c *Cluster) { c.APIServer.ABACPolicyFile = "/p" }, "apiServer.abacPolicyFile", "/p", "add ABAC"},
		{func(c *Cluster) { c.APIServer.TokenAuthFile = "t.csv" }, "apiServer.tokenAuthFile", "t.csv", "absolute"},
		{func(c *Cluster) { c.APIServer.OIDC = &OIDC{ClientID: "k"} }, "apiServer.oidc.issuerURL", "", "missing"},
		{func(c *Cluster) { c.APIServer.OIDC = &OIDC{IssuerURL: "http://a", ClientID: "k"} }, "apiServer.oidc.issuerURL", "http://a", "https://"},
		{func(c *Cluster) { c.APIServer.OIDC = &OIDC{IssuerURL: "https://", ClientID: "k"} }, "apiServer.oidc.issuerURL", "https://", "https://"},
		{func(c *Cluster) { c.APIServer.OIDC = &OIDC{IssuerURL: "https://a/?q", ClientID: "k"} }, "apiServer.oidc.issuerURL", "https://a/?q", "path only"},
		{func(c *Cluster) { c.APIServer.OIDC = &OIDC{IssuerURL: "https://a"} }, "apiServer.oidc.clientID", "", "audience"},
		{func(c *Cluster) { c.APIServer.OIDC = &OIDC{IssuerURL: "https://a", ClientID: "k", CAFile: "ca"} }, "apiServer.oidc.caFile", "ca", "absolute"},
		{func(c *Cluster) { c.APIServer.ExtraArgs = map[string]string{"--v": "2"} }, "apiServer.extraArgs.--v", "2", "leave the dashes out: v"},
		{func(c *Cluster) { c.APIServer.ExtraArgs = map[string]string{"v=2": ""} }, "apiServer.extraArgs.v=2", "", "flag's"},
		{func(c *Cluster) { c.APIServer.ExtraArgs = map[string]string{"": "2"} }, "apiServer.extraArgs.", "2", "flag's"},

		{func(c *Cluster) { c.Singletons[0].Name = "kube-schedular" }, "singletons[0].command", "", "did you mean kube-scheduler?"},
		{func(c *Cluster) { c.Singletons[0].Name = "" }, "singletons[0].name", "", "missing"},
		{func(c *Cluster) { c.Singletons[1].Name = "kube-scheduler" }, "singletons[1].name", "kube-scheduler", "same as singletons[0].name"},
		{func(c *Cluster) { c.Singletons[0].Command = []string{"/x"} }, "singletons[0].command", "/x", "brings its own command"},
		{func(c *Cluster) { c.Singletons[0] = Singleton{Name: "x", TTL: ttl} }, "singletons[0].command", "", "only kube-scheduler and kube-controller-manager"},
		{func(c *Cluster) { c.Singletons[0] = Singleton{Name: "x", TTL: ttl, Command: []string{"x"}} }, "singletons[0].command[0]", "x", "absolute"},
		{func(c *Cluster) {
			c.Singletons[0] = Singleton{Name: "x", TTL: ttl, Command: []string{"/x"}, ExtraArgs: map[string]string{"a": "b"}}
		}, "singletons[0].extraArgs", "", "put them into command"},
		{func(c *Cluster) { c.Singletons[0].ExtraArgs = map[string]string{"-v": "b"} }, "singletons[0].extraArgs.-v", "b", "leave the dashes out"},
		{func(c *Cluster) { c.Singletons[0].TTL = time.Second }, "singletons[0].ttl", "1s", "at least 2s, to outlast"},
		{func(c *Cluster) { c.Singletons[0].TTL = 0 }, "singletons[0].ttl", "0s", "at least 2s, to outlast"},
		{func(c *Cluster) { c.Singletons[0].TTL = -3 * time.Second }, "singletons[0].ttl", "-3s", "at least 2s, to outlast"},
		{func(c *Cluster) { c.Singletons[0].TTL = 2500 * time.Millisecond }, "singletons[0].ttl", "2.5s", "whole seconds: 2s or 3s"},
		{func(c *Cluster) {
			c.Etcd.Election, c.Singletons[1].TTL = 2*time.Second+500*time.Millisecond, 4*time.Second
		}, "singletons[0].ttl", "3s", "at least 4s, to outlast"},
		{func(c *Cluster) { c.Singletons[0].HealthURL = "127.0.0.1:80" }, "singletons[0].healthURL", "127.0.0.1:80", "http://"},

		{func(c *Cluster) { c.Etcd.Heartbeat = 0 }, "etcd.heartbeat", "0s", "from 1ms to 10s"},
		{func(c *Cluster) { c.Etcd.Heartbeat = 1 << 61 }, "etcd.heartbeat", "640511h56m49.213693952s", "from 1ms to 10s"},
		{func(c *Cluster) { c.Etcd.Heartbeat = 1500 * time.Microsecond }, "etcd.heartbeat", "1.5ms", "whole milliseconds"},
		{func(c *Cluster) { c.Etcd.Heartbeat = 201 * time.Millisecond }, "etcd.election", "1s", "5 times etcd.heartbeat 201ms"},
		{func(c *Cluster) { c.Etcd.Election = 51 * time.Second; setTTL(c, 90*time.Second) }, "etcd.election", "51s", "at most 50s"},
		{func(c *Cluster) { c.Etcd.Election = -time.Second }, "etcd.election", "-1s", "more than 0"},
		{func(c *Cluster) { c.Etcd.Quota = 0 }, "etcd.quota", "0", "at least 1Mi"},
		{func(c *Cluster) { c.Etcd.Quota = -5 }, "etcd.quota", "-5", "at least 1Mi"},
		{func(c *Cluster) { c.Etcd.Backup.Every = 0 }, "etcd.backup.every", "0s", "turns backups off"},
		{func(c *Cluster) { c.Etcd.Backup.Keep = 0 }, "etcd.backup.keep", "0", "at least 1"},
		{func(c *Cluster) { c.Etcd.Backup.To = []string{"/var/backups"} }, "etcd.backup.to[0]", "/var/backups", "must be a URL"},
		{func(c *Cluster) { c.Etcd.Backup.To = []string{"dir://var/backups"} }, "etcd.backup.to[0]", "dir://var/backups", "three slashes"},
		{func(c *Cluster) { c.Etcd.Backup.To = []string{"dir:///"} }, "etcd.backup.to[0]", "dir:///", "folder"},
		{func(c *Cluster) { c.Etcd.Backup.To = []string{"s3:///x"} }, "etcd.backup.to[0]", "s3:///x", "bucket"},
		{func(c *Cluster) { c.Etcd.Backup.To = []string{"ftp://a/b"} }, "etcd.backup.to[0]", "ftp://a/b", "known are"},
		{func(c *Cluster) { c.Etcd.Backup.To = []string{"dir:///a", "dir:///a"} }, "etcd.backup.to[1]", "dir:///a", "same as"},

		{func(c *Cluster) { c.LoadBalancer.Check.Rise = 0 }, "loadBalancer.check.rise", "0", "from 1"},
		{func(c *Cluster) { c.LoadBalancer.Check.Fall = -1 }, "loadBalancer.check.fall", "-1", "from 1"},
		{func(c *Cluster) { c.LoadBalancer.Check.Every = 0 }, "loadBalancer.check.every", "0s", "from 10ms"},
		{func(c *Cluster) { c.LoadBalancer.Check.Timeout = 0 }, "loadBalancer.check.timeout", "0s", "from 10ms"},
		{func(c *Cluster) { c.LoadBalancer.Check.Timeout = 6 * time.Second }, "loadBalancer.check.timeout", "6s", "10 times loadBalancer.check.every 500ms"},
		{func(c *Cluster) { c.Watchdog.Every = 2 * time.Hour }, "watchdog.every", "2h", "1h"},
		{func(c *Cluster) { c.Watchdog.Timeout = 11 * time.Second }, "watchdog.timeout", "11s", "10 times watchdog.every 1s"},
		{func(c *Cluster) { c.Watchdog.Fall = 0 }, "watchdog.fall", "0", "from 1"},
		{func(c *Cluster) { c.Watchdog.Budget = 0 }, "watchdog.budget", "0", "from 1"},
		{func(c *Cluster) { c.Watchdog.ClusterBudget = 0 }, "watchdog.clusterBudget", "0", "from 1 to 1000"},
		{func(c *Cluster) { c.Watchdog.Reboot = "yes" }, "watchdog.reboot", "yes", "never or allowed"},
		{func(c *Cluster) { c.Watchdog.Limits.Hold = time.Second }, "watchdog.limits.hold", "1s", "from 15s"},
		{func(c *Cluster) { c.Watchdog.Limits.Files = 100 }, "watchdog.limits.files", "100", "percent"},
		{func(c *Cluster) { c.Watchdog.Limits.DiskFree = -1 }, "watchdog.limits.diskFree", "-1", "percent"},
		{func(c *Cluster) { c.Watchdog.Limits.Etcd.Memory = 1 << 20 }, "watchdog.limits.etcd.memory", "1Mi", "at least 64Mi"},
		{func(c *Cluster) { c.Watchdog.Limits.Podmaster.Goroutines = 5 }, "watchdog.limits.podmaster.goroutines", "5", "at least 1000"},
		{func(c *Cluster) { c.Watchdog.Window = 0 }, "watchdog.window", "0s", "more than 0"},
		{func(c *Cluster) { c.Watchdog.Window = 29 * time.Second }, "watchdog.window", "29s", "at least 30s"},

		{func(c *Cluster) { c.APIServer.Port = 6443 }, "apiServer.port", "6443", "the load balancer (frontDoor.port) has this port"},
		{func(c *Cluster) { c.APIServer.Port = 2379 }, "apiServer.port", "2379", "etcd, clients has this port"},
		{func(c *Cluster) { c.FrontDoor.Port = 10259 }, "frontDoor.port", "10259", "kube-scheduler"},
		{func(c *Cluster) { c.Agent.GossipPort = 9443 }, "agent.gossipPort", "9443", "the agent's API (agent.port)"},
		{func(c *Cluster) { c.Agent.JoinPort = 7946 }, "agent.joinPort", "7946", "gossip (agent.gossipPort)"},
		{func(c *Cluster) { c.Agent.JoinPort = 0 }, "agent.joinPort", "0", "from 1"},
		{func(c *Cluster) { c.Agent.Port = 9446 }, "agent.port", "9446", "the agent's metrics"},
		{func(c *Cluster) { c.Agent.Port = 9451 }, "singletons[1]", "9451", "the agent's API (agent.port)"},
		{func(c *Cluster) {
			c.Masters, c.Discovery = nil, &Discovery{Seeds: []string{"a"}, Expect: 3}
			c.Agent.Port = 2380
		}, "agent.port", "2380", "etcd, peers"},
	}
	for _, cs := range cases {
		t.Run(cs.path+"="+cs.value, func(t *testing.T) {
			c, err := Parse("example", []byte(example))
			if err != nil {
				t.Fatal(err)
			}
			cs.harm(c)
			faults := FieldErrors(c.Validate())
			if len(faults) != 1 || faults[0].Path != cs.path || faults[0].Value != cs.value || !strings.Contains(faults[0].Err.Error(), cs.want) {
				t.Errorf("%v\nwant %s: %q: … %s", c.Validate(), cs.path, cs.value, cs.want)
			}
		})
	}
}

func setTTL(c *Cluster, ttl time.Duration) {
	for i := range c.Singletons {
		c.Singletons[i].TTL = ttl
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	c := Default()
	c.Masters = []Master{{"a", "x"}, {"a", "0.0.0.0"}}
	c.Etcd.Quota, c.Watchdog.Fall, c.FrontDoor.Port = 0, 0, -1
	var paths []string
	for _, f := range FieldErrors(c.Validate()) {
		paths = append(paths, f.Path)
	}
	want := []string{"name", "masters[0].address", "masters[1].name", "masters[1].address", "etcd.quota", "watchdog.fall", "frontDoor.port"}
	if !slices.Equal(paths, want) {
		t.Errorf("got %v\nwant %v", paths, want)
	}
	if (&Cluster{}).Validate() == nil {
		t.Error("an empty Cluster is valid")
	}
}

func TestWhatIsAllowed(t *testing.T) {
	for name, change := range map[string]func(c *Cluster){
		"two masters":     func(c *Cluster) { c.Masters = c.Masters[:2] },
		"one master":      func(c *Cluster) { c.Masters = c.Masters[:1] },
		"IPv6":            func(c *Cluster) { c.Masters[0].Address = "fd00::1" },
		"loopback":        func(c *Cluster) { c.Masters = []Master{{"m1", "127.0.1.1"}, {"m2", "127.0.1.2"}, {"m3", "127.0.1.3"}} },
		"IPv6 services":   func(c *Cluster) { c.Kubernetes.ServiceCIDR = "fd00:96::/108" },
		"no singletons":   func(c *Cluster) { c.Singletons = nil },
		"no backups":      func(c *Cluster) { c.Etcd.Backup.To = nil },
		"a wildcard name": func(c *Cluster) { c.FrontDoor.SANs = []string{"*.example.com", "2001:db8::1"} },
		"slow etcd": func(c *Cluster) {
			c.Etcd.Heartbeat, c.Etcd.Election = time.Second, 5*time.Second
			setTTL(c, 8*time.Second)
		},
		"the least TTL":      func(c *Cluster) { setTTL(c, 2*time.Second) },
		"a large quota":      func(c *Cluster) { c.Etcd.Quota = 64 << 30 },
		"webhook":            func(c *Cluster) { c.APIServer.AuthorizationModes = []string{"Webhook"} },
		"front door by name": func(c *Cluster) { c.FrontDoor = FrontDoor{Host: "k8s.example.com", Port: 443} },
	} {
		c, err := Parse("example", []byte(example))
		if err != nil {
			t.Fatal(err)
		}
		change(c)
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckMasterCount(t *testing.T) {
	for n := 1; n <= 7; n++ {
		c := Default()
		for i := range n {
			c.Masters = append(c.Masters, Master{Name: fmt.Sprint(i)})
		}
		d := Default()
		d.Discovery = &Discovery{Expect: n}
		for field, c := range map[string]*Cluster{"masters": c, "discovery.expect": d} {
			err := c.CheckMasterCount()
			if (err != nil) != (n%2 == 0) || err != nil && (!strings.HasPrefix(err.Error(), field+":") || !strings.Contains(err.Error(), fmt.Sprintf("have %d or %d", n-1, n+1))) {
				t.Errorf("%d %s: %v", n, field, err)
			}
		}
	}
}

// The values that etcd's lessor computes: ceil(1.5 × election ticks × tick).
func TestMinTTL(t *testing.T) {
	for _, c := range []struct{ heartbeat, election, want time.Duration }{
		{100 * time.Millisecond, time.Second, 2 * time.Second},
		{100 * time.Millisecond, 500 * time.Millisecond, time.Second},
		{100 * time.Millisecond, 2 * time.Second, 3 * time.Second},
		{100 * time.Millisecond, 2500 * time.Millisecond, 4 * time.Second},
		{300 * time.Millisecond, 2 * time.Second, 3 * time.Second}, // 6 ticks
		{0, time.Second, 0},
	} {
		if got := MinTTL(c.heartbeat, c.election); got != c.want {
			t.Errorf("MinTTL(%s, %s) = %s, want %s", c.heartbeat, c.election, got, c.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	for path, change := range map[string]func(c *Cluster){
		"etcd.quota":        func(c *Cluster) { c.Etcd.Quota = 9 << 30 },
		"masters":           func(c *Cluster) { c.Masters = c.Masters[:2] },
		"singletons[1].ttl": func(c *Cluster) { c.Singletons[1].TTL = 2 * time.Minute },
		"singletons":        func(c *Cluster) { c.Singletons = c.Singletons[:1] },
		"etcd.election":     func(c *Cluster) { c.Etcd.Election = 900 * time.Millisecond },
		"etcd.backup.to":    func(c *Cluster) { c.Etcd.Backup.To = nil },
	} {
		c, err := Parse("example", []byte(example))
		if err != nil {
			t.Fatal(err)
		}
		change(c)
		if w := c.Warnings(); len(w) != 1 || w[0].Path != path {
			t.Errorf("%s: %v", path, w)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct{ address, metrics, etcd string }{
		{"10.0.0.1", "127.0.0.1", "https://10.0.0.1:2379"},
		{"127.0.1.2", "127.0.1.2", "https://127.0.1.2:2379"},
		{"fd00::1", "127.0.0.1", "https://[fd00::1]:2379"},
		{"::1", "::1", "https://[::1]:2379"},
	} {
		m := Master{"m", c.address}
		if m.MetricsAddress() != c.metrics || m.EtcdClientURL() != c.etcd {
			t.Errorf("%s: %s, %s", c.address, m.MetricsAddress(), m.EtcdClientURL())
		}
	}
	c, err := Parse("example", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	m, ok := c.MasterByName("m2")
	if _, none := c.MasterByName("m9"); !ok || none {
		t.Error("MasterByName")
	}
	got := []string{c.APIServerAddress(m), c.BalancerAddress(m), c.AgentAddress(m), c.GossipAddress(m), c.JoinAddress(m), m.EtcdPeerURL(), c.PodmasterMetricsAddress(m, 1), c.FrontDoorAddress(m)}
	want := []string{"10.245.1.12:6444", "10.245.1.12:6443", "10.245.1.12:9443", "10.245.1.12:7946", "10.245.1.12:7947", "https://10.245.1.12:2380", "127.0.0.1:9451", "10.245.1.12:6443"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	c.FrontDoor.Host = "k8s.example.com"
	if got := c.FrontDoorAddress(m); got != "k8s.example.com:6443" {
		t.Error(got)
	}
	if urls := c.EtcdClientURLs(); len(urls) != 3 || urls[2] != "https://10.245.1.13:2379" {
		t.Error(urls)
	}
	for cidr, want := range map[string]string{"10.96.0.0/16": "10.96.0.1", "fd00::/108": "fd00::1"} {
		if ip, err := (Kubernetes{ServiceCIDR: cidr}).ServiceIP(); err != nil || ip.String() != want {
			t.Errorf("%s: %s, %v", cidr, ip, err)
		}
	}
	if _, err := (Kubernetes{}).ServiceIP(); err == nil {
		t.Error("no error for no range")
	}
	seen := map[string]bool{}
	for _, p := range c.Ports(m) {
		if seen[p.String()] || p.User == "" {
			t.Errorf("%+v", p)
		}
		seen[p.String()] = true
	}
	if len(seen) != 14 {
		t.Errorf("%d ports", len(seen))
	}
}

func TestNearest(t *testing.T) {
	words := []string{"etcd", "watchdog", "loadBalancer", "masters", "name", "port", "sans"}
	for word, want := range map[string]string{
		"ectd": "etcd", "watchdogs": "watchdog", "loadbalancer": "loadBalancer", "load_balancer": "loadBalancer", "master": "masters",
		"naem": "name", "prot": "port", "san": "sans", "xyz": "", "": "", "part": "port", "pear": "", "dogwatch": "", strings.Repeat("x", 1000): "",
	} {
		if got := nearest(word, words); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}
