package kube

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The full command lines, as people see them in ps. After a change on purpose:
// go test ./internal/kube -update, and read the difference.
func TestCommandLines(t *testing.T) {
	dev := layout.Layout{Root: "/srv/dev/m2"}
	oidc := three()
	oidc.APIServer.OIDC = &config.OIDC{IssuerURL: "https://login.example.com", ClientID: "kubernetes"}
	oidc.APIServer.TokenAuthFile = "/etc/hactl/tokens.csv"
	abac := three()
	abac.APIServer.AuthorizationModes = []string{"Node", "ABAC"}
	abac.APIServer.ABACPolicyFile = "/etc/hactl/abac.jsonl"
	extra := three()
	extra.APIServer.ExtraArgs = map[string]string{"zz-new": "1", "event-ttl": "2h", "goaway-chance": "0", "etcd-servers": "https://etcd.example.com:2379"}
	extra.Singletons[0].ExtraArgs = map[string]string{"kube-api-qps": "100"}
	extra.Singletons[1].ExtraArgs = map[string]string{"node-monitor-grace-period": "20s", "controllers": "*,-ttl"}
	six := three()
	for i, a := range []string{"fd00::11", "fd00::12", "fd00::13"} {
		six.Masters[i].Address = a
	}

	for _, c := range []struct {
		name    string
		make    func(layout.Layout, *config.Cluster, string) ([]string, error)
		layout  layout.Layout
		cluster *config.Cluster
		master  string
	}{
		{"apiserver", APIServer, layout.Layout{}, three(), "m2"},
		{"apiserver-dev", APIServer, dev, loopback(3), "m2"},
		{"apiserver-single", APIServer, layout.Layout{}, loopback(1), "m1"},
		{"apiserver-oidc-tokens", APIServer, layout.Layout{}, oidc, "m1"},
		{"apiserver-abac", APIServer, layout.Layout{}, abac, "m1"},
		{"apiserver-extra", APIServer, layout.Layout{}, extra, "m1"},
		{"apiserver-ipv6", APIServer, layout.Layout{}, six, "m3"},
		{"scheduler", Scheduler, layout.Layout{}, three(), "m2"},
		{"scheduler-dev", Scheduler, dev, loopback(3), "m2"},
		{"scheduler-extra", Scheduler, layout.Layout{}, extra, "m1"},
		{"controller-manager", ControllerManager, layout.Layout{}, three(), "m2"},
		{"controller-manager-dev", ControllerManager, dev, loopback(3), "m2"},
		{"controller-manager-extra", ControllerManager, layout.Layout{}, extra, "m1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			argv, err := c.make(c.layout, c.cluster, c.master)
			if err != nil {
				t.Fatal(err)
			}
			again, err := c.make(c.layout, c.cluster, c.master)
			if err != nil || !slices.Equal(argv, again) {
				t.Errorf("a second call differs: %v, %v", again, err)
			}
			got := strings.Join(argv, "\n") + "\n"
			file := filepath.Join("testdata", c.name+".golden")
			if *update {
				write(t, file, got, 0o644)
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// testdata/flags has the flags of the pinned release, one a line:
//
//	kube-apiserver -h | grep -oE '^ +(-., )?--[a-z0-9-]+' | grep -oE '[a-z0-9][a-z0-9-]+$' | sort -u
func TestEveryFlagExists(t *testing.T) {
	abac := loopback(3)
	abac.APIServer.AuthorizationModes = []string{"Node", "RBAC", "ABAC"}
	abac.APIServer.ABACPolicyFile = "/x"
	abac.APIServer.TokenAuthFile = "/y"
	for component, make := range map[string]func(*testing.T, *config.Cluster) map[string]string{
		"kube-apiserver":          apiServer,
		"kube-scheduler":          scheduler,
		"kube-controller-manager": controllerManager,
	} {
		known := map[string]bool{}
		for name := range strings.FieldsSeq(read(t, filepath.Join("testdata", "flags", component))) {
			known[name] = true
		}
		if len(known) < 50 {
			t.Fatalf("%s: only %d flags known", component, len(known))
		}
		for _, c := range []*config.Cluster{three(), abac} {
			for _, name := range slices.Sorted(maps.Keys(make(t, c))) {
				if !known[name] {
					t.Errorf("%s has no flag --%s", component, name)
				}
			}
		}
	}
}

// Nothing of a dev master may lie outside its folder, apart from the programs.
func TestEveryPathIsUnderRoot(t *testing.T) {
	const root = "/srv/dev/m2"
	l := layout.Layout{Root: root}
	c := loopback(3)
	for _, make := range []func(layout.Layout, *config.Cluster, string) ([]string, error){APIServer, Scheduler, ControllerManager} {
		argv, err := make(l, c, "m2")
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range argv[1:] {
			_, value, _ := strings.Cut(a, "=")
			if strings.HasPrefix(value, "/") && !strings.HasPrefix(value, root+"/") {
				t.Errorf("%s lies outside %s", a, root)
			}
		}
	}
}
