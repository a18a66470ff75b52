package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hactl/hactl/internal/api"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/status"
)

// agentOf serves the real API with what a fake agent tells, over the network
// and at its socket, and returns its port.
func agentOf(t *testing.T, l layout.Layout, address string) int {
	t.Helper()
	conf, err := api.ServerTLS(l)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := api.New(api.Config{Listener: ln, TLS: conf, Node: func(context.Context) (*status.Node, error) {
		return &status.Node{
			Name: "m1", Version: "v9", Processes: []status.Process{{Name: "hactl-etcd", Active: "failed", LastExit: "signal: killed"}},
			Balancer: &status.LocalLB{Backends: []status.Backend{}}, Certificates: []status.Certificate{},
		}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// masterRoot is the folder of master m1, where nothing runs.
func masterRoot(t *testing.T, address string) layout.Layout {
	t.Helper()
	l := layout.Layout{Root: t.TempDir()}
	if err := l.MkdirAll(); err != nil {
		t.Fatal(err)
	}
	store, err := pki.New(pki.Config{Dir: l.PKI(), Cluster: "prod"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.EnsureCAs(); err != nil {
		t.Fatal(err)
	}
	if _, err := store.EnsureLeaves(pki.Leaves{Self: pki.Master{Name: "m1", Address: address}, ServiceIP: "10.96.0.1"}); err != nil {
		t.Fatal(err)
	}
	return l
}

func writeConfig(t *testing.T, l layout.Layout, address string, agentPort int) {
	t.Helper()
	c := config.Default()
	c.Name, c.Masters = "prod", []config.Master{{Name: "m1", Address: address}}
	if agentPort > 0 {
		c.Agent.Port = agentPort
	}
	data, err := config.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.ConfigFile(), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// run is hactl with the given arguments.
func run(ctx context.Context, args ...string) (stdout string, err error) {
	var out, talk bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &talk, getenv: os.Getenv}
	err = newApp(e).RunContext(ctx, append([]string{"hactl"}, args...))
	return out.String(), err
}

// An agent answers though everything else is down: the cluster is down, but not
// out of reach.
func TestStatusAsksTheAgent(t *testing.T) {
	const address = "127.203.4.1" // nothing else listens there
	l := masterRoot(t, address)
	writeConfig(t, l, address, agentOf(t, l, address))
	out, err := run(t.Context(), "status", "--root", l.Root, "-o", "json")
	if code := exitcode.Of(err); code != exitcode.Unhealthy {
		t.Errorf("exit code %d: %v", code, err)
	}
	if err.Error() != "" {
		t.Errorf("talk beside the report: %q", err)
	}
	var r status.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if r.Verdict != status.Down || !r.Answered || len(r.Masters) != 1 || r.Etcd.Quorum != status.No {
		t.Errorf("%+v", r)
	}
	if m := r.Masters[0]; !m.Agent.Reachable || m.Agent.Version != "v9" || m.ProcessesFrom != "agent" || m.Processes[0].LastExit != "signal: killed" {
		t.Errorf("%+v", m)
	}
}

// Without its agent, a master's own files and sockets are asked.
func TestStatusWithoutTheAgent(t *testing.T) {
	const address = "127.203.4.2"
	l := masterRoot(t, address)
	writeConfig(t, l, address, 0)
	out, err := run(t.Context(), "status", "--root", l.Root, "-o", "json", "--front-door", address+":7443")
	var e *exitcode.Error
	if !errors.As(err, &e) || e.Code != exitcode.Unreachable || !strings.Contains(e.Error(), "nothing of cluster prod") || e.Hint == "" {
		t.Errorf("error %v", err)
	}
	var r status.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if r.Answered || r.Reasons[0].Code != status.CodeNothingAnswers || r.FrontDoor.Address != address+":7443" {
		t.Errorf("%+v", r)
	}
	if m := r.Masters[0]; m.Agent.Reachable || len(m.Certificates) < 9 || m.ProcessesFrom != "" {
		t.Errorf("%+v", m)
	}
	if len(r.Unknown) != 2 { // processes and balancer
		t.Errorf("unknown: %+v", r.Unknown)
	}
}

func TestStatusInterrupted(t *testing.T) {
	l := masterRoot(t, "127.203.4.3")
	writeConfig(t, l, "127.203.4.3", 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out, err := run(ctx, "status", "--root", l.Root)
	if !errors.Is(err, context.Canceled) || out != "" {
		t.Errorf("%v, printed %q", err, out)
	}
	if out, err := run(ctx, "status", "--root", l.Root, "--watch"); err != nil || out != "" {
		t.Errorf("--watch: %v, printed %q", err, out)
	}
}

// watch runs watchStatus over the given reports and stops it after the last.
func watch(t *testing.T, output string, reports ...*status.Report) string {
	t.Helper()
	var out bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	next := func(context.Context) *status.Report {
		if n == len(reports) {
			cancel()
			return &status.Report{}
		}
		n++
		status.Judge(reports[n-1])
		return reports[n-1]
	}
	if err := watchStatus(ctx, &env{stdout: &out}, statusOptions{output: output}, next); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestWatchPrintsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := func(s int, leader string) *status.Report {
			return &status.Report{Cluster: "prod", Time: time.Date(2026, 11, 22, 15, 0, s, 0, time.UTC), Etcd: status.Etcd{Leader: leader}}
		}
		stream := []*status.Report{at(0, "m1"), at(1, "m1"), at(2, "m1"), at(3, "m2"), at(4, "m2"), at(5, "m1")}

		began := time.Now()
		table := watch(t, status.FormatTable, stream...)
		if took := time.Since(began); took != 6*time.Second {
			t.Errorf("six reports and their pauses took %v", took) // the bubble's clock
		}
		for _, when := range []string{"15:00:00", "15:00:03", "15:00:05"} {
			if strings.Count(table, when) != 1 {
				t.Errorf("the report of %s is not there once:\n%s", when, table)
			}
		}
		if n := strings.Count(table, "prod is"); n != 3 {
			t.Errorf("%d reports, want 3:\n%s", n, table)
		}

		lines := strings.Split(strings.TrimSpace(watch(t, status.FormatJSON, stream...)), "\n")
		if len(lines) != 3 {
			t.Fatalf("%d lines of JSON, want 3", len(lines))
		}
		for _, line := range lines {
			var r status.Report
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Errorf("%v in %s", err, line)
			}
		}
		if docs := strings.Count("\n"+watch(t, status.FormatYAML, stream...), "\n---\n"); docs != 3 {
			t.Errorf("%d documents of YAML, want 3", docs)
		}
	})
}

func TestWatchEndsWhenItCannotWrite(t *testing.T) {
	closed, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	err = watchStatus(t.Context(), &env{stdout: closed}, statusOptions{output: "yaml"}, func(context.Context) *status.Report { return &status.Report{} })
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestStatusExitCodes(t *testing.T) {
	for _, c := range []struct {
		r    status.Report
		code int
	}{
		{status.Report{Verdict: status.Healthy, Answered: true}, exitcode.OK},
		{status.Report{Verdict: status.Healthy, Answered: true, Reasons: []status.Reason{{Level: status.Warning}}}, exitcode.OK},
		{status.Report{Verdict: status.Degraded, Answered: true}, exitcode.Unhealthy},
		{status.Report{Verdict: status.Down, Answered: true}, exitcode.Unhealthy},
		{status.Report{Verdict: status.Down}, exitcode.Unreachable},
	} {
		if got := exitcode.Of(statusError(&c.r)); got != c.code {
			t.Errorf("%s, answered %v: exit code %d, want %d", c.r.Verdict, c.r.Answered, got, c.code)
		}
	}
}
