package kube

import (
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
)

func TestUnknownMaster(t *testing.T) {
	for _, make := range []func(layout.Layout, *config.Cluster, string) ([]string, error){APIServer, Scheduler, ControllerManager} {
		if argv, err := make(layout.Layout{}, three(), "m9"); err == nil || !strings.Contains(err.Error(), `no master "m9"`) {
			t.Errorf("got %v, %v", argv, err)
		}
	}
}

func TestExtraArgsThatCannotGoTogether(t *testing.T) {
	for _, c := range []struct {
		extra map[string]string
		want  string // in the error; "": taken
	}{
		{map[string]string{"anonymous-auth": "false"}, "apiServer.extraArgs.anonymous-auth"},
		{map[string]string{"oidc-issuer-url": "https://x"}, "use apiServer.oidc"},
		{map[string]string{"v": "4", "oidc-client-id": "x"}, "apiServer.extraArgs.oidc-client-id"},
		{map[string]string{"authentication-config": "/x", "anonymous-auth": "false"}, ""},
		{map[string]string{"v": "4"}, ""},
	} {
		cl := three()
		cl.APIServer.ExtraArgs = c.extra
		_, err := APIServer(layout.Layout{}, cl, "m1")
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %q", c.extra, err, c.want)
		}
	}
}

func TestSingleton(t *testing.T) {
	c := three()
	c.Singletons = append(c.Singletons, config.Singleton{Name: "report", Command: []string{"/usr/local/bin/report", "--serve"}})
	for _, s := range []struct{ name, first string }{
		{"kube-scheduler", "/opt/hactl/kube/kube-scheduler"},
		{"kube-controller-manager", "/opt/hactl/kube/kube-controller-manager"},
		{"report", "/usr/local/bin/report"},
	} {
		argv, err := Singleton(layout.Layout{}, c, "m1", s.name)
		if err != nil || argv[0] != s.first {
			t.Errorf("%s: %v, %v", s.name, argv, err)
		}
	}
	argv, err := Singleton(layout.Layout{}, c, "m1", "report")
	if err != nil {
		t.Fatal(err)
	}
	argv[0] = "changed"
	if c.Singletons[2].Command[0] != "/usr/local/bin/report" {
		t.Error("the configuration's own slice was handed out")
	}
	if argv, err := Singleton(layout.Layout{}, c, "m1", "nightly"); err == nil {
		t.Errorf("unknown singleton: %v", argv)
	}
}

func TestHealth(t *testing.T) {
	c := three()
	six := config.Master{Name: "m1", Address: "fd00::11"}
	for _, x := range []struct{ got, want Health }{
		{APIServerHealth(c, c.Masters[1]), Health{"https://10.245.1.12:6444/livez", "https://10.245.1.12:6444/readyz", "https://10.245.1.12:6444/livez?exclude=etcd"}},
		{APIServerHealth(c, six), Health{"https://[fd00::11]:6444/livez", "https://[fd00::11]:6444/readyz", "https://[fd00::11]:6444/livez?exclude=etcd"}},
		{SchedulerHealth(c.Masters[1]), Health{"https://127.0.0.1:10259/livez", "https://127.0.0.1:10259/readyz", "https://127.0.0.1:10259/livez"}},
		{ControllerManagerHealth(loopback(3).Masters[1]), Health{"https://127.0.1.2:10257/healthz", "https://127.0.1.2:10257/healthz", "https://127.0.1.2:10257/healthz"}},
	} {
		if x.got != x.want {
			t.Errorf("got %+v, want %+v", x.got, x.want)
		}
	}
}

// A balancer that probes at its slowest must have ejected the server before it
// refuses.
func TestShutdownDelayOutlastsTheProbes(t *testing.T) {
	for _, c := range []struct {
		check config.Check
		want  time.Duration
	}{
		{config.Default().LoadBalancer.Check, 4 * time.Second},
		{config.Check{Every: 10 * time.Second, Timeout: 5 * time.Second, Fall: 3}, 37 * time.Second},
		{config.Check{Every: 100 * time.Millisecond, Timeout: 200 * time.Millisecond, Fall: 1}, 2 * time.Second},
		{config.Check{}, 2 * time.Second},
	} {
		cl := three()
		cl.LoadBalancer.Check = c.check
		got := ShutdownDelay(cl)
		if got != c.want {
			t.Errorf("%+v: %v, want %v", c.check, got, c.want)
		}
		if worst := time.Duration(c.check.Fall)*c.check.Every + c.check.Timeout; got < worst {
			t.Errorf("%+v: %v is less than the probes' %v", c.check, got, worst)
		}
		if stop := StopTimeout(cl); stop <= got+requestTimeout+watchGrace {
			t.Errorf("%+v: stop timeout %v cuts off the drain", c.check, stop)
		}
	}
}

func TestModesDefault(t *testing.T) {
	c := three()
	c.APIServer.AuthorizationModes = nil
	if got := apiServer(t, c)["authorization-mode"]; got != "Node,RBAC" {
		t.Error(got)
	}
}
