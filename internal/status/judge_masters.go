package status

import (
	"fmt"
	"math"
	"slices"
	"time"
)

func (j *judge) masters() {
	versions := map[string][]string{}
	for i := range j.r.Masters {
		m := &j.r.Masters[i]
		if m.Agent.Version != "" {
			versions[m.Agent.Version] = append(versions[m.Agent.Version], m.Name)
		}
		j.agent(m)
		j.processes(m)
		j.certificates(m)
		j.gossip(m)
		j.watchdog(m)
	}
	j.differ(CodeAgentVersions, "masters", "masters run different versions of hactl", versions)
}

func (j *judge) agent(m *Master) {
	switch {
	case m.Agent.Reachable:
	case j.lost[m.Name], !j.r.Answered:
		return
	default:
		j.add(LevelDegraded, CodeAgentUnreachable, m.Name+"/hactl-agent", j.hint.process(m.Name, "hactl-agent"),
			"the agent of %s cannot be reached%s", m.Name, because(m.Agent.Error))
		return
	}
	if skew := m.Agent.Skew.Duration(); skew.Abs() > SkewLimit {
		side := "ahead of"
		if skew < 0 {
			side = "behind"
		}
		j.add(Warning, CodeClockSkew, m.Name, "timedatectl timesync-status",
			"the clock of %s is %v %s this machine's", m.Name, skew.Abs().Round(10*time.Millisecond), side)
	}
}

func (j *judge) processes(m *Master) {
	for _, p := range m.Processes {
		object := m.Name + "/" + p.Name
		ended := ""
		if p.LastExit != "" {
			ended = ": " + p.LastExit
		}
		switch {
		case p.Active != "active":
			j.add(LevelDegraded, CodeProcessNotActive, object, j.hint.process(m.Name, p.Name),
				"%s of %s is %s%s", p.Name, m.Name, orElse(p.Active, "in no known state"), ended)
		case p.Restarts >= FlapRestarts && j.r.Time.Sub(p.Since) < FlapWindow:
			j.add(Warning, CodeProcessFlapping, object, j.hint.process(m.Name, p.Name),
				"%s of %s was restarted %d times, last %s ago%s", p.Name, m.Name, p.Restarts, age(j.r.Time.Sub(p.Since)), ended)
		}
	}
}

// certificates gives one reason a master and kind of trouble, not one a file.
func (j *judge) certificates(m *Master) {
	var broken, expired, critical, soon []*Certificate
	for i := range m.Certificates {
		c := &m.Certificates[i]
		left := c.NotAfter.Sub(j.r.Time)
		if c.Error == "" {
			c.DaysLeft = int(math.Floor(left.Hours() / 24))
		}
		switch {
		case c.Error != "":
			broken = append(broken, c)
		case left <= 0 || j.r.Time.Before(c.NotBefore):
			expired = append(expired, c)
		case left <= CertificateCritical:
			critical = append(critical, c)
		case left <= CertificateWarn:
			soon = append(soon, c)
		}
	}
	object := m.Name + "/certificates"
	if len(broken) > 0 {
		j.add(LevelDegraded, CodeCertificateBroken, object, "hactl cert ls",
			"%s of %s cannot be read: %s", files(broken), m.Name, broken[0].Error)
	}
	if len(expired) > 0 {
		j.add(LevelDegraded, CodeCertificateExpired, object, "hactl cert renew",
			"%s of %s expired, or is not valid yet", files(expired), m.Name)
	}
	for _, g := range []struct {
		level Level
		list  []*Certificate
	}{{LevelDegraded, critical}, {Warning, soon}} {
		if len(g.list) > 0 {
			first := slices.MinFunc(g.list, func(a, b *Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
			j.add(g.level, CodeCertificateExpiring, object, "hactl cert renew",
				"%s of %s expires in %d days or less", files(g.list), m.Name, first.DaysLeft+1)
		}
	}
}

func files(list []*Certificate) string {
	if n := len(list) - 1; n > 0 {
		return fmt.Sprintf("%s (and %d more)", list[0].File, n)
	}
	return list[0].File
}

// gossip compares what this master's agent sees with who answers us.
func (j *judge) gossip(m *Master) {
	if !m.Agent.Reachable || m.Peers == nil {
		return
	}
	for i := range j.r.Masters {
		other := &j.r.Masters[i]
		if other.Name == m.Name || !other.Agent.Reachable {
			continue
		}
		at := slices.IndexFunc(m.Peers, func(p Peer) bool { return p.Name == other.Name })
		state := "missing"
		if at >= 0 {
			state = m.Peers[at].State
		}
		if state != "alive" && state != "suspect" { // a suspect still counts as alive
			j.add(LevelDegraded, CodeGossipLost, m.Name+"/hactl-agent", "",
				"%s does not see %s by gossip (%s), though both agents answer", m.Name, other.Name, state)
		}
	}
}

func (j *judge) watchdog(m *Master) {
	if m.Watchdog == nil {
		return
	}
	if m.Watchdog.Paused {
		j.add(Warning, CodeWatchdogPaused, m.Name+"/watchdog", "hactl watchdog resume", "the watchdog of %s is paused", m.Name)
	}
	if m.Watchdog.Marked != "" {
		j.add(LevelDegraded, CodeMasterMarked, m.Name, "hactl events --unit host",
			"%s has given itself up, balancers drain it and singletons leave it: %s", m.Name, m.Watchdog.Marked)
	}
	for _, n := range m.Watchdog.Notices {
		hint := "df -h"
		if n.Code == CodeClockSkew {
			hint = "timedatectl timesync-status"
		}
		j.add(Warning, n.Code, m.Name+"/"+n.Name, hint, "on %s: %s", m.Name, n.Text)
	}
	for _, t := range m.Watchdog.Targets {
		if t.Paused {
			j.add(Warning, CodeWatchdogPaused, m.Name+"/"+t.Name, "hactl watchdog resume --unit "+t.Name,
				"the watchdog of %s does not look after %s: paused", m.Name, t.Name)
		}
		if t.Held {
			j.add(LevelDegraded, CodeWatchdogHeld, m.Name+"/"+t.Name, j.hint.process(m.Name, t.Name),
				"the watchdog of %s would restart %s but may not%s", m.Name, t.Name, because(t.Reason))
		}
	}
}
