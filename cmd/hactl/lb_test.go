package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/lb"
	"github.com/hactl/hactl/internal/lb/pool"
	"github.com/hactl/hactl/internal/testwait"
)

// hactlLB runs `hactl lb ARGS…` in this process.
func hactlLB(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	var out, talk bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &talk, getenv: os.Getenv}
	err = newApp(e).RunContext(ctx, append([]string{"hactl", "lb"}, args...))
	return out.String(), talk.String(), err
}

// firstWrite tells when something was written to it.
type firstWrite struct {
	once sync.Once
	at   chan struct{}
}

func (w *firstWrite) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.at) })
	return len(p), nil
}

func TestLBRunStatusDrain(t *testing.T) {
	dir := t.TempDir()
	backend := filepath.Join(dir, "b.sock")
	ln, err := net.Listen("unix", backend)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	defer func() { _ = ln.Close(); <-served }()

	front := filepath.Join(dir, "front.sock")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	// The library keeps its --help flag in a global: two commands in one process
	// must not read their flags at the same time.
	spoke := &firstWrite{at: make(chan struct{})}
	go func() {
		e := &env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: spoke, getenv: os.Getenv}
		done <- newApp(e).RunContext(ctx, []string{"hactl", "lb", "run", "--root", dir, "--name", "front", "--check", "tcp", "--listen", "unix:" + front,
			"--backend", "unix:" + backend + ",name=a", "--drain-timeout", "1s", "--loops", "1"})
	}()
	<-spoke.at
	var s lb.Status
	testwait.For(t, "the backend to be ready", 20*time.Second, func() error {
		out, _, err := hactlLB(ctx, "status", "--root", dir, "-o", "json")
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(out), &s)
	})
	if s.Name != "front" || len(s.Backends) != 1 || s.Backends[0].State != pool.Ready || !s.Backends[0].Usable {
		t.Errorf("status: %+v", s)
	}
	c, err := net.Dial("unix", front)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "hello")
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	_, _, err = hactlLB(ctx, "drain", "--root", dir, "a")
	var refused *exitcode.Error
	if !errors.As(err, &refused) || refused.Code != exitcode.Refused || !strings.Contains(refused.Hint, "hactl lb status --root "+dir) {
		t.Errorf("drain of the last one: %#v", err)
	}
	_, talk, err := hactlLB(ctx, "drain", "--force", "--root", dir, "a")
	if want := "a: drained, gets nothing new, 1 connection left; no other backend is usable\n"; err != nil || talk != want {
		t.Errorf("drain --force: %v, %q, want %q", err, talk, want)
	}
	out, _, err := hactlLB(ctx, "status", "--root", dir)
	if exitcode.Of(err) != exitcode.Unhealthy || !strings.Contains(out, "drained by an operator") || !strings.Contains(out, "not ready") {
		t.Errorf("drained: %v\n%s", err, out)
	}
	_, talk, err = hactlLB(ctx, "drain", "--wait", "--timeout", "300ms", "--root", dir, "a")
	if exitcode.Of(err) != exitcode.TimedOut || !strings.Contains(talk, "\na: 1 connection left\n") || !strings.Contains(err.Error(), "1 connection after") {
		t.Errorf("drain --wait: %v %q", err, talk)
	}
	if !errors.As(err, &refused) || refused.Hint != "hactl lb undrain --root "+dir+" a" {
		t.Errorf("drain --wait: try %q", refused.Hint)
	}
	_ = c.Close()
	if _, _, err := hactlLB(ctx, "drain", "--wait", "--root", dir, "a"); err != nil {
		t.Error(err)
	}
	if _, _, err := hactlLB(ctx, "undrain", "--root", dir, "nobody"); exitcode.Of(err) != exitcode.Usage || !errors.Is(err, lb.ErrNoBackend) {
		t.Errorf("undrain of nobody: %v", err)
	}
	if _, talk, err := hactlLB(ctx, "undrain", "--root", dir, "a"); err != nil || talk != "a: no longer drained, gets new connections\n" {
		t.Errorf("undrain: %v, %q", err, talk)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// sampleLBStatus is a status with something of everything.
func sampleLBStatus(now time.Time) lb.Status {
	return lb.Status{
		Name: "m1", Started: now.Add(-50 * time.Hour), Listen: []string{"10.0.0.1:6443"}, Ready: true, Check: "https", ListFrom: "disk",
		Unresolved: []lb.UnresolvedBackend{
			{Name: "m4", Address: "m4.example:6444", Err: "no such host"}, {Name: "m5", Address: "m5.example:6444", Addresses: 2, Err: "timeout"},
		},
		ListErr: "line 2: address \"x\"\nline 3: weight \"y\"", FilesErr: "read the CA: no certificate in ca.crt", MaxConns: 9744,
		Backends: []lb.BackendStatus{
			{Name: "m1", Address: "10.0.0.1:6444", State: pool.Ready, Why: "says 200", Since: now.Add(-90 * time.Minute), Connections: 12, Total: 340, BytesUp: 1536, BytesDown: 5 << 30, Probe: lb.Probe{TookMS: 3.14}},
			{Name: "m2", Address: "10.0.0.2:6444", State: pool.Ejected, Why: "no answer in time", Since: now.Add(-3 * time.Second), Failed: 2, Replayed: 7},
			{Name: "m3", Address: "10.0.0.3:6444", State: pool.Ready, Drained: true},
		},
	}
}

// What scripts read is a contract.
func TestLBStatusJSON(t *testing.T) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(sampleLBStatus(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/lb-status.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("it differs from testdata/lb-status.json:\n%s", b.String())
	}
}

func TestPrintLBStatus(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	s := sampleLBStatus(now)
	var b bytes.Buffer
	if err := printLBStatus(&b, s, now); err != nil {
		t.Fatal(err)
	}
	want := `m1  ready  listens on 10.0.0.1:6443, check https, up 2d
connections 0 of 9744, accepted 0, retries 0, replays 0, shed 0
the list of backends is the one kept on disk
the newest list of backends is refused:
  line 2: address "x"
  line 3: weight "y"
backend m4 (m4.example:6444) cannot be looked up, it has no address and gets no connection: no such host
backend m5 (m5.example:6444) cannot be looked up, its last addresses (2) stay: timeout
a file of the checks turned bad, what it said before counts: read the CA: no certificate in ca.crt

BACKEND  ADDRESS        STATE    SINCE  CONNS  TOTAL  UP      DOWN    FAILED  REPLAYED  PROBE  WHY
m1       10.0.0.1:6444  ready    1h30m  12     340    1.5Ki   5.0Gi   0       0         3.1ms  says 200
m2       10.0.0.2:6444  ejected  3s     0      0      0B      0B      2       7         0.0ms  no answer in time
m3       10.0.0.3:6444  drained  -      0      0      0B      0B      0       0         0.0ms  -
`
	squeeze := func(s string) string {
		var out []string
		for line := range strings.Lines(s) {
			out = append(out, strings.Join(strings.Fields(line), " "))
		}
		return strings.Join(out, "\n")
	}
	if squeeze(b.String()) != squeeze(want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
