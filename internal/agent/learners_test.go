package agent

import (
	"testing"
	"time"

	"github.com/hactl/hactl/internal/etcdcluster"
)

func TestNursery(t *testing.T) {
	lead := etcdcluster.MemberStatus{Name: "m1", IDText: "a", Role: etcdcluster.Leader, Reachable: true, LeaderID: "a", Index: 5000, Applied: 5000, PeerURLs: []string{"https://10.0.0.1:2380"}}
	unstarted := etcdcluster.MemberStatus{IDText: "b", Role: etcdcluster.Learner, PeerURLs: []string{"https://10.0.0.2:2380"}}
	behind := etcdcluster.MemberStatus{Name: "m2", IDText: "b", Role: etcdcluster.Learner, Reachable: true, LeaderID: "a", Index: 5000, Applied: 10}
	caughtUp := behind
	caughtUp.Applied = 4900
	down := caughtUp
	down.Reachable = false
	start := time.Unix(1000, 0)

	var n nursery
	expect := func(after time.Duration, learner etcdcluster.MemberStatus, want etcdcluster.StepKind) {
		t.Helper()
		s, do := n.next([]etcdcluster.MemberStatus{lead, learner}, start.Add(after))
		if do != (want != "") || s.Kind != want || (do && s.ID != "b") {
			t.Errorf("after %v: %v %v, want %q about b", after, do, s, want)
		}
	}
	expect(0, unstarted, "")
	expect(learnerDeadline-time.Second, unstarted, "")
	expect(learnerDeadline, unstarted, etcdcluster.Remove)

	// One that started has all the time it needs, also while it is down.
	expect(learnerDeadline, behind, "")
	expect(3*learnerDeadline, down, "")
	expect(3*learnerDeadline, caughtUp, etcdcluster.Promote)

	// Another that comes later is given its own time.
	expect(3*learnerDeadline, unstarted, "")
	expect(4*learnerDeadline-time.Second, unstarted, "")
	// As does one whom a new leader sees for the first time.
	n.forget()
	expect(4*learnerDeadline, unstarted, "")
}
