//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/testwait"
)

// report is the part of `status -o json` that the tests read. It is written out
// here so that a change of the contract fails a test.
type report struct {
	Verdict string
	Reasons []reason
	Unknown []struct{ Object, What, Why string }
	Etcd    struct {
		Quorum  string
		Leader  string
		Members []struct{ Name, Role string }
	}
	Singletons []struct {
		Name, Holder string
		Token        int64
		Waiting      []string
	}
	Masters []struct {
		Name      string
		Processes []struct {
			Name, Active string
			Restarts     int
		}
	}
}

type reason struct{ Level, Code, Object, Text, Hint string }

// status asks for the report, whatever it says.
func (c *cluster) status(tb testing.TB) (report, result) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	r := c.run(ctx, "dev", "status", "-o", "json")
	var rep report
	if err := json.Unmarshal([]byte(r.stdout), &rep); err != nil {
		tb.Fatalf("status -o json: %v\n%v", err, r)
	}
	return rep, r
}

// holder returns the master that runs a singleton.
func (c *cluster) holder(tb testing.TB, singleton string) string {
	tb.Helper()
	rep, r := c.status(tb)
	for _, s := range rep.Singletons {
		if s.Name == singleton && s.Holder != "" {
			return s.Holder
		}
	}
	tb.Fatalf("nobody holds %s: %v", singleton, r)
	return ""
}

// statusTells breaks one thing after another and waits until status names it.
func (c *cluster) statusTells(t *testing.T) {
	states := []struct {
		name    string
		do      [][]string
		verdict string
		code    int
		reason  string // code of a reason
		object  string // contained in its object
		undo    [][]string
	}{
		{name: "all is well", verdict: "healthy", code: 0},
		{
			name: "an API server is frozen", do: [][]string{{"pause", "m2", "kube-apiserver"}},
			verdict: "degraded", code: 4, reason: "apiserver-not-ready", object: "m2",
			undo: [][]string{{"resume", "m2", "kube-apiserver"}},
		},
		{
			name: "a member is frozen", do: [][]string{{"pause", "m3", "etcd"}},
			verdict: "degraded", code: 4, reason: "etcd-unreachable", object: "m3",
			undo: [][]string{{"resume", "m3", "etcd"}},
		},
		{
			name: "an agent is frozen", do: [][]string{{"pause", "m1", "agent"}},
			verdict: "degraded", code: 4, reason: "agent-unreachable", object: "m1",
			undo: [][]string{{"resume", "m1", "agent"}},
		},
		{
			name: "a master is stopped", do: [][]string{{"stop", "m2"}},
			verdict: "degraded", code: 4, reason: "master-unreachable", object: "m2",
			undo: [][]string{{"start", "m2"}},
		},
		{
			name: "two masters are stopped: no quorum", do: [][]string{{"stop", "m1"}, {"stop", "m3"}},
			verdict: "down", code: 4, reason: "etcd-no-quorum", object: "etcd",
			undo: [][]string{{"start", "m1"}, {"start", "m3"}},
		},
		{
			name: "everything is stopped", do: [][]string{{"down"}},
			verdict: "down", code: 5, reason: "nothing-answers",
			undo: [][]string{{"up"}},
		},
	}
	for _, s := range states {
		t.Run(s.name, func(t *testing.T) {
			for _, args := range s.do {
				c.must(t, append([]string{"dev"}, args...)...)
			}
			began := time.Now()
			testwait.For(t, "status to tell", 20*time.Second, func() error {
				rep, r := c.status(t)
				if rep.Verdict != s.verdict || r.code != s.code {
					return fmt.Errorf("verdict %s, exit %d, want %s, %d: %+v", rep.Verdict, r.code, s.verdict, s.code, rep.Reasons)
				}
				if s.reason == "" {
					return nil
				}
				for _, reason := range rep.Reasons {
					if reason.Code == s.reason && strings.Contains(reason.Object, s.object) {
						return nil
					}
				}
				return fmt.Errorf("no reason %s about %s: %+v", s.reason, s.object, rep.Reasons)
			})
			t.Logf("told after %v", time.Since(began).Round(10*time.Millisecond))
			for _, args := range s.undo {
				c.must(t, append([]string{"dev"}, args...)...)
			}
			c.waitHealthy(t)
		})
	}
}
