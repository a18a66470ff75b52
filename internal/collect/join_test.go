package collect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/workload/child"
)

func TestJoin(t *testing.T) {
	c := cluster("10.0.0.1", "10.0.0.2")
	at := func(i int) string { return c.Masters[i].EtcdClientURL() }
	up := func(i int, id, leader string, term uint64) etcdcluster.MemberStatus {
		m := etcdcluster.MemberStatus{Name: c.Masters[i].Name, IDText: id, Role: etcdcluster.Voter, Endpoint: at(i), Reachable: true, LeaderID: leader, Term: term}
		if id == leader {
			m.Role = etcdcluster.Leader
		}
		return m
	}
	down := func(i int, why string) etcdcluster.MemberStatus {
		return etcdcluster.MemberStatus{Endpoint: at(i), Error: why}
	}
	const refused = `connection error: desc = "transport: Error while dialing: dial tcp 10.0.0.2:2379: connect: connection refused"`
	const badCert = `connection error: desc = "transport: authentication handshake failed: remote error: tls: expired certificate"`
	noLeader := errors.New("etcdserver: no leader")
	cases := []struct {
		name  string
		said  etcdSaid
		check func(e status.Etcd) bool
	}{
		{"all well", etcdSaid{members: []etcdcluster.MemberStatus{up(0, "a", "a", 4), up(1, "b", "a", 4)}}, func(e status.Etcd) bool {
			return e.Quorum == status.Yes && e.Membership == status.Yes && e.Leader == "m1" && e.Term == 4 && e.Members[1].Leader == "m1" &&
				e.Members[0].Role == status.RoleLeader && e.Quota == 8<<30
		}},
		{"the members' own quota counts", etcdSaid{members: []etcdcluster.MemberStatus{{Name: "m1", Endpoint: at(0), DBQuota: 5}}}, func(e status.Etcd) bool { return e.Quota == 5 }},
		{"one that is down is known by its master", etcdSaid{members: []etcdcluster.MemberStatus{down(1, refused), up(0, "a", "a", 4)}}, func(e status.Etcd) bool {
			return e.Members[0].Name == "m1" && e.Members[1].Name == "m2" && e.Members[1].Error == "connection refused" && e.Members[1].Role == ""
		}},
		{"no quorum", etcdSaid{err: noLeader, members: []etcdcluster.MemberStatus{up(0, "a", "", 4), down(1, refused)}}, func(e status.Etcd) bool {
			return e.Quorum == status.No && e.Membership == status.No && e.Why == "m1 sees no leader" && e.Leader == ""
		}},
		{"nobody answers", etcdSaid{err: noLeader, members: []etcdcluster.MemberStatus{down(0, refused), down(1, "no answer within 1.2s")}}, func(e status.Etcd) bool {
			return e.Quorum == status.No && e.Why == "no member answers" && e.Members[1].Error == "no answer in time"
		}},
		{"no member at all", etcdSaid{err: noLeader}, func(e status.Etcd) bool { return e.Quorum == status.No && e.Members == nil || len(e.Members) == 0 }},
		{"a leader and yet no read", etcdSaid{err: fmt.Errorf("etcd: %w", context.DeadlineExceeded), members: []etcdcluster.MemberStatus{up(0, "a", "a", 4), up(1, "b", "a", 4)}},
			func(e status.Etcd) bool { return e.Quorum == status.Unclear && strings.Contains(e.Why, "follow m1") }},
		{"a leader and a read that is refused", etcdSaid{err: noLeader, members: []etcdcluster.MemberStatus{up(0, "a", "a", 4), up(1, "b", "a", 4)}},
			func(e status.Etcd) bool { return e.Quorum == status.No && e.Why == "etcdserver: no leader" }},
		{"no read, and too few follow", etcdSaid{err: context.DeadlineExceeded, members: []etcdcluster.MemberStatus{up(0, "a", "a", 4), up(1, "b", "", 4)}},
			func(e status.Etcd) bool { return e.Quorum == status.No }},
		{"no read, and the leader does not answer", etcdSaid{err: context.DeadlineExceeded, members: []etcdcluster.MemberStatus{
			up(0, "a", "c", 4), up(1, "b", "c", 4), {Name: "m3", IDText: "c", Error: "no answer within 1.2s", Role: etcdcluster.Voter},
		}}, func(e status.Etcd) bool { return e.Quorum == status.No }},
		{"our certificate is refused everywhere", etcdSaid{err: noLeader, members: []etcdcluster.MemberStatus{down(0, badCert), down(1, badCert)}}, func(e status.Etcd) bool {
			return e.Quorum == status.Unclear && e.Membership == status.Unclear && e.Why == "remote error: tls: expired certificate"
		}},
		{"our certificate is refused by one, the other is down", etcdSaid{err: noLeader, members: []etcdcluster.MemberStatus{down(0, badCert), down(1, refused)}},
			func(e status.Etcd) bool { return e.Quorum == status.No }},
		{"a frozen leader's own word", etcdSaid{members: []etcdcluster.MemberStatus{up(0, "a", "a", 4), up(1, "b", "b", 5)}}, func(e status.Etcd) bool {
			return e.Leader == "m2" && e.Term == 5 && e.Members[0].Role == status.RoleVoter && e.Members[1].Role == status.RoleLeader
		}},
		{"nobody leads in the highest term", etcdSaid{err: noLeader, members: []etcdcluster.MemberStatus{up(0, "a", "a", 4), up(1, "b", "", 5)}}, func(e status.Etcd) bool {
			return e.Leader == "" && e.Term == 5 && e.Why == "m2 sees no leader"
		}},
		{"a member of new data answers at an old one's address", etcdSaid{members: []etcdcluster.MemberStatus{
			up(0, "a", "a", 4), {IDText: "ff", Endpoint: at(1), Reachable: true, Role: etcdcluster.Voter},
			{Name: "m2", IDText: "b", Role: etcdcluster.Voter, Error: "it was added and never started"},
		}}, func(e status.Etcd) bool {
			return len(e.Members) == 2 && e.Members[1].ID == "b" && !e.Members[1].Reachable && e.Members[1].Error == "another member answers there: ff"
		}},
		{"strangers and unstarted ones come last", etcdSaid{members: []etcdcluster.MemberStatus{
			{IDText: "c", Role: etcdcluster.Learner, Error: "it was added and never started"}, {Name: "old", IDText: "d"}, {IDText: "e"}, up(1, "b", "b", 5),
		}}, func(e status.Etcd) bool {
			return len(e.Members) == 4 && e.Members[0].Name == "m2" && e.Members[1].ID == "c"
		}},
	}
	for _, k := range cases {
		if e := join(c, k.said); !k.check(e) {
			t.Errorf("%s: %+v", k.name, e)
		}
	}
}

func TestListed(t *testing.T) {
	now := time.Now()
	infos := []etcdlock.Info{
		{Name: "extra", Holder: "m2", Waiting: []etcdlock.Candidate{}},
		{Name: "kube-scheduler", Holder: "m1", Token: 7, Since: now, TTL: 3 * time.Second, Renewed: now, MoveTo: "m2", Waiting: []etcdlock.Candidate{{Name: "m3"}, {Name: "m2"}}},
	}
	got := listed(cluster("10.0.0.1"), infos, status.Linearizable)
	if len(got) != 3 || got[0].Name != "kube-scheduler" || got[1].Name != "kube-controller-manager" || got[2].Name != "extra" {
		t.Fatalf("%+v", got)
	}
	if s := got[0]; s.Holder != "m1" || s.Token != 7 || s.TTL != 3 || !s.Renewed.Equal(now) || !slices.Equal(s.Waiting, []string{"m3", "m2"}) || s.MoveTo != "m2" {
		t.Errorf("%+v", s)
	}
	if s := got[1]; s.Holder != "" || s.Known != status.Linearizable || s.Waiting == nil {
		t.Errorf("one that etcd does not know: %+v", s)
	}
	for _, s := range listed(cluster("10.0.0.1"), nil, "") {
		if s.Known != "" {
			t.Errorf("%+v", s)
		}
	}
}

func TestWords(t *testing.T) {
	wrap := func(err error) error {
		return &url.Error{Op: "Get", URL: "https://10.0.0.1:9443/v1/node", Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)}}
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{wrap(syscall.ECONNREFUSED), "connection refused"},
		{wrap(syscall.EHOSTUNREACH), "no route"},
		{wrap(syscall.ECONNRESET), "connection cut"},
		{io.EOF, "connection cut"},
		{errors.New("stream terminated by RST_STREAM with error code: CANCEL"), "no answer in time"},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), "no answer in time"},
		{&url.Error{Op: "Get", URL: "https://x", Err: errors.New("remote error: tls: bad certificate")}, "remote error: tls: bad certificate"},
		{errors.New("one\n  two\tthree"), "one two three"},
		{errors.New(`rpc error: transport: authentication handshake failed: x509: unknown"`), "x509: unknown"},
		{fmt.Errorf("/run/hactl/supervisor.sock: %w", child.ErrUnreachable), "not running"},
		{errNotRunning, "not running"},
	} {
		if got := words(c.err); got != c.want {
			t.Errorf("words(%v) = %q, want %q", c.err, got, c.want)
		}
	}
	if got := words(errors.New(strings.Repeat("ä", 1000))); len([]rune(got)) != 201 {
		t.Errorf("a long error has %d runes", len([]rune(got)))
	}
}
