package bootstrap

import (
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/master"
)

func TestAWorkersBalancer(t *testing.T) {
	c := config.Default()
	c.Name = "prod"
	c.Masters = []config.Master{{Name: "m1", Address: "10.245.1.11"}}
	files, err := RenderWorker(c, layout.Layout{}, master.Programs{Hactl: "/opt/hactl/bin/hactl"}, ":6443", 252)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 2 || files[0].Name != "hactl-lb.socket" || files[1].Name != "hactl-lb.service" {
		t.Fatalf("files: %v", files)
	}
	for i, wants := range [][]string{
		{"ListenStream=6443\n", "WantedBy=sockets.target\n"},
		{
			"ExecStart=/opt/hactl/bin/hactl lb run --from-masters --listen :6443 --listen-metrics 127.0.0.1:9445\n",
			"Sockets=hactl-lb.socket\n", "Type=notify\n",
			"WantedBy=multi-user.target\n", // it has no hactl.target, which is a master's
		},
	} {
		for _, want := range wants {
			if !strings.Contains(string(files[i].Text), want) {
				t.Errorf("%s has no %q:\n%s", files[i].Name, want, files[i].Text)
			}
		}
	}
	if strings.Contains(string(files[1].Text), "--root") {
		t.Errorf("a machine's own paths need no --root:\n%s", files[1].Text)
	}
	if _, err := RenderWorker(c, layout.Layout{}, master.Programs{Hactl: "/h"}, "nowhere", 252); err == nil {
		t.Error("no error for an address that is none")
	}
}
