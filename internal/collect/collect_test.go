package collect

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/status"
)

// world is a cluster of fakes on one API server port and one balancer port.
func world(t *testing.T) (Config, *config.Cluster) {
	t.Helper()
	l := root(t)
	const address = "127.204.1.1" // nothing else listens there
	c := cluster(address)
	c.APIServer.Port = serve(t, l, address, ready)
	c.FrontDoor.Port = serve(t, l, address, ready)
	return Config{Cluster: c, Layout: l, Node: wellNode, Etcd: wellEtcd(c)}, c
}

func report(t *testing.T, cfg Config) *status.Report {
	t.Helper()
	col, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	col.call, col.timeout = patience, patience // what is refused is refused at once
	return col.Report(t.Context())
}

func TestReport(t *testing.T) {
	cfg, _ := world(t)
	r := report(t, cfg)
	if r.Verdict != status.Healthy || len(r.Reasons) > 0 || len(r.Unknown) > 0 || !r.Answered {
		t.Errorf("%s: %+v, unknown %+v", r.Verdict, r.Reasons, r.Unknown)
	}
	if r.APIVersion != status.APIVersion || r.Kind != status.Kind || r.Cluster != "prod" || r.Time.IsZero() || r.FrontDoor != nil {
		t.Errorf("%+v", r)
	}
	if b := r.Balancers[0]; b.Serving != status.Yes || len(b.Backends) != 1 || b.Connections != 3 {
		t.Errorf("balancer %+v", b)
	}
	if m := r.Masters[0]; m.ProcessesFrom != "agent" || len(m.Processes) != 1 || m.Certificates[0].DaysLeft < 360 {
		t.Errorf("master %+v", m)
	}
}

func TestReportOfLosses(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*testing.T, *Config, *config.Cluster)
		verdict status.Verdict
		code    string
	}{
		"agent": {func(_ *testing.T, cfg *Config, _ *config.Cluster) { cfg.Node = dead }, status.Degraded, status.CodeAgentUnreachable},
		"a section of the agent": {func(_ *testing.T, cfg *Config, _ *config.Cluster) {
			cfg.Node = func(ctx context.Context, m config.Master) (*status.Node, error) {
				n, err := wellNode(ctx, m)
				n.Certificates, n.Errors = nil, map[string]string{SectionCertificates: "permission denied"}
				return n, err
			}
		}, status.Degraded, status.CodeUnknown},
		"API server": {func(_ *testing.T, _ *Config, c *config.Cluster) { c.APIServer.Port = 1 }, status.Down, status.CodeAPIServerNone},
		"balancer":   {func(_ *testing.T, _ *Config, c *config.Cluster) { c.FrontDoor.Port = 1 }, status.Down, status.CodeFrontDoor},
		"front door": {func(_ *testing.T, cfg *Config, _ *config.Cluster) { cfg.FrontDoor = "127.204.1.1:1" }, status.Down, status.CodeFrontDoor},
		"named door": {func(_ *testing.T, _ *Config, c *config.Cluster) { c.FrontDoor.Host = "127.0.0.2" }, status.Down, status.CodeFrontDoor},
		"etcd":       {func(_ *testing.T, cfg *Config, _ *config.Cluster) { cfg.Etcd = nil }, status.Down, status.CodeEtcdNoQuorum},
		"all the keys": {func(t *testing.T, cfg *Config, _ *config.Cluster) {
			cfg.Layout = layout.Layout{Root: t.TempDir()}
			cfg.Etcd = nil
		}, status.Degraded, status.CodeEtcdUnknown},
		"everything": {func(_ *testing.T, cfg *Config, c *config.Cluster) {
			cfg.Node, cfg.Etcd, c.APIServer.Port, c.FrontDoor.Port = dead, nil, 1, 1
		}, status.Down, status.CodeNothingAnswers},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, cl := world(t)
			c.change(t, &cfg, cl)
			r := report(t, cfg)
			if r.Verdict != c.verdict || len(r.Reasons) == 0 || r.Reasons[0].Code != c.code {
				t.Errorf("%s: %+v\nwant %s because of %s", r.Verdict, r.Reasons, c.verdict, c.code)
			}
			if (name == "everything") == r.Answered {
				t.Errorf("answered %v", r.Answered)
			}
		})
	}
}

func TestFrontDoor(t *testing.T) {
	cfg, c := world(t)
	cfg.FrontDoor = net.JoinHostPort("127.0.0.1", "0")
	c.FrontDoor.Host = "127.204.1.1"
	if r := report(t, cfg); r.FrontDoor.Address != "127.0.0.1:0" {
		t.Errorf("the given front door is not asked: %+v", r.FrontDoor)
	}
	cfg.FrontDoor = ""
	if r := report(t, cfg); r.FrontDoor.Serving != status.Yes {
		t.Errorf("the configured front door: %+v", r.FrontDoor)
	}
}

// Every question waits at the same time, so that all of them hanging take no
// longer than one.
func TestReportInTime(t *testing.T) {
	cfg, c := world(t)
	synctest.Test(t, func(t *testing.T) {
		wait := func(ctx context.Context) { <-ctx.Done() }
		cfg.Cluster = cluster()
		cfg.Cluster.Masters = append(cfg.Cluster.Masters, c.Masters...)
		cfg.Node = func(ctx context.Context, _ config.Master) (*status.Node, error) { wait(ctx); return nil, ctx.Err() }
		cfg.Etcd = func(ctx context.Context) (status.Etcd, []status.Singleton) { wait(ctx); return status.Etcd{}, nil }
		cfg.Layout = layout.Layout{Root: "/none"} // no CA: nothing is dialled within the bubble
		began := time.Now()
		col, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		col.Report(t.Context())
		if took := time.Since(began); took > Timeout {
			t.Errorf("took %v", took) // the bubble's clock
		}
	})
}

func TestNew(t *testing.T) {
	_, err := New(Config{})
	if err == nil || !strings.Contains(err.Error(), "Cluster") || !strings.Contains(err.Error(), "Node") {
		t.Errorf("New = %v, want both faults", err)
	}
	if _, err := New(Config{Cluster: &config.Cluster{}, Node: dead}); err == nil || !strings.Contains(err.Error(), "names no masters") {
		t.Errorf("New without masters = %v", err)
	}
}
