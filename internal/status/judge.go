package status

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// The limits of the rules.
const (
	// CertificateWarn and CertificateCritical are the times left at which a
	// certificate is a warning, and at which it degrades the cluster.
	CertificateWarn     = 30 * 24 * time.Hour
	CertificateCritical = 7 * 24 * time.Hour
	// SkewLimit is how far a master's clock may be off.
	SkewLimit = 500 * time.Millisecond
	// BehindLimit is how many raft entries a member may be behind the leader:
	// as many as etcd keeps for slow followers (its SnapshotCatchUpEntries);
	// a member that is further behind needs a whole snapshot.
	BehindLimit = 5000
	// FullLimit is the share of the quota at which a database is a warning.
	FullLimit = 0.8
	// SilentSlack is how long beyond two TTLs a holder may be silent before nobody
	// can be expected to take over any more: one TTL passes until the others may,
	// the rest is for their start and for clocks.
	SilentSlack = 3 * time.Second
	// FlapRestarts within FlapWindow of running make a process flapping.
	FlapRestarts = 3
	FlapWindow   = 10 * time.Minute
)

// Judge sets r's Verdict, Answered and Reasons, and the certificates' DaysLeft,
// from the rest of r. It is a pure function: the only clock is r.Time. Judging
// twice changes nothing.
//
// The verdict is the heaviest reason's level: down with a reason of LevelDown,
// else degraded with one of LevelDegraded, else healthy. Warnings do not change
// it. If something is Unknown and no reason says more, that is a reason itself:
// unknown is never healthy.
func Judge(r *Report) {
	j := &judge{r: r, hint: hints{dev: r.Dev, dir: r.DevDir}, lost: map[string]bool{}, reasons: []Reason{}}
	r.Answered = answered(r)
	if r.Answered {
		j.lostMasters()
		j.etcd()
		j.apiServers()
		j.frontDoor()
		j.balancers()
		j.singletons()
	} else {
		j.nothing()
	}
	j.masters()
	j.unknown()

	slices.SortStableFunc(j.reasons, func(a, b Reason) int { return cmp.Compare(weight(b.Level), weight(a.Level)) })
	r.Reasons = j.reasons
	r.Verdict = Healthy
	if len(r.Reasons) > 0 {
		switch r.Reasons[0].Level {
		case LevelDown:
			r.Verdict = Down
		case LevelDegraded:
			r.Verdict = Degraded
		}
	}
}

type judge struct {
	r       *Report
	hint    hints
	lost    map[string]bool // masters of which nothing answers: said once, not for each part
	reasons []Reason
}

func (j *judge) add(level Level, code, object, hint, format string, args ...any) {
	j.reasons = append(j.reasons, Reason{
		Level: level, Code: code, Object: object, Hint: hint, Text: fmt.Sprintf(format, args...),
	})
}

func weight(l Level) int {
	switch l {
	case LevelDown:
		return 2
	case LevelDegraded:
		return 1
	default:
		return 0
	}
}

// nothing is the only reason when no part of the cluster answered: whatever
// else could be said follows from it, or is not known.
func (j *judge) nothing() {
	asked := j.r.Etcd.Quorum == No ||
		slices.ContainsFunc(j.r.APIServers, func(a APIServer) bool { return a.Ready == No }) ||
		slices.ContainsFunc(j.r.Balancers, func(b Balancer) bool { return b.Serving == No })
	if !asked {
		j.add(LevelDown, CodeNothingAnswers, "cluster", j.hint.reach(), "nothing could be asked%s", because(j.r.Etcd.Why))
		return
	}
	j.add(LevelDown, CodeNothingAnswers, "cluster", j.hint.reach(),
		"no etcd member, API server, balancer or agent answered: every master is down, or this machine is cut off")
}

// lostMasters finds the masters of which no part answers.
func (j *judge) lostMasters() {
	for i := range j.r.Masters {
		m := &j.r.Masters[i]
		if j.silent(m) {
			j.lost[m.Name] = true
			j.add(LevelDegraded, CodeMasterUnreachable, m.Name, j.hint.start(m.Name),
				"master %s does not answer at all%s", m.Name, because(m.Agent.Error))
		}
	}
}

func (j *judge) silent(m *Master) bool {
	return !m.Agent.Reachable && m.ProcessesFrom == "" &&
		!slices.ContainsFunc(j.r.Etcd.Members, func(e Member) bool { return e.Name == m.Name && e.Reachable }) &&
		!slices.ContainsFunc(j.r.APIServers, func(a APIServer) bool {
			return a.Master == m.Name && (a.Ready != No || a.Live != No || a.Latency > 0)
		}) &&
		!slices.ContainsFunc(j.r.Balancers, func(b Balancer) bool {
			return b.Name == m.Name && (b.Serving != No || b.Latency > 0 || len(b.Backends) > 0)
		})
}

// answered tells whether any part of the cluster answered. A supervisor's socket
// does not count: it is this machine's, not the cluster's.
func answered(r *Report) bool {
	if r.Etcd.Quorum == Yes || r.FrontDoor != nil && r.FrontDoor.Serving == Yes {
		return true
	}
	return slices.ContainsFunc(r.Etcd.Members, func(m Member) bool { return m.Reachable }) ||
		slices.ContainsFunc(r.APIServers, func(a APIServer) bool { return a.Ready == Yes || a.Live == Yes || a.Latency > 0 }) ||
		slices.ContainsFunc(r.Balancers, func(b Balancer) bool { return b.Serving == Yes || len(b.Backends) > 0 }) ||
		slices.ContainsFunc(r.Masters, func(m Master) bool { return m.Agent.Reachable })
}

// unknown makes sure that what is unknown is never called healthy.
func (j *judge) unknown() {
	if len(j.r.Unknown) == 0 || slices.ContainsFunc(j.reasons, func(r Reason) bool { return r.Level != Warning }) {
		return
	}
	u := j.r.Unknown[0]
	more := ""
	if n := len(j.r.Unknown) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	j.add(LevelDegraded, CodeUnknown, u.Object, "", "the %s of %s are unknown: %s%s", u.What, u.Object, u.Why, more)
}
