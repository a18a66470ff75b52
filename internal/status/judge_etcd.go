package status

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

func (j *judge) etcd() {
	e := &j.r.Etcd
	switch e.Quorum {
	case Yes:
	case No:
		up, voters := countVoters(e)
		j.add(LevelDown, CodeEtcdNoQuorum, "etcd", j.hint.quorum(lostMembers(e)),
			"etcd has no quorum as seen from here: %d of %d voters answer, %d are needed%s", up, voters, voters/2+1, because(e.Why))
	default:
		j.add(LevelDegraded, CodeEtcdUnknown, "etcd", "", "whether etcd has quorum is unknown%s", because(e.Why))
	}
	j.alarms()
	for i := range e.Members {
		j.member(&e.Members[i])
	}
	j.membership()
	j.spare()
	j.etcdVersions()
}

// alarms: with either alarm every member refuses requests, wherever it was
// raised: NOSPACE all writes, CORRUPT everything.
func (j *judge) alarms() {
	raised := map[string][]string{}
	for _, m := range j.r.Etcd.Members {
		for _, a := range m.Alarms {
			raised[a] = append(raised[a], memberName(&m))
		}
	}
	for _, a := range slices.Sorted(maps.Keys(raised)) {
		who := strings.Join(raised[a], ", ")
		switch a {
		case "NOSPACE":
			j.add(LevelDown, CodeEtcdAlarm, "etcd", "hactl etcd defrag",
				"etcd refuses every write: alarm NOSPACE, the database of %s reached its quota", who)
		case "CORRUPT":
			j.add(LevelDown, CodeEtcdAlarm, "etcd", "hactl etcd alarm",
				"etcd refuses every request: alarm CORRUPT, the data of %s differ from the others'", who)
		default:
			j.add(LevelDegraded, CodeEtcdAlarm, "etcd", "hactl etcd alarm", "alarm %s of %s", a, who)
		}
	}
}

func (j *judge) member(m *Member) {
	e := &j.r.Etcd
	object := "etcd/" + memberName(m)
	if m.Name == "" {
		j.add(LevelDegraded, CodeEtcdMemberUnstarted, object, "hactl etcd member list",
			"member %s was added but has never started", m.ID)
		return
	}
	if j.lost[m.Name] {
		return
	}
	if !m.Reachable {
		j.add(LevelDegraded, CodeEtcdUnreachable, object, j.hint.process(m.Name, "hactl-etcd"),
			"etcd member %s does not answer%s", m.Name, because(m.Error))
		return
	}
	if m.Role == RoleLearner {
		j.add(LevelDegraded, CodeEtcdLearner, object, "hactl etcd member list",
			"member %s is a learner: it does not count until it is promoted", m.Name)
	}
	switch {
	case m.Leader == "" && e.Quorum == Yes:
		j.add(LevelDegraded, CodeEtcdNoLeader, object, j.hint.process(m.Name, "hactl-etcd"),
			"member %s answers but sees no leader: it is cut off from the others%s", m.Name, because(m.Error))
	case m.Leader == "": // no quorum says it all
	default:
		if lead := leaderOf(e); lead != nil && lead.Index > m.Applied && lead.Index-m.Applied > BehindLimit {
			j.add(LevelDegraded, CodeEtcdBehind, object, "",
				"member %s is %d entries behind the leader", m.Name, lead.Index-m.Applied)
		}
	}
	if e.Quota > 0 && float64(m.DBSize) >= FullLimit*float64(e.Quota) {
		j.add(Warning, CodeEtcdDatabaseFull, object, "hactl etcd defrag",
			"the database of %s has %s of %s; at the quota etcd refuses writes", m.Name, sizeOf(m.DBSize), sizeOf(e.Quota))
	}
}

// membership compares the members with the masters, when etcd itself told who
// its members are.
func (j *judge) membership() {
	if j.r.Etcd.Membership != Yes {
		return
	}
	for _, m := range j.r.Masters {
		if !slices.ContainsFunc(j.r.Etcd.Members, func(e Member) bool { return e.Name == m.Name }) {
			j.add(LevelDegraded, CodeEtcdMemberMissing, m.Name, "hactl etcd member list", "master %s has no etcd member", m.Name)
		}
	}
	for i := range j.r.Etcd.Members {
		e := &j.r.Etcd.Members[i]
		if e.Name != "" && !slices.ContainsFunc(j.r.Masters, func(m Master) bool { return m.Name == e.Name }) {
			j.add(LevelDegraded, CodeEtcdMemberForeign, "etcd/"+e.Name, "hactl etcd member list",
				"etcd member %s (%s) belongs to no master", e.Name, e.ID)
		}
	}
}

// spare warns of the step before the last: quorum, but only just.
func (j *judge) spare() {
	up, voters := countVoters(&j.r.Etcd)
	if j.r.Etcd.Quorum == Yes && up < voters && up <= voters/2+1 {
		j.add(LevelDegraded, CodeEtcdNoSpare, "etcd", "",
			"%d of %d voters answer: losing one more ends etcd's quorum", up, voters)
	}
}

func (j *judge) etcdVersions() {
	versions := map[string][]string{}
	for i := range j.r.Etcd.Members {
		if m := &j.r.Etcd.Members[i]; m.Version != "" {
			versions[m.Version] = append(versions[m.Version], memberName(m))
		}
	}
	j.differ(CodeEtcdVersions, "etcd", "etcd members run different versions", versions)
}

// differ adds a warning when there is more than one version.
func (j *judge) differ(code, object, text string, versions map[string][]string) {
	if len(versions) < 2 {
		return
	}
	var list []string
	for _, v := range slices.Sorted(maps.Keys(versions)) {
		list = append(list, fmt.Sprintf("%s (%s)", v, strings.Join(versions[v], ", ")))
	}
	j.add(Warning, code, object, "", "%s: %s", text, strings.Join(list, ", "))
}

// countVoters counts the voters that answer and all voters. A member of unknown
// role is taken for a voter: that errs on the side of alarm.
func countVoters(e *Etcd) (up, all int) {
	for _, m := range e.Members {
		if m.Role == RoleLearner {
			continue
		}
		all++
		if m.Reachable {
			up++
		}
	}
	return up, all
}

func lostMembers(e *Etcd) []string {
	var names []string
	for _, m := range e.Members {
		if !m.Reachable && m.Name != "" {
			names = append(names, m.Name)
		}
	}
	return names
}

func leaderOf(e *Etcd) *Member {
	for i := range e.Members {
		if m := &e.Members[i]; m.Reachable && m.Name != "" && m.Name == e.Leader {
			return m
		}
	}
	return nil
}

func memberName(m *Member) string {
	if m.Name == "" {
		return m.ID
	}
	return m.Name
}
