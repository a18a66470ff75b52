package status

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// rules: one change to a healthy cluster, the verdict, and exactly the reasons
// it must give, as "code object".
var rules = []struct {
	name    string
	masters int
	change  func(*Report)
	verdict Verdict
	want    []string
}{
	{"all well", 3, func(*Report) {}, Healthy, nil},
	{"one master, as configured", 1, func(*Report) {}, Healthy, nil},
	{"five masters", 5, func(*Report) {}, Healthy, nil},

	{"one of three members lost", 3, func(r *Report) { loseEtcd(r, 1) }, Degraded, []string{"etcd-unreachable etcd/m2", "etcd-no-spare etcd"}},
	{"one of five members lost", 5, func(r *Report) { loseEtcd(r, 1) }, Degraded, []string{"etcd-unreachable etcd/m2"}},
	{"quorum lost", 3, func(r *Report) { loseEtcd(r, 1); loseEtcd(r, 2); r.Etcd.Quorum = No }, Down,
		[]string{"etcd-no-quorum etcd", "etcd-unreachable etcd/m2", "etcd-unreachable etcd/m3"}},
	{"quorum not asked", 3, func(r *Report) { r.Etcd.Quorum, r.Etcd.Why = Unclear, "no client certificate" }, Degraded, []string{"etcd-unknown etcd"}},
	{"quorum never set", 3, func(r *Report) { r.Etcd.Quorum = "" }, Degraded, []string{"etcd-unknown etcd"}},
	{"no space", 3, func(r *Report) { r.Etcd.Members[1].Alarms = []string{"NOSPACE"} }, Down, []string{"etcd-alarm etcd"}},
	{"corrupt", 3, func(r *Report) { r.Etcd.Members[1].Alarms = []string{"CORRUPT"} }, Down, []string{"etcd-alarm etcd"}},
	{"an alarm of the future", 3, func(r *Report) { r.Etcd.Members[1].Alarms = []string{"HOT"} }, Degraded, []string{"etcd-alarm etcd"}},
	{"member cut off", 3, func(r *Report) { r.Etcd.Members[2].Leader = "" }, Degraded, []string{"etcd-no-leader etcd/m3"}},
	{"member missing", 3, func(r *Report) { r.Etcd.Members = r.Etcd.Members[:2] }, Degraded, []string{"etcd-member-missing m3"}},
	{"members unsure", 3, func(r *Report) { r.Etcd.Members = r.Etcd.Members[:2]; r.Etcd.Membership = No }, Healthy, nil},
	{"member of no master", 3, func(r *Report) { r.Etcd.Members[2].Name = "m9" }, Degraded,
		[]string{"etcd-member-missing m3", "etcd-member-foreign etcd/m9"}},
	{"unstarted member", 3, func(r *Report) { r.Etcd.Members = append(r.Etcd.Members, Member{ID: "ff", Role: RoleLearner}) }, Degraded,
		[]string{"etcd-member-unstarted etcd/ff"}},
	{"learner", 3, func(r *Report) { r.Etcd.Members[2].Role = RoleLearner }, Degraded, []string{"etcd-learner etcd/m3"}},
	{"behind by the limit", 3, func(r *Report) { r.Etcd.Members[2].Applied -= BehindLimit }, Healthy, nil},
	{"behind", 3, func(r *Report) { r.Etcd.Members[2].Applied -= BehindLimit + 1 }, Degraded, []string{"etcd-behind etcd/m3"}},
	{"ahead of the leader", 3, func(r *Report) { r.Etcd.Members[2].Applied += 100000 }, Healthy, nil},
	{"database nearly full", 3, func(r *Report) { r.Etcd.Members[2].DBSize = 7 << 30 }, Healthy, []string{"etcd-database-full etcd/m3"}},
	{"upgrade under way", 3, func(r *Report) { r.Etcd.Members[2].Version = "3.8.0" }, Healthy, []string{"etcd-versions etcd"}},

	{"one API server not ready", 3, func(r *Report) { r.APIServers[1].Ready = No }, Degraded, []string{"apiserver-not-ready m2/kube-apiserver"}},
	{"one API server dead", 3, func(r *Report) { loseAPIServer(r, 1) }, Degraded, []string{"apiserver-not-ready m2/kube-apiserver"}},
	{"no API server ready", 3, func(r *Report) {
		for i := range r.APIServers {
			r.APIServers[i].Ready = No
		}
	}, Down, []string{"apiserver-none apiserver"}},
	{"no API server at all", 3, func(r *Report) { r.APIServers = nil }, Down, []string{"apiserver-none apiserver"}},
	{"API servers not asked", 3, func(r *Report) {
		for i := range r.APIServers {
			r.APIServers[i].Ready = Unclear
		}
	}, Degraded, []string{"apiserver-unknown m1/kube-apiserver", "apiserver-unknown m2/kube-apiserver", "apiserver-unknown m3/kube-apiserver"}},
	{"two dead, one not asked", 3, func(r *Report) {
		r.APIServers[0].Ready, r.APIServers[1].Ready, r.APIServers[2].Ready = No, No, ""
	}, Degraded, []string{"apiserver-not-ready m1/kube-apiserver", "apiserver-not-ready m2/kube-apiserver", "apiserver-unknown m3/kube-apiserver"}},

	{"front door serves", 3, func(r *Report) { r.FrontDoor = &FrontDoor{Address: "x:6443", Serving: Yes} }, Healthy, nil},
	{"front door does not", 3, func(r *Report) { r.FrontDoor = &FrontDoor{Address: "x:6443", Serving: No} }, Down, []string{"front-door front door"}},
	{"front door leads to a sick one", 3, func(r *Report) {
		r.FrontDoor = &FrontDoor{Serving: No, Latency: 0.01, Why: "HTTP 500"}
		r.APIServers[0].Ready = No
	}, Degraded, []string{"apiserver-not-ready m1/kube-apiserver", "front-door-sick front door"}},
	{"front door leads to sick ones only", 3, func(r *Report) {
		r.FrontDoor = &FrontDoor{Serving: No, Latency: 0.01, Why: "HTTP 500"}
		for i := range r.APIServers {
			r.APIServers[i].Ready, r.Balancers[i].Serving = No, No
		}
	}, Down, []string{"apiserver-none apiserver", "front-door front door"}},
	{"front door not tried", 3, func(r *Report) { r.FrontDoor = &FrontDoor{Address: "x:6443"} }, Degraded, []string{"front-door-unknown front door"}},
	{"one balancer lost", 3, func(r *Report) { r.Balancers[0].Serving = No }, Degraded, []string{"balancer-not-serving m1/hactl-lb"}},
	{"all balancers lost", 1, func(r *Report) { r.Balancers[0].Serving = No }, Down, []string{"front-door front door"}},
	{"no balancer", 1, func(r *Report) { r.Balancers = nil }, Down, []string{"front-door front door"}},
	{"all balancers lost behind a front door that serves", 1, func(r *Report) {
		r.Balancers[0].Serving = No
		r.FrontDoor = &FrontDoor{Serving: Yes}
	}, Degraded, []string{"balancer-not-serving balancers"}},
	{"balancer not tried", 3, func(r *Report) { r.Balancers[0].Serving = Unclear }, Degraded, []string{"balancer-unknown m1/hactl-lb"}},
	{"balancer shuns a ready API server", 3, func(r *Report) { r.Balancers[0].Backends[1].State = "ejected" }, Degraded,
		[]string{"balancer-backend m1/hactl-lb"}},
	{"drained", 3, func(r *Report) { r.Balancers[0].Backends[1].State = "drained" }, Healthy, []string{"backend-drained m1/hactl-lb"}},
	{"said no to a probe", 3, func(r *Report) { r.Balancers[0].Backends[1].State = "draining" }, Degraded, []string{"balancer-backend m1/hactl-lb"}},
	{"a removed backend finishes", 3, func(r *Report) { r.Balancers[0].Backends[1].State = "removed" }, Healthy, nil},

	{"nobody holds", 3, func(r *Report) { r.Singletons[0].Holder = "" }, Degraded, []string{"singleton-no-holder kube-scheduler"}},
	{"nobody waits", 3, func(r *Report) { r.Singletons[0].Waiting = []string{} }, Degraded, []string{"singleton-no-standby kube-scheduler"}},
	{"who waits is not told", 3, func(r *Report) { r.Singletons[0].Waiting = nil }, Healthy, nil},
	{"holder silent for its TTL", 3, func(r *Report) { r.Singletons[0].Renewed = now.Add(-9 * time.Second) }, Healthy, nil},
	{"holder silent", 3, func(r *Report) { r.Singletons[0].Renewed = now.Add(-9001 * time.Millisecond) }, Degraded, []string{"singleton-silent kube-scheduler"}},
	{"holder's clock behind", 3, func(r *Report) {
		r.Singletons[0].Renewed, r.Masters[0].Agent.Skew = now.Add(-20*time.Second), -19.5
	}, Healthy, []string{"clock-skew m1"}},
	{"holder stale", 3, func(r *Report) { r.Singletons[0].Known = Stale }, Degraded, []string{"singleton-unknown kube-scheduler"}},
	{"holder unknown", 3, func(r *Report) { r.Singletons[0] = Singleton{Name: "x"} }, Degraded, []string{"singleton-unknown x"}},
	{"paused", 3, func(r *Report) { r.Singletons[0].Holder, r.Singletons[0].Paused = "", true }, Healthy, []string{"singleton-paused kube-scheduler"}},

	{"agent lost", 3, func(r *Report) { loseAgent(r, 2) }, Degraded, []string{"agent-unreachable m3/hactl-agent"}},
	{"agent upgraded", 3, func(r *Report) { r.Masters[2].Agent.Version = "v0.2.0" }, Healthy, []string{"agent-versions masters"}},
	{"clock at the limit", 3, func(r *Report) { r.Masters[1].Agent.Skew = 0.5 }, Healthy, nil},
	{"clock ahead", 3, func(r *Report) { r.Masters[1].Agent.Skew = 0.51 }, Healthy, []string{"clock-skew m2"}},
	{"clock behind", 3, func(r *Report) { r.Masters[1].Agent.Skew = -12 }, Healthy, []string{"clock-skew m2"}},
	{"gossip is late", 3, func(r *Report) { r.Masters[0].Peers[1].State = "suspect" }, Healthy, nil},
	{"gossip lost one way", 3, func(r *Report) { r.Masters[0].Peers[1].State = "dead" }, Degraded, []string{"gossip-lost m1/hactl-agent"}},
	{"gossip never met", 3, func(r *Report) { r.Masters[0].Peers = r.Masters[0].Peers[:2] }, Degraded, []string{"gossip-lost m1/hactl-agent"}},
	{"gossip met nobody", 3, func(r *Report) { r.Masters[0].Peers = []Peer{} }, Degraded, []string{"gossip-lost m1/hactl-agent", "gossip-lost m1/hactl-agent"}},
	{"gossip not told", 3, func(r *Report) { r.Masters[0].Peers = nil }, Healthy, nil},

	{"process failed", 3, func(r *Report) { r.Masters[0].Processes[2].Active = "failed" }, Degraded, []string{"process-not-active m1/hactl-lb"}},
	{"process starting", 3, func(r *Report) { r.Masters[0].Processes[2].Active = "activating" }, Degraded, []string{"process-not-active m1/hactl-lb"}},
	{"restarted thrice long ago", 3, func(r *Report) { r.Masters[0].Processes[2].Restarts = 3 }, Healthy, nil},
	{"restarted twice just now", 3, func(r *Report) { flap(r, 2) }, Healthy, nil},
	{"restarted thrice just now", 3, func(r *Report) { flap(r, 3) }, Healthy, []string{"process-flapping m1/hactl-lb"}},
	{"watchdog paused", 3, func(r *Report) { r.Masters[0].Watchdog.Paused = true }, Healthy, []string{"watchdog-paused m1/watchdog"}},
	{"one unit paused", 3, func(r *Report) { r.Masters[0].Watchdog.Targets[0].Paused = true }, Healthy, []string{"watchdog-paused m1/kube-apiserver"}},
	{"a host beyond help", 3, func(r *Report) { r.Masters[2].Watchdog = &Watchdog{Marked: "kube-apiserver: budget spent"} }, Degraded, []string{"master-marked m3"}},
	{"disk nearly full", 3, func(r *Report) {
		r.Masters[1].Watchdog = &Watchdog{Notices: []WatchNotice{{Name: "disk:/d", Code: CodeDiskLow, Text: "5 MiB of 100 are free at /d"}}}
	}, Healthy, []string{"disk-low m2/disk:/d"}},
	{"clocks differ by a notice", 3, func(r *Report) {
		r.Masters[1].Watchdog = &Watchdog{Notices: []WatchNotice{{Name: "clock", Code: CodeClockSkew, Text: "m3 is 3s ahead"}}}
	}, Healthy, []string{"clock-skew m2/clock"}},
	{"watchdog held", 3, func(r *Report) { r.Masters[0].Watchdog.Targets[0].Held = true }, Degraded, []string{"watchdog-held m1/kube-apiserver"}},

	{"certificate 31 days", 3, func(r *Report) { expire(r, 31*24*time.Hour) }, Healthy, nil},
	{"certificate 30 days", 3, func(r *Report) { expire(r, 30*24*time.Hour) }, Healthy, []string{"certificate-expiring m1/certificates"}},
	{"certificate 7 days", 3, func(r *Report) { expire(r, 7*24*time.Hour) }, Degraded, []string{"certificate-expiring m1/certificates"}},
	{"certificate expired", 3, func(r *Report) { expire(r, 0) }, Degraded, []string{"certificate-expired m1/certificates"}},
	{"certificate of tomorrow", 3, func(r *Report) { r.Masters[0].Certificates[0].NotBefore = now.Add(time.Hour) }, Degraded,
		[]string{"certificate-expired m1/certificates"}},
	{"certificate missing", 3, func(r *Report) { r.Masters[0].Certificates[0] = Certificate{File: "x.crt", Error: "no such file"} }, Degraded,
		[]string{"certificate-unreadable m1/certificates"}},

	{"something unknown", 3, func(r *Report) {
		r.Masters[0].Agent.Skew = 3
		r.Unknown = []Unknown{{"m1", "certificates", "permission denied"}}
	}, Degraded, []string{"unknown m1", "clock-skew m1"}},
	{"something unknown beside a reason", 3, func(r *Report) {
		r.Etcd.Members[2].Role = RoleLearner
		r.Unknown = []Unknown{{"m1", "certificates", "permission denied"}}
	}, Degraded, []string{"etcd-learner etcd/m3"}},
	{"nothing answers", 3, func(r *Report) {
		for i := range r.Masters {
			loseMaster(r, i)
		}
		endQuorum(r)
	}, Down, []string{"nothing-answers cluster"}},
	{"nothing could be asked", 3, func(r *Report) {
		for i := range r.Masters {
			loseMaster(r, i)
			r.APIServers[i].Ready, r.Balancers[i].Serving = Unclear, Unclear
		}
		endQuorum(r)
		r.Etcd.Quorum = Unclear
	}, Down, []string{"nothing-answers cluster"}},
	{"nothing answers, but the supervisor here", 1, func(r *Report) {
		p := r.Masters[0].Processes
		loseMaster(r, 0)
		endQuorum(r)
		p[0].Active = "failed"
		r.Masters[0].Processes, r.Masters[0].ProcessesFrom = p, "supervisor"
	}, Down, []string{"nothing-answers cluster", "process-not-active m1/hactl-etcd"}},
	{"one master lost", 3, func(r *Report) { loseMaster(r, 1) }, Degraded, []string{"master-unreachable m2", "etcd-no-spare etcd"}},
	{"one master lost but for its supervisor", 3, func(r *Report) {
		p := r.Masters[1].Processes
		loseMaster(r, 1)
		r.Masters[1].Processes, r.Masters[1].ProcessesFrom = p, "supervisor"
	}, Degraded, []string{
		"etcd-unreachable etcd/m2", "etcd-no-spare etcd", "apiserver-not-ready m2/kube-apiserver", "balancer-not-serving m2/hactl-lb",
		"agent-unreachable m2/hactl-agent",
	}},
	{"most masters lost", 3, func(r *Report) { loseMaster(r, 1); loseMaster(r, 2); endQuorum(r) }, Down, []string{
		"etcd-no-quorum etcd", "apiserver-none apiserver", "front-door front door", "master-unreachable m2", "master-unreachable m3",
		"singleton-unknown kube-scheduler", "singleton-unknown kube-controller-manager",
	}},
}

func flap(r *Report, times int) {
	p := &r.Masters[0].Processes[2]
	p.Restarts, p.Since = times, now.Add(-FlapWindow+time.Second)
}

func expire(r *Report, left time.Duration) { r.Masters[0].Certificates[0].NotAfter = now.Add(left) }

func TestRules(t *testing.T) {
	for _, c := range rules {
		t.Run(c.name, func(t *testing.T) {
			r := healthy(c.masters)
			c.change(r)
			Judge(r)
			var got []string
			for _, x := range r.Reasons {
				got = append(got, x.Code+" "+x.Object)
				if x.Text == "" || strings.Contains(x.Text, "%!") {
					t.Errorf("%s: text %q", x.Code, x.Text)
				}
			}
			if r.Verdict != c.verdict || !slices.Equal(got, c.want) {
				t.Errorf("%s %q\nwant %s %q", r.Verdict, got, c.verdict, c.want)
			}
		})
	}
}

func TestJudgingTwiceChangesNothing(t *testing.T) {
	for _, c := range rules {
		once, twice := healthy(c.masters), healthy(c.masters)
		c.change(once)
		c.change(twice)
		Judge(once)
		Judge(twice)
		Judge(twice)
		if !reflect.DeepEqual(once, twice) {
			t.Errorf("%s: %+v\n%+v", c.name, once.Reasons, twice.Reasons)
		}
	}
}

// An empty report knows nothing, so it can never be healthy.
func TestNothingIsNotHealthy(t *testing.T) {
	r := &Report{}
	Judge(r)
	if r.Verdict != Down || r.Answered {
		t.Errorf("an empty report is %s, answered %v", r.Verdict, r.Answered)
	}
}

// Losing anything more never makes the verdict better.
func TestLossIsMonotone(t *testing.T) {
	order := map[Verdict]int{Healthy: 0, Degraded: 1, Down: 2}
	losses := []func(*Report, int){loseEtcd, loseAPIServer, loseAgent, loseMaster}
	for _, first := range losses {
		for _, second := range losses {
			r := healthy(3)
			first(r, 0)
			Judge(r)
			before := r.Verdict
			second(r, 1)
			endQuorum(r)
			Judge(r)
			if before == Healthy || order[r.Verdict] < order[before] {
				t.Errorf("%s, then %s", before, r.Verdict)
			}
		}
	}
}

func TestWhoAnswered(t *testing.T) {
	dead := func() *Report {
		r := healthy(3)
		for i := range r.Masters {
			loseMaster(r, i)
		}
		endQuorum(r)
		return r
	}
	cases := map[string]struct {
		change func(*Report)
		want   bool
	}{
		"nobody":         {func(*Report) {}, false},
		"a supervisor":   {func(r *Report) { r.Masters[0].ProcessesFrom = "supervisor" }, false},
		"a member":       {func(r *Report) { r.Etcd.Members[0].Reachable = true }, true},
		"a 500":          {func(r *Report) { r.APIServers[0].Latency = 0.1 }, true},
		"an agent":       {func(r *Report) { r.Masters[0].Agent.Reachable = true }, true},
		"a balancer":     {func(r *Report) { r.Balancers[0].Backends = []Backend{{Name: "m1"}} }, true},
		"the front door": {func(r *Report) { r.FrontDoor = &FrontDoor{Serving: Yes} }, true},
	}
	for name, c := range cases {
		r := dead()
		c.change(r)
		Judge(r)
		if r.Answered != c.want {
			t.Errorf("%s: answered %v, want %v", name, r.Answered, c.want)
		}
	}
}

// Every code is produced by a rule above and explained to users.
func TestEveryCodeIsTestedAndDocumented(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			code, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			codes[code] = true
		}
		return true
	})
	if len(codes) < 30 {
		t.Fatalf("only %d codes found in codes.go", len(codes))
	}
	doc, err := os.ReadFile("../../docs/status.md")
	if err != nil {
		t.Fatal(err)
	}
	for code := range codes {
		if !strings.Contains(string(doc), "`"+code+"`") {
			t.Errorf("docs/status.md does not mention `%s`", code)
		}
	}
	for _, c := range rules {
		for _, w := range c.want {
			delete(codes, strings.Fields(w)[0])
		}
	}
	if len(codes) > 0 {
		t.Errorf("no rule test produces %q", slices.Sorted(maps.Keys(codes)))
	}
}
