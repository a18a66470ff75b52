package bootstrap

import (
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/master"
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
