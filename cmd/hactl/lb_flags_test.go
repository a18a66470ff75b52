package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/lb"
	"github.com/hactl/hactl/internal/lb/pool"
	"github.com/hactl/hactl/internal/testwait"
)

// writeTestPair writes some certificate and its key.
func writeTestPair(t *testing.T, cert, key string) {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	pair := s.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// writeTestCA writes some CA's certificate.
func writeTestCA(t *testing.T, path string) {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// configuredLB is what `hactl lb run ARGS…` would run with.
func configuredLB(t *testing.T, args ...string) (*lbProcess, error) {
	t.Helper()
	e := &env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, getenv: os.Getenv}
	p := &lbProcess{}
	cmd := lbRunCommand(e)
	cmd.Action = func(c *cli.Context) error { return p.configure(c) }
	app := &cli.App{Commands: []*cli.Command{cmd}, Writer: io.Discard, ErrWriter: io.Discard, ExitErrHandler: func(*cli.Context, error) {}}
	err := app.RunContext(t.Context(), append([]string{"hactl", "run"}, args...))
	t.Cleanup(func() {
		for _, f := range p.cfg.Listeners {
			_ = f.Close()
		}
		if p.metrics != nil {
			_ = p.metrics.Close()
		}
		p.close()
	})
	return p, err
}

// Every flag of `lb run` ends where it should.
func TestLBRunFlags(t *testing.T) {
	dir := t.TempDir()
	front := func(n string) string { return "unix:" + filepath.Join(dir, n) }
	ca := filepath.Join(dir, "ca.crt")
	writeTestCA(t, ca)
	list := filepath.Join(dir, "list")
	if err := os.WriteFile(list, []byte("10.0.0.9:1,weight=3,zone=z\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cert, key, token := filepath.Join(dir, "probe.crt"), filepath.Join(dir, "probe.key"), filepath.Join(dir, "token")
	writeTestPair(t, cert, key)
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	backends := func(c lb.Config) any {
		got, err := c.Source(false)
		if err != nil {
			return err
		}
		return got
	}
	for i, tc := range []struct {
		args string // beside one --listen, one --backend and --check tcp, where they do not say so
		get  func(lb.Config) any
		want any
	}{
		{"", func(c lb.Config) any {
			return []any{c.Check.Every, c.Check.Timeout, c.Check.Rise, c.Check.Fall, string(c.Algorithm), c.Data.HelloTimeout,
				c.Data.ReplayAfter, c.Data.DeadAfter, c.Rebalance, c.SlowStart, c.DrainTimeout, c.ReplayPlain}
		}, []any{500 * time.Millisecond, time.Second, 1, 2, "least-conn", 5 * time.Second,
			300 * time.Millisecond, 5 * time.Second, 0.0, 10 * time.Second, 10 * time.Second, false}},
		{"--listen LISTEN2", func(c lb.Config) any { return len(c.Listeners) }, 2},
		{"--backend 10.0.0.2:1,name=b,weight=7,zone=z", backends, []lb.Backend{
			{Name: "a", Address: "10.0.0.1:1", Weight: 1}, {Name: "b", Address: "10.0.0.2:1", Weight: 7, Zone: "z"},
		}},
		{"--backends-file " + list, backends, []lb.Backend{{Name: "10.0.0.9:1", Address: "10.0.0.9:1", Weight: 3, Zone: "z"}}},
		{"--check https --ca-file " + ca, func(c lb.Config) any { return []any{c.Check.Kind, c.Check.Path, c.Check.Name, c.Check.Roots != nil} },
			[]any{lb.CheckHTTPS, "/readyz", "kubernetes", true}},
		{"--check https --ca-file " + ca, func(c lb.Config) any { return []any{c.Check.Certificate == nil, c.Check.Token == nil} }, []any{true, true}},
		{"--check https --ca-file " + ca + " --check-cert-file " + cert + " --check-key-file " + key,
			func(c lb.Config) any { return []any{len(c.Check.Certificate().Certificate), c.Check.Token == nil} }, []any{1, true}},
		{"--check https --ca-file " + ca + " --check-token-file " + token,
			func(c lb.Config) any { return []any{c.Check.Certificate == nil, c.Check.Token()} }, []any{true, "secret"}},
		{"--check tcp", func(c lb.Config) any { return c.Check.Kind }, lb.CheckTCP},
		{"--check none", func(c lb.Config) any { return c.Check.Kind }, lb.CheckNone},
		{"--check-path /livez", func(c lb.Config) any { return c.Check.Path }, "/livez"},
		{"--check-name api.example", func(c lb.Config) any { return c.Check.Name }, "api.example"},
		{"--check-interval 2s", func(c lb.Config) any { return c.Check.Every }, 2 * time.Second},
		{"--check-timeout 3s", func(c lb.Config) any { return c.Check.Timeout }, 3 * time.Second},
		{"--rise 4", func(c lb.Config) any { return c.Check.Rise }, 4},
		{"--fall 5", func(c lb.Config) any { return c.Check.Fall }, 5},
		{"--algorithm round-robin", func(c lb.Config) any { return c.Algorithm }, pool.RoundRobin},
		{"--algorithm random2", func(c lb.Config) any { return c.Algorithm }, pool.Random2},
		{"--algorithm local-first --zone z9", func(c lb.Config) any { return []any{c.Algorithm, c.Zone} }, []any{pool.LocalFirst, "z9"}},
		{"--max-conns 77", func(c lb.Config) any { return c.Data.MaxConns }, 77},
		{"--max-conns-per-client 8", func(c lb.Config) any { return c.Data.MaxConnsPerClient }, 8},
		{"--hello-timeout 9s", func(c lb.Config) any { return c.Data.HelloTimeout }, 9 * time.Second},
		{"--replay-after 20ms", func(c lb.Config) any { return c.Data.ReplayAfter }, 20 * time.Millisecond},
		{"--replay-plain", func(c lb.Config) any { return c.ReplayPlain }, true},
		{"--dead-after 11s", func(c lb.Config) any { return c.Data.DeadAfter }, 11 * time.Second},
		{"--rebalance 2%/s", func(c lb.Config) any { return c.Rebalance }, 0.02},
		{"--rebalance 0", func(c lb.Config) any { return c.Rebalance }, -1.0},
		{"--slow-start 12s", func(c lb.Config) any { return c.SlowStart }, 12 * time.Second},
		{"--drain-timeout 13s", func(c lb.Config) any { return c.DrainTimeout }, 13 * time.Second},
		{"--loops 3", func(c lb.Config) any { return c.Data.Loops }, 3},
		{"--admin unix:/x/y.sock", func(c lb.Config) any { return c.AdminSocket }, "/x/y.sock"},
		{"--name me", func(c lb.Config) any { return c.Name }, "me"},
		{"--root /elsewhere", func(c lb.Config) any { return []any{c.AdminSocket, c.StateFile} }, []any{"/elsewhere/run/hactl/lb.sock", "/elsewhere/var/lib/hactl/lb/drained.json"}},
		{"--root /elsewhere --backends-file " + list, func(c lb.Config) any { return c.StateFile }, "/elsewhere/var/lib/hactl/lb/backends.json"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			args := strings.Fields(strings.ReplaceAll(tc.args, "LISTEN2", front(fmt.Sprint(i, "b"))))
			args = append(args, "--listen", front(fmt.Sprint(i)))
			if !strings.Contains(tc.args, "--backends-file") {
				args = append([]string{"--backend", "10.0.0.1:1,name=a"}, args...)
			}
			if !strings.Contains(tc.args, "--check ") {
				args = append(args, "--check", "tcp")
			}
			p, err := configuredLB(t, args...)
			if err != nil {
				t.Fatal(err)
			}
			if got := tc.get(p.cfg); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// lbStatus asks the balancer under dir.
func lbStatus(t *testing.T, dir string) (s lb.Status, err error) {
	t.Helper()
	out, _, err := hactlLB(t.Context(), "status", "--root", dir, "-o", "json")
	if out != "" {
		err = json.Unmarshal([]byte(out), &s)
	}
	return s, err
}

// SIGHUP reads the list anew, even where the file looks as it did; a bad one is
// refused with its line, and the old list stays. Nobody is cut.
func TestLBReadsItsListOnSIGHUP(t *testing.T) {
	held := make(chan os.Signal, 16) // or the signal would end the test
	signal.Notify(held, syscall.SIGHUP)
	defer signal.Stop(held)
	dir := t.TempDir()
	file, front := filepath.Join(dir, "list"), filepath.Join(dir, "front.sock")
	past := time.Now().Add(-time.Hour)
	write := func(content string) { // so that its time, size and inode stay
		t.Helper()
		f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, err = f.WriteAt([]byte(content+strings.Repeat("#", 200-len(content)-1)+"\n"), 0)
		if err := errors.Join(err, os.Chtimes(file, past, past)); err != nil {
			t.Fatal(err)
		}
	}
	hangUp := func(what string, ok func(lb.Status) bool) {
		t.Helper()
		testwait.For(t, what, 20*time.Second, func() error {
			if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
				return err
			}
			s, err := lbStatus(t, dir)
			if err == nil && !ok(s) {
				err = fmt.Errorf("%+v", s)
			}
			return err
		})
	}
	listed := func(name string) func(lb.Status) bool {
		return func(s lb.Status) bool {
			for _, b := range s.Backends {
				if b.Name == name && !b.Removed && b.State == pool.Ready {
					return s.ListErr == ""
				}
			}
			return false
		}
	}
	line := func(name string) string { return namedServer(t, name) + ":6444,name=" + name + "\n" }
	m1, m2, m3 := line("m1"), line("m2"), line("m3")
	write(m1)
	startLB(t, dir, "--backends-file", file, "--check", "tcp", "--listen", "unix:"+front, "--slow-start", "-1s", "--drain-timeout", "1h")
	testwait.For(t, "m1 to be ready", 20*time.Second, func() error {
		s, err := lbStatus(t, dir)
		if err == nil && !listed("m1")(s) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	old := dialFront(t, front)

	write(m2)
	hangUp("m2 to be in the list", listed("m2"))
	if c := dialFront(t, front); c.master != "m2" {
		t.Errorf("a new connection leads to %s", c.master)
	}
	old.lives(t)

	write("# a remark\n" + strings.Replace(m3, ":6444", ":nonsense", 1))
	hangUp("the bad list to be refused", func(s lb.Status) bool {
		return strings.Contains(s.ListErr, "line 2") && strings.Contains(s.ListErr, "nonsense") && s.ListFrom == "source"
	})
	if c := dialFront(t, front); c.master != "m2" {
		t.Errorf("with a bad list a new connection leads to %s", c.master)
	}
	old.lives(t)

	write(m3)
	hangUp("m3 to be in the list", listed("m3"))
	old.lives(t)
}

// Metrics, liveness and readiness are served on a loopback address.
func TestLBServesMetricsAndHealth(t *testing.T) {
	dir := t.TempDir()
	addr := net.JoinHostPort(etcdtest.Address(t), "9445")
	get := func(path string) (code int, body string) {
		t.Helper()
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(data)
	}
	backend := namedServer(t, "m1") + ":6444"
	front := filepath.Join(dir, "front.sock")
	startLB(t, dir, "--backend", backend+",name=m1", "--check", "tcp", "--listen", "unix:"+front, "--listen-metrics", addr)
	testwait.For(t, "it to be ready", 20*time.Second, func() error {
		if code, body := get("/readyz"); code != http.StatusOK {
			return errors.New(body)
		}
		return nil
	})
	if code, body := get("/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d %s", code, body)
	}
	dialFront(t, front)
	testwait.For(t, "the connection in the metrics", 20*time.Second, func() error {
		_, body := get("/metrics")
		for _, want := range []string{
			"hactl_lb_accepted_total 1\n", "hactl_lb_connections 1\n",
			`hactl_lb_backend_usable{address="` + backend + `",backend="m1"} 1`, "go_gc_duration_seconds",
		} {
			if !strings.Contains(body, want) {
				return fmt.Errorf("%q is missing in\n%s", want, body)
			}
		}
		return nil
	})
	if _, _, err := hactlLB(t.Context(), "drain", "--force", "--root", dir, "m1"); err != nil {
		t.Fatal(err)
	}
	if code, body := get("/readyz"); code == http.StatusOK {
		t.Errorf("/readyz with nothing usable: %d %s", code, body)
	}
}
