package agent

import (
	"net"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
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
	expect := func(after time.Duration, learner etcdcluster.MemberStatus, heard bool, want etcdcluster.StepKind) {
		t.Helper()
		s, do := n.next([]etcdcluster.MemberStatus{lead, learner}, map[string]bool{"b": heard}, start.Add(after))
		if do != (want != "") || s.Kind != want || (do && s.ID != "b") {
			t.Errorf("after %v: %v %v, want %q about b", after, do, s, want)
		}
	}
	const silent, heard = false, true
	expect(0, unstarted, silent, "")
	expect(learnerDeadline-time.Second, unstarted, silent, "")
	expect(learnerDeadline, unstarted, silent, etcdcluster.Remove)

	// One that answers has all the time it needs, also where only its peers hear it
	// because it fetches a snapshot.
	expect(learnerDeadline, behind, heard, "")
	expect(3*learnerDeadline, unstarted, heard, "")
	expect(5*learnerDeadline, down, heard, "")
	expect(5*learnerDeadline, caughtUp, heard, etcdcluster.Promote)

	// One that ran and is gone for good goes after the deadline, counted from its last
	// word.
	expect(6*learnerDeadline, down, silent, "")
	expect(7*learnerDeadline-time.Second, down, heard, "")
	expect(7*learnerDeadline, down, silent, "")
	expect(8*learnerDeadline-time.Second, down, silent, "")
	expect(8*learnerDeadline, down, silent, etcdcluster.Remove)

	// As is one whom a new leader sees for the first time.
	n.forget()
	expect(8*learnerDeadline, unstarted, silent, "")
	expect(9*learnerDeadline-time.Second, unstarted, silent, "")
}

// A process that greets its peers is heard, one that is stopped or gone is not: the
// kernel would still accept for it.
func TestGreets(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{TLS: true})
	peer := etcd.Members[0].PeerURL()
	if !greets(t.Context(), peer, etcd.TLS()) {
		t.Error("a member that runs is not heard")
	}
	mute, err := net.Listen("tcp", net.JoinHostPort(etcd.Members[0].Address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	if greets(t.Context(), "https://"+mute.Addr().String(), etcd.TLS()) {
		t.Error("somebody who says nothing is heard")
	}
	etcd.Members[0].Stop()
	if greets(t.Context(), peer, etcd.TLS()) {
		t.Error("a member that was stopped is heard")
	}
}
