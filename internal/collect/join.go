package collect

import (
	"maps"
	"slices"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/status"
)

// join makes one picture of what etcd said. It is pure.
func join(c *config.Cluster, said etcdSaid) status.Etcd {
	e := status.Etcd{Quorum: status.No, Membership: status.No, Quota: int64(c.Etcd.Quota), Members: []status.Member{}}
	if said.err == nil {
		e.Quorum, e.Membership = status.Yes, status.Yes
	}
	byID, distrust := map[string]string{}, 0
	for _, m := range said.members {
		byID[m.IDText] = m.Name
	}
	for _, m := range said.members {
		e.Members = append(e.Members, member(c, m, byID))
		if m.DBQuota > 0 {
			e.Quota = m.DBQuota
		}
		if !m.Reachable && untrusted(m.Error) {
			distrust++
		}
	}
	e.Members = distinct(e.Members)
	slices.SortStableFunc(e.Members, func(a, b status.Member) int { return rank(c, a.Name) - rank(c, b.Name) })
	e.Leader, e.Term = leader(e.Members)
	for i := range e.Members {
		// One that was frozen still takes itself for the leader.
		if m := &e.Members[i]; m.Role == status.RoleLeader && m.Name != e.Leader {
			m.Role = status.RoleVoter
		}
	}
	switch {
	case e.Quorum == status.Yes:
	case distrust > 0 && distrust == len(said.members):
		e.Quorum, e.Membership, e.Why = status.Unclear, status.Unclear, e.Members[0].Error
	case words(said.err) == noAnswer && followed(e):
		// A slow answer is not a lost quorum: those that agree on a leader are one.
		e.Quorum, e.Why = status.Unclear, "a read had no answer in time, though enough voters follow "+e.Leader
	default:
		e.Why = whyNoQuorum(e.Members, said.err)
	}
	return e
}

// followed tells whether a quorum of the voters answers and sees one leader,
// which answers as well.
func followed(e status.Etcd) bool {
	voters, follow, leads := 0, 0, false
	for _, m := range e.Members {
		if m.Role == status.RoleLearner {
			continue
		}
		voters++
		if m.Reachable && m.Leader != "" && m.Leader == e.Leader && m.Term == e.Term {
			follow++
			leads = leads || m.Name == e.Leader
		}
	}
	return leads && follow > voters/2
}

// member turns a member's words into the report's. An endpoint that did not
// answer, and that no list of members names, is known by its master.
func member(c *config.Cluster, m etcdcluster.MemberStatus, byID map[string]string) status.Member {
	out := status.Member{
		Name: m.Name, ID: m.IDText, Role: string(m.Role), Endpoint: m.Endpoint, Reachable: m.Reachable, Error: shorten(m.Error),
		Term: m.Term, Index: m.Index, Applied: m.Applied, DBSize: m.DBSize, DBInUse: m.DBInUse, Version: m.Version,
		Latency: status.In(m.Latency), Alarms: m.Alarms,
	}
	if out.Name == "" && m.Endpoint != "" {
		for _, master := range c.Masters {
			if master.EtcdClientURL() == m.Endpoint {
				out.Name = master.Name
			}
		}
	}
	if m.LeaderID != "" {
		if out.Leader = byID[m.LeaderID]; out.Leader == "" {
			out.Leader = m.LeaderID
		}
	}
	return out
}

// distinct merges two members of one name: at the master's address answers
// another member than the one that the list has, such as one of new data.
func distinct(list []status.Member) []status.Member {
	var out []status.Member
	for _, m := range list {
		at := slices.IndexFunc(out, func(o status.Member) bool { return o.Name == m.Name && m.Name != "" })
		switch {
		case at < 0:
			out = append(out, m)
		case out[at].Reachable && !m.Reachable:
			m.Error = "another member answers there: " + out[at].ID
			out[at] = m
		}
	}
	return out
}

// leader is the one that the members of the highest term see.
func leader(list []status.Member) (name string, term uint64) {
	for _, m := range list {
		if m.Reachable && m.Term > term {
			name, term = "", m.Term
		}
		if m.Reachable && m.Term == term && m.Leader != "" {
			name = m.Leader
		}
	}
	return name, term
}

// whyNoQuorum prefers what a member that answers says.
func whyNoQuorum(list []status.Member, err error) string {
	answer := false
	for _, m := range list {
		if m.Reachable && m.Leader == "" {
			return m.Name + " sees no leader"
		}
		answer = answer || m.Reachable
	}
	if !answer {
		return "no member answers"
	}
	return words(err)
}

// rank orders members as the masters are ordered, strangers last.
func rank(c *config.Cluster, name string) int {
	if i := slices.IndexFunc(c.Masters, func(m config.Master) bool { return m.Name == name }); i >= 0 {
		return i
	}
	return len(c.Masters)
}

// unasked is etcd's state when there is nothing to ask it with.
func unasked(c *config.Cluster, err error) status.Etcd {
	why := oneLine(err.Error())
	e := status.Etcd{Quorum: status.Unclear, Why: why, Membership: status.Unclear, Quota: int64(c.Etcd.Quota)}
	for _, m := range c.Masters {
		e.Members = append(e.Members, status.Member{Name: m.Name, Endpoint: m.EtcdClientURL(), Error: "not asked: " + why})
	}
	return e
}

// listed has the singletons that the configuration wants first, whether etcd
// knows them or not, then what else etcd knows.
func listed(c *config.Cluster, infos []etcdlock.Info, known string) []status.Singleton {
	byName := make(map[string]status.Singleton, len(infos))
	for _, i := range infos {
		s := status.Singleton{
			Name: i.Name, Known: known, Holder: i.Holder, Token: i.Token, Since: i.Since, TTL: status.In(i.TTL), Renewed: i.Renewed,
			Waiting: []string{}, MoveTo: i.MoveTo, Paused: i.Paused,
		}
		for _, w := range i.Waiting {
			s.Waiting = append(s.Waiting, w.Name)
		}
		byName[i.Name] = s
	}
	all := []status.Singleton{}
	for _, want := range c.Singletons {
		s, ok := byName[want.Name]
		if !ok {
			s = status.Singleton{Name: want.Name, Known: known, Waiting: []string{}}
		}
		all = append(all, s)
		delete(byName, want.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		all = append(all, byName[name])
	}
	return all
}
