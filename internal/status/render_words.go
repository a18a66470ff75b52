package status

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// The words of the table's cells: one for each master and column.

func etcdWord(r *Report, master string) string {
	i := slices.IndexFunc(r.Etcd.Members, func(m Member) bool { return m.Name == master })
	switch {
	case i < 0 && r.Etcd.Membership == Yes:
		return "missing"
	case i < 0:
		return "unknown"
	}
	m := &r.Etcd.Members[i]
	switch {
	case !m.Reachable:
		return "no answer"
	case len(m.Alarms) > 0:
		return strings.Join(m.Alarms, ",")
	case m.Leader == "":
		return "no leader"
	default:
		return orElse(m.Role, "unknown")
	}
}

func apiServerWord(r *Report, master string) string {
	i := slices.IndexFunc(r.APIServers, func(a APIServer) bool { return a.Master == master })
	if i < 0 {
		return "unknown"
	}
	switch a := &r.APIServers[i]; {
	case a.Ready == Yes:
		return "ready"
	case a.Ready != No:
		return "unknown"
	case a.Live == Yes:
		return "not ready"
	case a.Latency > 0:
		return "sick"
	default:
		return "no answer"
	}
}

func balancerWord(r *Report, master string) string {
	i := slices.IndexFunc(r.Balancers, func(b Balancer) bool { return b.Name == master })
	if i < 0 {
		return "unknown"
	}
	b := &r.Balancers[i]
	word := servingWord(b.Serving)
	if b.Backends == nil {
		return word
	}
	ready := 0
	for _, k := range b.Backends {
		if k.State == BackendReady {
			ready++
		}
	}
	return fmt.Sprintf("%s %d/%d", word, ready, len(b.Backends))
}

func servingWord(a Answer) string {
	switch a {
	case Yes:
		return "serving"
	case No:
		return "not serving"
	default:
		return "unknown"
	}
}

func agentWord(m *Master) string {
	if m.Agent.Reachable {
		return "ok"
	}
	return "no answer"
}

func processesWord(m *Master) string {
	if m.ProcessesFrom == "" {
		return "unknown"
	}
	active := 0
	for _, p := range m.Processes {
		if p.Active == "active" {
			active++
		}
	}
	return fmt.Sprintf("%d/%d", active, len(m.Processes))
}

// certificatesWord is the shortest time left.
func certificatesWord(r *Report, m *Master) string {
	if len(m.Certificates) == 0 {
		return "unknown"
	}
	var least time.Duration
	for i, c := range m.Certificates {
		if c.Error != "" {
			return "unreadable"
		}
		if left := c.NotAfter.Sub(r.Time); i == 0 || left < least {
			least = left
		}
	}
	if least <= 0 {
		return "expired"
	}
	return age(least)
}

func holdsWord(r *Report, master string) string {
	var held []string
	for _, s := range r.Singletons {
		switch {
		case s.Holder != master:
		case s.Known == Stale:
			held = append(held, s.Name+"?")
		default:
			held = append(held, s.Name)
		}
	}
	return orElse(strings.Join(held, ","), "-")
}
