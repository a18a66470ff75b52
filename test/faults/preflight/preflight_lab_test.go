//go:build lab

package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/preflight"
	"github.com/hactl/hactl/test/hosts"
)

const clusterYAML = `apiVersion: hactl/v1alpha1
kind: Cluster
name: prod
masters:
  - {name: m1, address: 10.245.1.11}
  - {name: m2, address: 10.245.1.12}
  - {name: m3, address: 10.245.1.13}
kubernetes: {binDir: /opt/kube}
etcd: {quota: 256Mi}
`

// world is two hosts of which the first is looked at.
type world struct {
	*testing.T
	m1, m2 *hosts.Host
}

func newWorld(t *testing.T) *world {
	t.Helper()
	bin, err := filepath.Abs(filepath.Join("..", "..", "..", "bin"))
	if err != nil {
		t.Fatal(err)
	}
	kube, err := filepath.EvalSymlinks(filepath.Join(bin, "kube"))
	if err != nil {
		t.Fatalf("%v: make build kube", err)
	}
	log, err := logging.New(t.Output(), logging.Config{})
	if err != nil {
		t.Fatal(err)
	}
	lab, err := hosts.Up(t.Context(), hosts.Config{Hosts: 2, Dir: t.TempDir(), Logger: log, Binds: []hosts.Bind{
		{Source: filepath.Join(bin, "hactl"), Target: "/opt/hactl/hactl"},
		{Source: filepath.Join(bin, "podmaster"), Target: "/opt/hactl/podmaster"},
		{Source: kube, Target: "/opt/kube"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Down(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	w := &world{T: t, m1: lab.Host(1), m2: lab.Host(2)}
	w.write("/etc/hactl/cluster.yaml", clusterYAML, 0o644)
	w.write("/etc/hactl/token", pki.NewToken(time.Time{})+"\n", 0o600)
	return w
}

func (w *world) write(path, text string, mode fs.FileMode) {
	w.Helper()
	if err := w.m1.WriteFile(w.Context(), path, []byte(text), mode); err != nil {
		w.Fatal(err)
	}
}

// do runs a command line on a host.
func (w *world) do(h *hosts.Host, line string) {
	w.Helper()
	if _, err := h.Exec(w.Context(), "sh", "-c", line); err != nil {
		w.Fatal(err)
	}
}

// look runs hactl preflight on the first host. The exit code must say the same
// as the report.
func (w *world) look(prefix ...string) preflight.Report {
	w.Helper()
	out, err := w.m1.Exec(w.Context(), append(prefix, "/opt/hactl/hactl", "preflight", "-o", "json")...)
	var exit *hosts.ExecError
	if err != nil && !errors.As(err, &exit) {
		w.Fatal(err)
	}
	var r preflight.Report
	if jerr := json.Unmarshal([]byte(out), &r); jerr != nil {
		w.Fatalf("%v: %v: %s", err, jerr, out)
	}
	switch {
	case r.Ready && err != nil, !r.Ready && (exit == nil || exit.Code != exitcode.Unhealthy):
		w.Errorf("ready %v, and the command ended with %v", r.Ready, err)
	}
	if r.Master != "m1" {
		w.Errorf("taken for master %q", r.Master)
	}
	return r
}

func TestRealFaults(t *testing.T) {
	w := newWorld(t)
	clean := w.look()
	if !clean.Ready {
		t.Fatalf("a new host is not ready: %+v", clean.Findings)
	}
	unit := func(name, listen string) string {
		return "printf '[Socket]\n" + listen + "\n' >/run/systemd/system/" + name + ".socket; " +
			"printf '[Service]\nExecStart=/bin/cat\n' >/run/systemd/system/" + name + ".service; " +
			"systemctl daemon-reload; systemctl start " + name + ".socket"
	}
	cases := []struct {
		name       string
		host       *hosts.Host
		make, undo string
		prefix     []string
		check      string // empty: still no fault
		problem    string
	}{
		{"another host has the address", w.m2, "ip address add 10.245.1.11/24 dev host0", "ip address del 10.245.1.11/24 dev host0", nil,
			"Address", "another machine in the network has 10.245.1.11 too: 02:"},
		{"a port is taken", w.m1, unit("other", "ListenStream=0.0.0.0:6444"), "systemctl stop other.socket", nil,
			"Port-6444", "is taken by systemd (pid 1, other.socket)"},
		{"a UDP port is taken", w.m1, unit("other", "ListenDatagram=10.245.1.11:7946"), "systemctl stop other.socket", nil,
			"Port-7946", "10.245.1.11:7946/udp, for gossip, is taken by systemd (pid 1, other.socket)"},
		{"its own front door is open", w.m1, unit("hactl-lb", "ListenStream=10.245.1.11:6443"), "systemctl stop hactl-lb.socket", nil, "", ""},
		{"the disk is small", w.m1, "mount -t tmpfs -o size=64M tmpfs /var/lib", "umount /var/lib", nil, "DiskSpace", "64 MiB free for /var/lib/hactl/etcd"},
		{"no D-Bus", w.m1, "systemctl stop dbus.socket dbus.service", "systemctl start dbus.socket", nil, "DBus", "systemd does not answer over D-Bus"},
		{"a token for all to read", w.m1, "chmod 644 /etc/hactl/token", "chmod 600 /etc/hactl/token", nil, "Token", "can be read by others"},
		{"an old control plane's manifests", w.m1, "mkdir -p /etc/kubernetes/manifests; touch /etc/kubernetes/manifests/etcd.yaml", "rm -r /etc/kubernetes/manifests", nil,
			"OldInstallation", "static pods of another control plane"},
		{"an old control plane runs", w.m1, "cp /bin/sleep /run/kube-scheduler; systemd-run --quiet --unit old /run/kube-scheduler inf", "systemctl stop old", nil,
			"OldInstallation", ", old.service) runs, which is not of this installation"},
		{"another release of Kubernetes", w.m1, "sed -i 's/^kubernetes:.*/kubernetes: {binDir: \\/opt\\/kube, version: v1.35.0}/' /etc/hactl/cluster.yaml",
			"sed -i 's/, version: v1.35.0//' /etc/hactl/cluster.yaml", nil, "KubernetesVersion", "and kubernetes.version is v1.35.0"},
		{"a user", w.m1, "true", "true", []string{"setpriv", "--reuid", "65534", "--clear-groups"}, "Root", "this is user 65534"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := &world{T: t, m1: w.m1, m2: w.m2}
			w.do(c.host, c.make)
			r := w.look(c.prefix...)
			w.do(c.host, c.undo)
			if c.check == "" {
				if !r.Ready {
					t.Errorf("found %+v", r.Findings)
				}
				return
			}
			if !slices.ContainsFunc(r.Findings, func(f preflight.Finding) bool {
				return f.Check == c.check && f.Level == preflight.Error && strings.Contains(f.Problem, c.problem) && f.Cure != ""
			}) {
				t.Errorf("no error of %s with %q in %+v", c.check, c.problem, r.Findings)
			}
		})
	}
	if r := w.look(); !r.Ready {
		t.Errorf("all is undone, and yet: %+v", r.Findings)
	}
}
