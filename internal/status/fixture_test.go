package status

import (
	"fmt"
	"time"
)

var now = time.Date(2026, 11, 22, 15, 0, 0, 0, time.UTC)

// healthy is a cluster of n masters in which everything is well.
func healthy(n int) *Report {
	r := &Report{
		APIVersion: APIVersion, Kind: Kind, Cluster: "prod", Time: now, Unknown: []Unknown{},
		Etcd: Etcd{Quorum: Yes, Membership: Yes, Leader: "m1", Term: 7, Quota: 8 << 30},
	}
	for i := 1; i <= n; i++ {
		name, addr := fmt.Sprintf("m%d", i), fmt.Sprintf("10.245.1.1%d", i)
		role := RoleVoter
		if i == 1 {
			role = RoleLeader
		}
		r.Etcd.Members = append(r.Etcd.Members, Member{
			Name: name, ID: fmt.Sprintf("a%d", i), Role: role, Endpoint: "https://" + addr + ":2379", Reachable: true, Leader: "m1", Term: 7,
			Index: 120345, Applied: 120345, DBSize: 24 << 20, DBInUse: 20 << 20, Version: "3.7.3", Latency: In(2100 * time.Microsecond),
		})
		r.APIServers = append(r.APIServers, APIServer{
			Master: name, Address: addr + ":6444", Ready: Yes, Live: Yes, Latency: In(3200 * time.Microsecond),
		})
		b := Balancer{Name: name, Address: addr + ":6443", Serving: Yes, Latency: In(4 * time.Millisecond), Connections: 12}
		m := Master{Name: name, Address: addr, ProcessesFrom: "agent",
			Agent:    Agent{Reachable: true, Version: "v0.1.0", Latency: In(5 * time.Millisecond)},
			Watchdog: &Watchdog{Targets: []WatchTarget{{Name: "kube-apiserver", State: "ok"}}},
		}
		for k := 1; k <= n; k++ {
			other, otherAddr := fmt.Sprintf("m%d", k), fmt.Sprintf("10.245.1.1%d", k)
			b.Backends = append(b.Backends, Backend{Name: other, Address: otherAddr + ":6444", State: BackendReady, Connections: 4})
			m.Peers = append(m.Peers, Peer{Name: other, Address: otherAddr, State: "alive"})
		}
		for k, unit := range []string{
			"hactl-etcd", "kube-apiserver", "hactl-lb", "podmaster@kube-scheduler", "podmaster@kube-controller-manager", "hactl-agent",
		} {
			m.Processes = append(m.Processes, Process{Name: unit, Active: "active", MainPID: 1000*i + k, Since: now.Add(-3 * time.Hour)})
		}
		for _, f := range []string{"apiserver.crt", "etcd/server.crt"} {
			m.Certificates = append(m.Certificates, Certificate{
				File: f, Subject: name, NotBefore: now.AddDate(0, -1, 0), NotAfter: now.AddDate(0, 11, 0),
			})
		}
		r.Balancers = append(r.Balancers, b)
		r.Masters = append(r.Masters, m)
	}
	for i, s := range []string{"kube-scheduler", "kube-controller-manager"} {
		holder, waiting := r.Masters[i%n].Name, []string{}
		for _, m := range r.Masters {
			if m.Name != holder {
				waiting = append(waiting, m.Name)
			}
		}
		r.Singletons = append(r.Singletons, Singleton{
			Name: s, Known: Linearizable, Holder: holder, Token: int64(4000 + i), Since: now.Add(-90 * time.Minute), TTL: 3, Renewed: now.Add(-400 * time.Millisecond), Waiting: waiting,
		})
	}
	return r
}

// loseEtcd makes master i's member unreachable.
func loseEtcd(r *Report, i int) {
	m := &r.Etcd.Members[i]
	*m = Member{Name: m.Name, ID: m.ID, Role: RoleVoter, Endpoint: m.Endpoint, Error: "connection refused"}
}

// loseAPIServer makes master i's API server refuse connections.
func loseAPIServer(r *Report, i int) {
	a := &r.APIServers[i]
	*a = APIServer{Master: a.Master, Address: a.Address, Ready: No, Live: No, Why: "connection refused"}
	for b := range r.Balancers {
		if k := r.Balancers[b].Backends; k != nil {
			k[i].State, k[i].Why, k[i].Connections = "ejected", "connection refused", 0
		}
	}
}

// loseAgent makes master i's agent silent, with all that only it can tell.
func loseAgent(r *Report, i int) {
	m := &r.Masters[i]
	*m = Master{Name: m.Name, Address: m.Address, Agent: Agent{Error: "connection refused"}}
	r.Balancers[i].Backends = nil
	for _, what := range []string{"processes", "certificates", "balancer's backends"} {
		r.Unknown = append(r.Unknown, Unknown{Object: m.Name, What: what, Why: "its agent does not answer"})
	}
	for k := range r.Masters {
		if r.Masters[k].Peers != nil {
			r.Masters[k].Peers[i].State = "dead"
		}
	}
}

// loseMaster makes master i silent altogether.
func loseMaster(r *Report, i int) {
	loseEtcd(r, i)
	loseAgent(r, i)
	loseAPIServer(r, i)
	b := &r.Balancers[i]
	b.Serving, b.Why, b.Latency = No, "connection refused", 0
	for s := range r.Singletons {
		x := &r.Singletons[s]
		waiting := []string{}
		for _, w := range x.Waiting {
			if w != r.Masters[i].Name {
				waiting = append(waiting, w)
			}
		}
		x.Waiting = waiting
		if x.Holder == r.Masters[i].Name && len(waiting) > 0 {
			x.Holder, x.Waiting, x.Since = waiting[0], waiting[1:], now.Add(-4*time.Second)
		}
	}
	if r.Etcd.Leader == r.Masters[i].Name {
		to := (i + 1) % len(r.Masters)
		r.Etcd.Leader = r.Masters[to].Name
		r.Etcd.Members[to].Role = RoleLeader
	}
}

// endQuorum makes etcd answer without a leader, as after losing most members.
func endQuorum(r *Report) {
	r.Etcd.Quorum, r.Etcd.Why, r.Etcd.Leader, r.Etcd.Membership = No, "etcdserver: no leader", "", No
	for i := range r.Etcd.Members {
		m := &r.Etcd.Members[i]
		m.Leader = ""
		if m.Role == RoleLeader {
			m.Role = RoleVoter
		}
	}
	for i := range r.Singletons {
		r.Singletons[i].Known = Stale
	}
	for i := range r.APIServers {
		if a := &r.APIServers[i]; a.Ready == Yes {
			a.Ready, a.Why = No, "HTTP 500: etcd failed"
		}
	}
	for i := range r.Balancers {
		b := &r.Balancers[i]
		if b.Serving == Yes {
			b.Serving, b.Why = No, "HTTP 500: etcd failed"
		}
		for k := range b.Backends {
			b.Backends[k].State, b.Backends[k].Why = "ejected", "HTTP 500"
		}
	}
}
