package bootstrap

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/status"
)

func voter(name, id string) etcdcluster.MemberStatus {
	return etcdcluster.MemberStatus{
		Name: name, IDText: id, ClusterID: "c1", Role: etcdcluster.Voter, Reachable: true, LeaderID: "a",
		PeerURLs: []string{"https://" + name + ":2380"},
	}
}

func TestAMachineWhoseNameOrAddressIsTakenIsRefused(t *testing.T) {
	dead := voter(m2, "b")
	dead.Reachable = false
	added := voter("", "c")
	added.PeerURLs = []string{"https://m3:2380"}
	ms := []etcdcluster.MemberStatus{voter(m1, "a"), dead, added}
	for _, c := range []struct {
		name, url string
		taken     bool
	}{
		{m1, "https://elsewhere:2380", true},
		{"m9", "https://m1:2380", true},
		{m2, "https://m2:2380", false}, // dead: it is replaced
		{m3, "https://m3:2380", false}, // the place is kept for this machine
		{"m9", "https://m9:2380", false},
	} {
		if err := duplicate(ms, c.name, c.url); (err != nil) != c.taken || c.taken && exitcode.Of(err) != exitcode.Refused {
			t.Errorf("%s at %s: %v, want taken = %v", c.name, c.url, err, c.taken)
		}
	}
}

func TestOnlyTheSameClustersWordCounts(t *testing.T) {
	own := Own{HasIntent: true, Intent: etcdcluster.Intent{MemberID: "b", ClusterID: "c1"}}
	foreign := voter(m1, "a")
	foreign.ClusterID = "c2"
	silent := etcdcluster.MemberStatus{Endpoint: "https://m1:2379"}
	for _, c := range []struct {
		what string
		ms   []etcdcluster.MemberStatus
		want bool
	}{
		{"listed", []etcdcluster.MemberStatus{voter(m1, "a"), voter(m2, "b")}, true},
		{"not listed", []etcdcluster.MemberStatus{voter(m1, "a")}, false},
		{"another cluster", []etcdcluster.MemberStatus{foreign}, true},
		{"nobody says", []etcdcluster.MemberStatus{silent}, true},
	} {
		if got := knows(c.ms, own); got != c.want {
			t.Errorf("%s: knows = %v, want %v", c.what, got, c.want)
		}
	}
}

func TestOnlyTheDeadMakeRoom(t *testing.T) {
	kinds := func(steps []etcdcluster.Step) (out []etcdcluster.StepKind) {
		for _, s := range steps {
			out = append(out, s.Kind)
		}
		return out
	}
	rm, add, promote := etcdcluster.Step{Kind: etcdcluster.Remove}, etcdcluster.Step{Kind: etcdcluster.AddLearner}, etcdcluster.Step{Kind: etcdcluster.Promote}
	for _, c := range []struct {
		plan []etcdcluster.Step
		want int
	}{
		{[]etcdcluster.Step{rm, rm, add, promote, rm}, 2},
		{[]etcdcluster.Step{add, promote, rm}, 0},
		{[]etcdcluster.Step{promote, rm}, 0},
		{[]etcdcluster.Step{rm}, 0}, // nobody is added: these are members that are well
		{nil, 0},
	} {
		if got := removalsFirst(c.plan); len(got) != c.want {
			t.Errorf("%v: %v, want %d removals", kinds(c.plan), kinds(got), c.want)
		}
	}
}

func TestLeavingKeepsAQuorum(t *testing.T) {
	down := voter(m3, "c")
	down.Reachable = false
	step := func(id string) etcdcluster.Step { return etcdcluster.Step{Kind: etcdcluster.Remove, ID: id} }
	for _, c := range []struct {
		what string
		ms   []etcdcluster.MemberStatus
		ok   bool
	}{
		{"three well", []etcdcluster.MemberStatus{voter(m1, "a"), voter(m2, "b"), voter(m3, "c")}, true},
		{"two well", []etcdcluster.MemberStatus{voter(m1, "a"), voter(m2, "b")}, true},
		{"two of three well", []etcdcluster.MemberStatus{voter(m1, "a"), voter(m2, "b"), down}, false},
		{"the last", []etcdcluster.MemberStatus{voter(m1, "a")}, false},
	} {
		err := leaveGuard(c.ms, step("a"))
		var refused *etcdcluster.RefusedError
		if (err == nil) != c.ok || err != nil && (!errors.As(err, &refused) || refused.Safe == "") {
			t.Errorf("%s: %v, want ok = %v", c.what, err, c.ok)
		}
	}
	if got := spare([]etcdcluster.MemberStatus{voter(m1, "a"), voter(m2, "b"), voter(m3, "c")}); got != "2 of 3 voters will be left, of which 0 may be lost" {
		t.Error(got)
	}
}

func TestServing(t *testing.T) {
	good := status.Report{
		APIServers: []status.APIServer{{Master: m1, Ready: status.Yes}, {Master: m2, Ready: status.No}},
		Balancers:  []status.Balancer{{Name: m1, Serving: status.Yes}, {Name: m2, Serving: status.No}},
		Singletons: []status.Singleton{{Name: "kube-scheduler", Holder: m2}, {Name: "paused", Paused: true}},
	}
	if w := notServing(&good, m1); len(w) > 0 {
		t.Errorf("waits for %v", w)
	}
	if w := strings.Join(notServing(&good, m2), "; "); w != "the API server is not ready; the balancer does not serve" {
		t.Errorf("m2 waits for %q", w)
	}
	good.Singletons[0].Holder = ""
	if w := strings.Join(notServing(&good, m1), "; "); w != "nobody runs kube-scheduler yet" {
		t.Errorf("waits for %q", w)
	}
	if w := notServing(&status.Report{}, m1); len(w) != 3 {
		t.Errorf("with an empty report it waits for %v", w)
	}
}

func TestDiff(t *testing.T) {
	for _, c := range []struct{ ours, theirs, want string }{
		{"a\nb\nc\n", "a\nb\nc\n", ""},
		{"a\nb\nc\n", "a\nx\nc\n", "  a\n- b\n+ x\n"},
		{"a\nb\n", "a\nb\nc\n", "  b\n+ c\n"},
		{"x\n", "", "- x\n+ \n"},
		{"a\nb\nc\nd\ne\n", "b\nc\nd\n", "- a\n  d\n- e\n"},
	} {
		if got := diff(c.ours, c.theirs); got != c.want {
			t.Errorf("diff(%q, %q) =\n%swant\n%s", c.ours, c.theirs, got, c.want)
		}
	}
}

func TestStopOrder(t *testing.T) {
	names := []string{"hactl-etcd.service", "hactl-lb.service", "kube-apiserver.service", "hactl-lb.socket", "podmaster@x.service", "hactl.target", "hactl-agent.service"}
	slices.SortStableFunc(names, func(a, b string) int { return stopRank(a) - stopRank(b) })
	want := []string{"hactl.target", "hactl-agent.service", "podmaster@x.service", "hactl-lb.socket", "hactl-lb.service", "kube-apiserver.service", "hactl-etcd.service"}
	if !slices.Equal(names, want) {
		t.Errorf("order of stopping\n got %v\nwant %v", names, want)
	}
}
