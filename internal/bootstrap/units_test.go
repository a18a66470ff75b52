package bootstrap

import (
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/status"
)

func render(t *testing.T, change func(*config.Cluster)) map[string]string {
	t.Helper()
	c := config.Default()
	c.Name = "prod"
	c.Masters = []config.Master{{Name: m1, Address: "10.0.0.1"}, {Name: m2, Address: "10.0.0.2"}, {Name: m3, Address: "10.0.0.3"}}
	if change != nil {
		change(c)
	}
	files, err := RenderUnits(c, m1, layout.Layout{}, master.Programs{Hactl: "/opt/hactl/bin/hactl", Podmaster: "/opt/hactl/bin/podmaster", KubeBin: "/opt/hactl/kube"}, 252)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range files {
		out[f.Name] = string(f.Text)
	}
	return out
}

func TestUnits(t *testing.T) {
	units := render(t, nil)
	if len(units) != 8 {
		t.Errorf("%d units", len(units))
	}
	for name, text := range units {
		if name != Target && !strings.Contains(units[Target], " "+name) && !strings.Contains(units[Target], "="+name) {
			t.Errorf("%s does not start %s", Target, name)
		}
		if strings.HasSuffix(name, ".service") && (!strings.Contains(text, "WantedBy="+Target) || !strings.Contains(text, "Type=notify") || strings.Contains(text, "append:")) {
			t.Errorf("%s:\n%s", name, text)
		}
	}
	if !strings.Contains(units[Socket], "ListenStream=10.0.0.1:6443") || !strings.Contains(units["hactl-lb.service"], "Sockets="+Socket) {
		t.Errorf("the front door's socket:\n%s%s", units[Socket], units["hactl-lb.service"])
	}
}

// A unit's file changes exactly where what it runs with does: that decides what is
// restarted.
func TestAUnitChangesWithItsConfiguration(t *testing.T) {
	before := render(t, nil)
	for what, c := range map[string]struct {
		change func(*config.Cluster)
		want   string
	}{
		"etcd's heartbeat": {func(c *config.Cluster) { c.Etcd.Heartbeat = 200 * time.Millisecond; c.Etcd.Election = 2 * time.Second }, "hactl-etcd.service"},
		"backups":          {func(c *config.Cluster) { c.Etcd.Backup.Keep = 7 }, ""},
		"the checks":       {func(c *config.Cluster) { c.LoadBalancer.Check.Fall = 5 }, "hactl-lb.service kube-apiserver.service"}, // which drains for as long as they take,
		"the watchdog":     {func(c *config.Cluster) { c.Watchdog.Fall = 9 }, ""},
		"an argument":      {func(c *config.Cluster) { c.APIServer.ExtraArgs = map[string]string{"v": "3"} }, "kube-apiserver.service"},
		"one more master":  {func(c *config.Cluster) { c.Masters = append(c.Masters, config.Master{Name: "m4", Address: "10.0.0.4"}) }, "podmaster@kube-controller-manager.service podmaster@kube-scheduler.service"},
	} {
		var changed []string
		after := render(t, c.change)
		for _, name := range []string{"hactl-agent.service", "hactl-etcd.service", Socket, "hactl-lb.service", Target, "kube-apiserver.service", "podmaster@kube-controller-manager.service", "podmaster@kube-scheduler.service"} {
			if before[name] != after[name] {
				changed = append(changed, name)
			}
		}
		if got := strings.Join(changed, " "); got != c.want {
			t.Errorf("%s: changed %q, want %q", what, got, c.want)
		}
	}
}

// A member may be restarted where the others are a quorum, or where waiting would
// not make them one.
func TestWhoIsNeededIsNotRestarted(t *testing.T) {
	ill := func(m etcdcluster.MemberStatus) etcdcluster.MemberStatus { m.Reachable = false; return m }
	learner := voter(m3, "c")
	learner.Role = etcdcluster.Learner
	for _, c := range []struct {
		what string
		ms   []etcdcluster.MemberStatus
		may  bool
	}{
		{"three are well", []etcdcluster.MemberStatus{voter(m1, "a"), voter(m2, "b"), voter(m3, "c")}, true},
		{"one of three is ill", []etcdcluster.MemberStatus{voter(m1, "a"), voter(m2, "b"), ill(voter(m3, "c"))}, false},
		{"one of five is ill", []etcdcluster.MemberStatus{voter(m1, "a"), voter(m2, "b"), ill(voter(m3, "c")), voter("m4", "d"), voter("m5", "e")}, true},
		{"two of five are ill", []etcdcluster.MemberStatus{voter(m1, "a"), voter(m2, "b"), ill(voter(m3, "c")), ill(voter("m4", "d")), voter("m5", "e")}, false},
		{"ours is ill", []etcdcluster.MemberStatus{ill(voter(m1, "a")), voter(m2, "b"), voter(m3, "c")}, true},
		{"one alone", []etcdcluster.MemberStatus{voter(m1, "a")}, true},
		{"two", []etcdcluster.MemberStatus{voter(m1, "a"), voter(m2, "b")}, true},
		{"two and a learner", []etcdcluster.MemberStatus{voter(m1, "a"), voter(m2, "b"), ill(learner)}, true},
	} {
		if why := needed(c.ms, "https://m1:2380"); (why == "") != c.may {
			t.Errorf("%s: %q, want may = %v", c.what, why, c.may)
		}
	}
}

func TestTheLastAPIServerIsNotRestarted(t *testing.T) {
	server := func(name string, ready status.Answer) status.APIServer {
		return status.APIServer{Master: name, Ready: ready}
	}
	for _, c := range []struct {
		what    string
		servers []status.APIServer
		may     bool
	}{
		{"another serves", []status.APIServer{server(m1, status.Yes), server(m2, status.No), server(m3, status.Yes)}, true},
		{"no other serves", []status.APIServer{server(m1, status.Yes), server(m2, status.No), server(m3, "")}, false},
		{"ours does not serve either", []status.APIServer{server(m2, status.No), server(m1, status.No)}, true},
		{"the only one", []status.APIServer{server(m1, status.Yes)}, true},
	} {
		if why := lastAPIServer(&status.Report{APIServers: c.servers}, m1); (why == "") != c.may {
			t.Errorf("%s: %q, want may = %v", c.what, why, c.may)
		}
	}
}
