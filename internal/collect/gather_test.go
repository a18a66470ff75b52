package collect

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/workload"
)

func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		n := Gather(t.Context(), Sources{
			Name: "m1", Address: "10.0.0.1", Version: "v1",
			Processes:    func(context.Context) ([]status.Process, error) { return []status.Process{{Name: "a"}}, nil },
			Balancer:     func(context.Context) (*status.LocalLB, error) { return nil, syscall.ECONNREFUSED },
			Certificates: func(context.Context) ([]status.Certificate, error) { <-release; return nil, nil }, // ignores its context
			Peers:        func(ctx context.Context) ([]status.Peer, error) { <-ctx.Done(); return nil, ctx.Err() },
		})
		close(release)
		if n.Name != "m1" || n.Address != "10.0.0.1" || n.Version != "v1" || len(n.Processes) != 1 || n.Time.IsZero() {
			t.Errorf("Gather = %+v", n)
		}
		want := map[string]string{
			SectionBalancer: "connection refused", SectionCertificates: "no answer in time", SectionPeers: "no answer in time",
		}
		for section, why := range want {
			if n.Errors[section] != why {
				t.Errorf("Errors[%s] = %q, want %q", section, n.Errors[section], why)
			}
		}
		if len(n.Errors) != len(want) {
			t.Errorf("Errors = %v", n.Errors)
		}
	})
}

// A list that is empty is not one that was not told.
func TestGatherOfNothing(t *testing.T) {
	n := Gather(t.Context(), Sources{
		Processes: func(context.Context) ([]status.Process, error) { return nil, nil },
		Peers:     func(context.Context) ([]status.Peer, error) { return nil, nil },
	})
	if n.Processes == nil || n.Peers == nil || n.Certificates != nil || n.Errors != nil {
		t.Errorf("%+v", n)
	}
}

func TestMissing(t *testing.T) {
	all := &status.Node{Processes: []status.Process{}, Balancer: &status.LocalLB{}, Certificates: []status.Certificate{}}
	if got := missing(all); len(got) != 0 {
		t.Errorf("of a full node: %v", got)
	}
	got := missing(&status.Node{Processes: []status.Process{}, Errors: map[string]string{"balancer": "x", "watchdog": "y"}})
	u := unknowns("m1", got)
	want := []status.Unknown{
		{Object: "m1", What: "balancer's backends", Why: "x"},
		{Object: "m1", What: "certificates", Why: "not told"},
		{Object: "m1", What: "watchdog", Why: "y"},
	}
	if len(u) != len(want) {
		t.Fatalf("unknown: %v", u)
	}
	for i := range want {
		if u[i] != want[i] {
			t.Errorf("unknown[%d] = %v, want %v", i, u[i], want[i])
		}
	}
}

type manager struct {
	workload.Manager
	units []workload.State
	err   error
}

func (m manager) Units(context.Context) ([]workload.State, error) { return m.units, m.err }

func TestProcesses(t *testing.T) {
	got, err := Processes(manager{units: []workload.State{{Name: "hactl-lb", Active: workload.Failed, Restarts: 3, LastExit: "signal: killed"}}})(t.Context())
	if err != nil || len(got) != 1 || got[0] != (status.Process{Name: "hactl-lb", Active: "failed", Restarts: 3, LastExit: "signal: killed"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Processes(manager{err: errDown})(t.Context()); !errors.Is(err, errDown) {
		t.Errorf("%v", err)
	}
}
