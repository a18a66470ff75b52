package etcdcluster

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/testwait"
)

func TestObserve(t *testing.T) {
	t.Parallel()
	opts := calm
	opts.TLS = true
	c := etcdtest.Start(t, 3, opts)
	leader := c.Leader()
	look := func(eps ...string) (got []MemberStatus) { // a busy machine needs more time than an operator gives
		return observe(t.Context(), eps, c.TLS(), patience)
	}
	got := look(c.Endpoints()...)
	if len(got) != 3 {
		t.Fatalf("%d members, want 3: %+v", len(got), got)
	}
	for i, s := range got {
		m := c.Members[i]
		want := Voter
		if m == leader {
			want = Leader
		}
		if s.Name != m.Name || s.Endpoint != m.Endpoint() || s.Role != want || !s.Reachable || s.Error != "" ||
			s.ID == 0 || s.Term == 0 || s.Index == 0 || s.DBSize == 0 || s.DBInUse == 0 || s.DBQuota == 0 ||
			s.Version == "" || s.LeaderID == "" || s.Latency == 0 || s.PeerURLs[0] != m.PeerURL() {
			t.Errorf("member %d is %+v, want %s as %s, with everything filled", i, s, m.Name, want)
		}
	}

	// One endpoint is enough to find the others.
	if got := look(c.Endpoints()[1]); len(got) != 3 || got[0].Name != "m2" || !got[2].Reachable {
		t.Errorf("from one endpoint: %+v, want all three, m2 first", got)
	}

	// Without a quorum each member still answers for itself, and for the dead.
	c.Members[0].Kill()
	c.Members[1].Kill()
	testwait.For(t, "the last member to see no leader", patience, func() error {
		got = look(c.Endpoints()...)
		if got[2].LeaderID != "" {
			return context.DeadlineExceeded
		}
		return nil
	})
	for i, s := range got {
		if s.Reachable != (i == 2) || s.Name != c.Members[i].Name || s.Role != Voter || s.Reachable == (s.Error != "") {
			t.Errorf("without a quorum member %d is %+v", i, s)
		}
	}
	if !strings.Contains(got[0].Error, "refused") {
		t.Errorf("the error of a dead member is %q, want that the connection was refused", got[0].Error)
	}
}

func TestObserveAHangingMember(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() // accepts in the kernel, answers never
	eps := []string{"http://" + ln.Addr().String(), "http://" + ln.Addr().String(), "https://127.0.0.1:1", "nonsense"}
	got := Observe(t.Context(), eps, nil)
	if len(got) != 4 {
		t.Fatalf("got %+v, want one for each endpoint", got)
	}
	for i, want := range []string{"no answer within", "no answer within", "no certificates", "want https://HOST:PORT"} {
		if got[i].Reachable || !strings.Contains(got[i].Error, want) {
			t.Errorf("endpoint %d: %+v, want the error %q", i, got[i], want)
		}
	}
}

func TestMerge(t *testing.T) {
	member := func(id uint64, name string, learner bool) *etcdserverpb.Member {
		m := &etcdserverpb.Member{ID: id, Name: name, IsLearner: learner}
		if name != "" {
			m.ClientURLs = []string{"https://" + name + ":2379"}
		}
		return m
	}
	says := func(id, leader, term uint64, errs ...string) *etcdserverpb.StatusResponse {
		return &etcdserverpb.StatusResponse{Header: &etcdserverpb.ResponseHeader{MemberId: id}, Leader: leader, RaftTerm: term, Errors: errs}
	}
	known := []*etcdserverpb.Member{member(1, "m1", false), member(2, "m2", false), member(3, "m3", true), member(4, "", true)}
	answers := []answer{
		{endpoint: "https://m1:2379", st: says(1, 1, 4)}, // was frozen, and takes itself for the leader
		{endpoint: "https://m2:2379", st: says(2, 2, 5, "memberID:3  alarm:NOSPACE ", "etcdserver: no leader", "memberID:2 alarm:CORRUPT")},
		{endpoint: "https://m3:2379", err: context.DeadlineExceeded},
		{endpoint: "https://also-m2:2379", st: says(2, 2, 5, "memberID:3 alarm:NOSPACE")},
		{endpoint: "https://nobody:2379", err: context.DeadlineExceeded},
	}
	got := merge(answers, known)
	want := []struct {
		name   string
		role   Role
		up     bool
		alarms []string
	}{
		{"m1", Voter, true, nil}, {"m2", Leader, true, []string{"CORRUPT"}}, {"m3", Learner, false, []string{"NOSPACE"}},
		{"", "", false, nil}, {"", Learner, false, nil},
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i, w := range want {
		g := got[i]
		if g.Name != w.name || g.Role != w.role || g.Reachable != w.up || !slices.Equal(g.Alarms, w.alarms) {
			t.Errorf("%d: got %+v, want %+v", i, g, w)
		}
	}
	if got[4].IDText != "4" || got[4].Error == "" {
		t.Errorf("the member that never started is %+v", got[4])
	}
}

func TestObserveEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	done := make(chan []MemberStatus)
	go func() { done <- Observe(ctx, []string{"http://127.0.0.1:1"}, nil) }()
	select {
	case got := <-done:
		if len(got) != 1 || got[0].Reachable {
			t.Errorf("got %+v", got)
		}
	case <-time.After(patience):
		t.Fatal("Observe ignores its context")
	}
}
