package collect

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/lb"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/child"
)

// background runs a daemon for the length of the test.
func background(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A real supervisor is read through its socket, without any agent.
func TestLocalProcesses(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	s, err := child.New(child.Config{
		Units: []workload.Unit{
			{Name: "hactl-lb", Exec: []string{"/bin/sleep", "1000"}},
			{Name: "hactl-etcd", Exec: []string{"/bin/false"}},
		},
		Socket: l.SupervisorSocket(), NotifySocket: l.NotifySocket(),
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, s.Run)
	testwait.For(t, "the processes' states", 30*time.Second, func() error {
		ps, err := Local{Layout: l}.Processes(t.Context())
		if err != nil {
			return err
		}
		byName := map[string]status.Process{}
		for _, p := range ps {
			byName[p.Name] = p
		}
		sleeper, failer := byName["hactl-lb"], byName["hactl-etcd"]
		if len(ps) != 2 || sleeper.Active != "active" || sleeper.MainPID == 0 || sleeper.Since.IsZero() {
			return fmt.Errorf("%+v", ps)
		}
		if failer.LastExit != "exit status 1" || failer.Restarts == 0 {
			return fmt.Errorf("%+v", failer)
		}
		return nil
	})
}

// A real balancer is read through its admin socket: who is ready, who is
// drained, who does not answer.
func TestLocalBalancer(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	open := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		return ln
	}
	front, err := open().(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	backends := []lb.Backend{
		{Name: "m1", Address: open().Addr().String()},
		{Name: "m2", Address: open().Addr().String()},
		{Name: "m3", Address: "127.0.0.1:1"},
	}
	b, err := lb.New(lb.Config{
		Listeners: []*os.File{front}, Source: lb.Static(backends),
		Check: lb.Check{Kind: lb.CheckTCP, Every: 20 * time.Millisecond, Timeout: 400 * time.Millisecond}, AdminSocket: l.LBAdminSocket(), Name: "m1",
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, b.Run)
	testwait.For(t, "the balancer to drain m2", 30*time.Second, func() error {
		return lb.NewClient(l.LBAdminSocket()).Drain(t.Context(), "m2")
	})
	testwait.For(t, "the backends' states", 30*time.Second, func() error {
		got, err := Local{Layout: l}.Balancer(t.Context())
		if err != nil {
			return err
		}
		k := got.Backends
		if len(k) != 3 || k[0].State != status.BackendReady || k[0].Why != "" || k[1].State != status.BackendDrained || k[1].Why == "" {
			return fmt.Errorf("%+v", k)
		}
		if k[2].State == status.BackendReady || k[2].Why == "" || k[2].Name != "m3" || k[2].Address != "127.0.0.1:1" {
			return fmt.Errorf("%+v", k)
		}
		return nil
	})
}
