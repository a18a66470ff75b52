//go:build lab

package masters

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/test/hosts"
)

const (
	hactl   = "/opt/hactl/bin/hactl"
	kubectl = "/opt/hactl/kube/kubectl"
	// patience is how long anything may take here, on a busy machine. What it
	// takes is printed, not asserted.
	patience = 5 * time.Minute
)

// masters is a lab and what a user has prepared on its hosts.
type masters struct {
	*hosts.Lab
}

// up brings up n hosts with the programs and one token, and no configuration.
func up(t *testing.T, n int) *masters {
	t.Helper()
	return upWith(t, hosts.Config{Hosts: n})
}

// upWith is up with more than the programs.
func upWith(t *testing.T, cfg hosts.Config) *masters {
	t.Helper()
	bin, err := filepath.Abs(filepath.Join("..", "..", "bin"))
	if err != nil {
		t.Fatal(err)
	}
	kube, err := filepath.EvalSymlinks(filepath.Join(bin, "kube"))
	if err != nil {
		t.Fatalf("%v: run `make build kube` first", err)
	}
	cfg.Binds = append(cfg.Binds, hosts.Bind{Source: bin, Target: "/opt/hactl/bin"}, hosts.Bind{Source: kube, Target: "/opt/hactl/kube"})
	lab, err := hosts.Up(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := &masters{lab}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if t.Failed() {
			m.tellAll(t, ctx)
		}
		if err := lab.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := lab.Sealed(); err != nil {
		t.Fatal(err)
	}
	token := pki.NewToken(time.Now().Add(time.Hour))
	for _, h := range lab.Hosts() {
		m.write(t, h.Name(), "/etc/hactl/token", token+"\n", 0o600)
	}
	return m
}

// tellAll shows what the hosts' parts said last.
func (m *masters) tellAll(t *testing.T, ctx context.Context) {
	for _, h := range m.Hosts() {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		out, err := h.Exec(ctx, "sh", "-c", "systemctl list-units --no-pager --no-legend 'hactl*' 'kube*' 'podmaster*'; cat /var/lib/hactl/bootstrap.json; journalctl --no-pager -o short-precise -n 60 -u 'hactl*' -u kube-apiserver -u 'podmaster*' -u kubelet -u containerd")
		cancel()
		t.Logf("=== %s (%v)\n%s", h.Name(), err, out)
	}
}

func (m *masters) write(t *testing.T, host, path, text string, perm os.FileMode) {
	t.Helper()
	h, err := m.Named(host)
	if err == nil {
		err = h.WriteFile(t.Context(), path, []byte(text), perm)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// configure writes the configuration with the named masters to every host that
// is on.
func (m *masters) configure(t *testing.T, names ...string) {
	t.Helper()
	text := m.configText(t, names...)
	for _, h := range m.Hosts() {
		if s, err := h.Status(t.Context()); err != nil {
			t.Fatal(err)
		} else if s.State == hosts.On {
			m.write(t, h.Name(), "/etc/hactl/cluster.yaml", text, 0o644)
		}
	}
}

func (m *masters) configText(t *testing.T, names ...string) string {
	t.Helper()
	text := "apiVersion: hactl/v1alpha1\nkind: Cluster\nname: prod\nmasters:\n"
	for _, n := range names {
		h, err := m.Named(n)
		if err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("  - {name: %s, address: %s}\n", n, h.Address())
	}
	return text
}

// outcome is how a command on a host ended.
type outcome struct {
	host, command  string
	code           int // -1: by a signal
	stdout, stderr string
	took           time.Duration
}

func (o outcome) String() string {
	return fmt.Sprintf("%s: %s: exit %d after %.1fs\n%s%s", o.host, o.command, o.code, o.took.Seconds(), o.stdout, o.stderr)
}

// run runs hactl on a host.
func (m *masters) run(ctx context.Context, host string, args ...string) outcome {
	return m.command(ctx, host, append([]string{hactl}, args...)...)
}

func (m *masters) command(ctx context.Context, host string, argv ...string) outcome {
	o := outcome{host: host, command: strings.Join(argv, " "), code: -1}
	began := time.Now()
	defer func() { o.took = time.Since(began) }()
	h, err := m.Named(host)
	if err != nil {
		o.stderr = err.Error()
		return o
	}
	cmd, err := h.Command(ctx, argv...)
	if err != nil {
		o.stderr = err.Error()
		return o
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	o.stdout, o.stderr, o.took = out.String(), errs.String(), time.Since(began)
	var exit *exec.ExitError
	switch {
	case err == nil:
		o.code = 0
	case errors.As(err, &exit):
		o.code = exit.ExitCode()
	default:
		o.stderr += err.Error()
	}
	return o
}

// must runs hactl on a host and ends the test unless it exits 0.
func (m *masters) must(t *testing.T, host string, args ...string) outcome {
	t.Helper()
	o := m.run(t.Context(), host, args...)
	if o.code != 0 {
		t.Fatal(o)
	}
	return o
}

// refused runs hactl on a host, wants the exit code, and the words on stderr.
func (m *masters) refused(t *testing.T, host string, code int, words string, args ...string) outcome {
	t.Helper()
	o := m.run(t.Context(), host, args...)
	if o.code != code || !strings.Contains(o.stderr, words) {
		t.Fatalf("want exit code %d and %q: %v", code, words, o)
	}
	return o
}

// bootstrap runs the same command on all the hosts at once, each after its delay.
func (m *masters) bootstrap(t *testing.T, names []string, args ...string) {
	t.Helper()
	var wg sync.WaitGroup
	results := make([]outcome, len(names))
	began := time.Now()
	for i, n := range names {
		wg.Go(func() { results[i] = m.run(t.Context(), n, append([]string{"bootstrap"}, args...)...) })
	}
	wg.Wait()
	for _, o := range results {
		if o.code != 0 {
			t.Error(o)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("measure: bootstrap of %s: %.1fs", strings.Join(names, ", "), time.Since(began).Seconds())
}

// healthy waits until `hactl status` says so on each of the hosts, of exactly
// these masters, and exactly one of each singleton runs.
func (m *masters) healthy(t *testing.T, names ...string) {
	t.Helper()
	began := time.Now()
	for _, n := range names {
		testwait.For(t, "a healthy cluster, as seen from "+n, patience, func() error {
			o := m.run(t.Context(), n, "status", "-o", "json")
			var r status.Report
			if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
				return fmt.Errorf("%w: %v", err, o)
			}
			if o.code != 0 || r.Verdict != status.Healthy {
				return fmt.Errorf("%s: %v", r.Verdict, r.Reasons)
			}
			if len(r.Masters) != len(names) || len(r.Etcd.Members) != len(names) {
				return fmt.Errorf("%d masters and %d members, want %d", len(r.Masters), len(r.Etcd.Members), len(names))
			}
			return nil
		})
	}
	m.oneOfEach(t)
	t.Logf("measure: healthy after %.1fs more", time.Since(began).Seconds())
}

// oneOfEach counts the processes of the singletons on all hosts that are on. A
// hand-over may be under way: its moment without a process is waited for, one
// with two is not.
func (m *masters) oneOfEach(t *testing.T) {
	t.Helper()
	for _, program := range []string{"kube-scheduler", "kube-controller-manager"} {
		testwait.For(t, "one "+program, patience, func() error {
			var where []string
			for _, h := range m.Hosts() {
				if s, err := h.Status(t.Context()); err != nil || s.State != hosts.On {
					continue
				}
				o := m.command(t.Context(), h.Name(), "ps", "-eo", "args")
				if o.code != 0 {
					return fmt.Errorf("%v", o)
				}
				for l := range strings.Lines(o.stdout) {
					if strings.HasPrefix(l, "/opt/hactl/kube/"+program+" ") {
						where = append(where, h.Name())
					}
				}
			}
			if len(where) > 1 {
				t.Fatalf("%s runs on %v", program, where)
			}
			if len(where) == 0 {
				return errors.New("nobody runs it")
			}
			return nil
		})
	}
}

// frontDoors asks the API through every host's door, from every host.
func (m *masters) frontDoors(t *testing.T, names ...string) {
	t.Helper()
	for i, n := range names {
		h, err := m.Named(names[(i+1)%len(names)])
		if err != nil {
			t.Fatal(err)
		}
		server := fmt.Sprintf("https://%s:6443", h.Address())
		testwait.For(t, "kubectl through "+server, patience, func() error {
			o := m.command(t.Context(), n, kubectl, "--kubeconfig", "/etc/kubernetes/admin.conf", "--server", server, "get", "namespaces", "-o", "name")
			if o.code != 0 || !strings.Contains(o.stdout, "namespace/kube-system") {
				return fmt.Errorf("%v", o)
			}
			return nil
		})
	}
}

// pids are the main processes of a host's units, once all run.
func (m *masters) pids(t *testing.T, host string) string {
	t.Helper()
	var text string
	testwait.For(t, "all units of "+host+" to run", patience, func() error {
		o := m.command(t.Context(), host, "systemctl", "show", "-p", "Id,MainPID", "hactl-etcd", "kube-apiserver", "hactl-lb", "hactl-agent", "podmaster@kube-scheduler", "podmaster@kube-controller-manager")
		if o.code != 0 || strings.Count(o.stdout, "MainPID=") != 6 || strings.Contains(o.stdout, "MainPID=0") {
			return fmt.Errorf("the main processes: %v", o)
		}
		text = o.stdout
		return nil
	})
	return text
}

// voters are the names of the members that vote, sorted.
func (m *masters) voters(t *testing.T, host string) []string {
	t.Helper()
	var list struct {
		Members []struct{ Name, Role string }
	}
	o := m.run(t.Context(), host, "etcd", "member", "list", "-o", "json")
	if err := json.Unmarshal([]byte(o.stdout), &list); err != nil {
		t.Fatalf("%v: %v", err, o)
	}
	var names []string
	for _, e := range list.Members {
		if e.Role == "voter" || e.Role == "leader" {
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	return names
}

// powerOn boots hosts, all at the same time.
func (m *masters) powerOn(t *testing.T, names ...string) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, len(names))
	for i, n := range names {
		h, err := m.Named(n)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { errs[i] = h.PowerOn(t.Context()) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (m *masters) powerOff(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		h, err := m.Named(n)
		if err == nil {
			err = h.PowerOff(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
