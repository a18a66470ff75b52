package systemd

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/workload"
)

var update = flag.Bool("update", false, "write the golden files")

// units are those of a master, as internal/master makes them.
func units() []workload.Unit {
	hactl := func(name, description string, watchdog time.Duration, args ...string) workload.Unit {
		return workload.Unit{
			Name: name, Description: description, Exec: append([]string{"/usr/local/bin/hactl"}, args...),
			Notify: true, WatchdogSec: watchdog, StopTimeout: 30 * time.Second,
		}
	}
	etcd := hactl("hactl-etcd", "etcd member", 30*time.Second, "etcd", "run", "--name", "m1")
	etcd.StartTimeout = 10 * time.Minute
	agent := hactl("hactl-agent", "agent", 30*time.Second, "agent", "--name", "m1")
	agent.After = []string{"hactl-etcd", "hactl-lb"}
	return []workload.Unit{
		etcd,
		{
			Name: "kube-apiserver", Description: "Kubernetes API server", Notify: true, After: []string{"hactl-etcd"}, StopTimeout: 130 * time.Second,
			Exec: []string{"/opt/hactl/kube/kube-apiserver", "--advertise-address=10.245.1.11", "--tls-cipher-suites=A,B", "--service-account-issuer=https://kubernetes.default.svc"},
			Env:  []string{"GOGC=75"},
		},
		hactl("hactl-lb", "load balancer", 10*time.Second, "lb", "run", "--from-masters", "--name", "m1"),
		{
			Name: "podmaster@kube-scheduler", Description: "kube-scheduler, on one master at a time", Notify: true,
			WatchdogSec: 2500 * time.Millisecond, StopTimeout: 30 * time.Second, After: []string{"hactl-lb"},
			Exec: []string{"/usr/local/bin/podmaster", "--key", "kube-scheduler", "--whoami", "m1", "--", "/opt/hactl/kube/kube-scheduler", "--leader-elect=false"},
		},
		agent,
	}
}

func render(t *testing.T, u workload.Unit) []byte {
	t.Helper()
	box := SandboxOf(layout.Layout{}, u.Name)
	if u.Name == "hactl-lb" {
		box.SocketUnit = "hactl-lb.socket"
	}
	b, err := Render(u, box, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s differs (%v); look at it and run the test with -update. Got:\n%s", path, err, got)
	}
}

func TestGolden(t *testing.T) {
	for _, u := range units() {
		golden(t, FileName(u.Name), render(t, u))
	}
	b, err := RenderSocket("hactl-lb", "front door", ":6443", "[::1]:7443")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "hactl-lb.socket", b)
}

// needAnalyzer ends the test where systemd cannot say whether it takes the units.
func needAnalyzer(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Fatalf("%v: whether systemd takes the units cannot be checked; apt-get install systemd", err)
	}
}

func analyze(t *testing.T, args ...string) ([]byte, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemd-analyze", args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	return out.Bytes(), errOut.String(), err
}

// write puts the units, made to run programs that exist, into a folder.
func write(t *testing.T) (dir string, files []string) {
	t.Helper()
	dir = t.TempDir()
	for _, u := range units() {
		u.Exec = append([]string{"/bin/true"}, u.Exec[1:]...)
		f := filepath.Join(dir, FileName(u.Name))
		if err := os.WriteFile(f, render(t, u), 0o644); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	b, err := RenderSocket("hactl-lb", "front door", ":6443")
	if err != nil {
		t.Fatal(err)
	}
	f := filepath.Join(dir, "hactl-lb.socket")
	if err := os.WriteFile(f, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, append(files, f)
}

func TestSystemdAcceptsTheUnits(t *testing.T) {
	needAnalyzer(t)
	dir, files := write(t)
	_, errOut, err := analyze(t, append([]string{"verify", "--man=no", "--recursive-errors=no"}, files...)...)
	for l := range strings.Lines(errOut) {
		if strings.Contains(l, dir) || strings.Contains(l, "hactl") || strings.Contains(l, "kube-apiserver") || strings.Contains(l, "podmaster") {
			t.Errorf("verify: %s", l)
		}
	}
	if err != nil {
		t.Errorf("verify: %v\n%s", err, errOut)
	}
}

// It must notice a fault, or the test above says nothing.
func TestSystemdNoticesAFault(t *testing.T) {
	needAnalyzer(t)
	f := filepath.Join(t.TempDir(), "bad.service")
	if err := os.WriteFile(f, []byte("[Service]\nExecStart=relative\nProtectSystm=strict\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, errOut, err := analyze(t, "verify", "--man=no", "--recursive-errors=no", f); err == nil {
		t.Errorf("verify is content with a bad unit: %s", errOut)
	}
}

func TestExposureIsLow(t *testing.T) {
	needAnalyzer(t)
	_, files := write(t)
	for _, f := range files {
		if !strings.HasSuffix(f, ".service") {
			continue
		}
		out, errOut, err := analyze(t, "security", "--offline=true", "--threshold=20", "--json=pretty", f)
		if err != nil {
			overall, _, _ := analyze(t, "security", "--offline=true", "--no-pager", f)
			t.Errorf("%s: exposure above 2.0: %v %s\n%s", filepath.Base(f), err, errOut, badLines(overall))
		}
		var rows []map[string]any
		if err := json.Unmarshal(out, &rows); err != nil || len(rows) < 50 {
			t.Errorf("%s: %d rows, %v: nothing was measured", filepath.Base(f), len(rows), err)
		}
	}
}

func badLines(b []byte) string {
	var out []string
	for l := range strings.Lines(string(b)) {
		if strings.Contains(l, "✗") || strings.Contains(l, "Overall") {
			out = append(out, l)
		}
	}
	return strings.Join(out, "")
}

func TestRenderRefuses(t *testing.T) {
	for want, change := range map[string]func(*workload.Unit, *Sandbox){
		"not a unit's name":                     func(u *workload.Unit, _ *Sandbox) { u.Name = "../x" },
		"does not begin with an absolute path":  func(u *workload.Unit, _ *Sandbox) { u.Exec = []string{"hactl"} },
		"exec: []":                              func(u *workload.Unit, _ *Sandbox) { u.Exec = nil },
		"ExecStart: \"a\\nb\" has a control":    func(u *workload.Unit, _ *Sandbox) { u.Exec = append(u.Exec, "a\nb") },
		"ExecStart: \"\\xff\" is not UTF-8":     func(u *workload.Unit, _ *Sandbox) { u.Exec = append(u.Exec, "\xff") },
		"Description: \"a\\n[Service]\"":        func(u *workload.Unit, _ *Sandbox) { u.Description = "a\n[Service]" },
		"Description: \"a\\\\\" does not fit":   func(u *workload.Unit, _ *Sandbox) { u.Description = `a\` },
		"env: \"A\" is not KEY=value":           func(u *workload.Unit, _ *Sandbox) { u.Env = []string{"A"} },
		"Environment: \"A=\\n\" has a control":  func(u *workload.Unit, _ *Sandbox) { u.Env = []string{"A=\n"} },
		"WatchdogSec: -1s is negative":          func(u *workload.Unit, _ *Sandbox) { u.WatchdogSec = -time.Second },
		"TimeoutStopSec: -1s is negative":       func(u *workload.Unit, _ *Sandbox) { u.StopTimeout = -time.Second },
		"logFile: \"x.log\" is not an absolute": func(u *workload.Unit, _ *Sandbox) { u.LogFile = "x.log" },
		"StandardOutput: \"append:/x\\n\"":      func(u *workload.Unit, _ *Sandbox) { u.LogFile = "/x\n" },
		"readWrite: \"x\" is not an absolute":   func(_ *workload.Unit, b *Sandbox) { b.ReadWrite = []string{"x"} },
	} {
		u, box := units()[0], Sandbox{}
		change(&u, &box)
		if _, err := Render(u, box, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Render = %v, want %q in it", err, want)
		}
	}
	for want, addresses := range map[string][]string{
		"no address": nil, `listen: "6443"`: {"6443"}, `listen: "host:6443"`: {"host:6443"}, `listen: ":0"`: {":0"}, `listen: ":70000"`: {":70000"},
	} {
		if _, err := RenderSocket("hactl-lb", "d", addresses...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("RenderSocket(%q) = %v, want %q in it", addresses, err, want)
		}
	}
}

func TestRenderVariants(t *testing.T) {
	plain := workload.Unit{Name: "x", Exec: []string{"/bin/x"}}
	for name, c := range map[string]struct {
		unit      workload.Unit
		box       Sandbox
		opt       Options
		has, lack []string
	}{
		"plain":         {plain, Sandbox{}, Options{}, []string{"Type=exec\n", "ExecStart=/bin/x\n", "PrivateTmp=yes", "ProtectHome=yes"}, []string{"NotifyAccess", "Watchdog", "ReadWritePaths", "RestartSteps", "Timeout", "StandardOutput", "Nice"}},
		"new systemd":   {plain, Sandbox{}, Options{Version: 254}, []string{"RestartSteps=6\nRestartMaxDelaySec=5s\n"}, nil},
		"under /tmp":    {workload.Unit{Name: "x", Exec: []string{"/tmp/x"}}, Sandbox{}, Options{}, nil, []string{"PrivateTmp"}},
		"under /root":   {plain, Sandbox{ReadWrite: []string{"/root/lab/var"}}, Options{}, []string{"ProtectHome=read-only", "ReadWritePaths=-/root/lab/var"}, nil},
		"/rootless":     {plain, Sandbox{ReadWrite: []string{"/rootless"}}, Options{}, []string{"ProtectHome=yes"}, nil},
		"log file":      {workload.Unit{Name: "x", Exec: []string{"/x"}, LogFile: "/var/log/a b%.log"}, Sandbox{}, Options{}, []string{"StandardOutput=append:/var/log/a b%%.log\n"}, nil},
		"quoted":        {workload.Unit{Name: "x", Exec: []string{"/x", "a b", `"$HOME" \ 100%`, "", "--f=é;#"}}, Sandbox{}, Options{}, []string{`ExecStart=/x "a b" "\"$$HOME\" \\ 100%%" "" "--f=é;#"` + "\n"}, nil},
		"environment":   {workload.Unit{Name: "x", Exec: []string{"/x"}, Env: []string{"A=$b %c d"}}, Sandbox{}, Options{}, []string{`Environment="A=$b %%c d"` + "\n"}, nil},
		"half a second": {workload.Unit{Name: "x", Exec: []string{"/x"}, WatchdogSec: 1500 * time.Millisecond, StartTimeout: 10}, Sandbox{}, Options{}, []string{"WatchdogSec=1500ms\nWatchdogSignal=SIGKILL\n", "TimeoutStartSec=1ms\n", "NotifyAccess=main"}, nil},
		"bus":           {plain, Sandbox{SystemBus: true}, Options{}, []string{"ProtectProc=default"}, []string{"PrivateUsers"}},
		"children":      {plain, Sandbox{Children: true}, Options{}, []string{"OOMPolicy=continue\n"}, nil},
	} {
		b, err := Render(c.unit, c.box, c.opt)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, s := range c.has {
			if !strings.Contains(string(b), s) {
				t.Errorf("%s: %q is missing:\n%s", name, s, b)
			}
		}
		for _, s := range c.lack {
			if strings.Contains(string(b), s) {
				t.Errorf("%s: %q is there:\n%s", name, s, b)
			}
		}
	}
}

// What is quoted can be read back as systemd reads it, and stays in its line.
func FuzzQuote(f *testing.F) {
	f.Add(`a "b" \c $D %e`, true)
	f.Add("", false)
	f.Fuzz(func(t *testing.T, s string, command bool) {
		q, err := word(s, command)
		if err != nil {
			return
		}
		if strings.ContainsFunc(q, unicode.IsControl) {
			t.Fatalf("control character in %q", q)
		}
		if got := unquote(q, command); got != s {
			t.Errorf("%q → %s → %q", s, q, got)
		}
	})
}

// unquote reads one word as systemd.syntax(7) and systemd.service(5) say.
func unquote(q string, command bool) string {
	if len(q) >= 2 && q[0] == '"' {
		q = q[1 : len(q)-1]
	}
	var b strings.Builder
	for i := 0; i < len(q); i++ {
		if i+1 < len(q) && (q[i] == '\\' || (q[i] == '%' && q[i+1] == '%') || (command && q[i] == '$' && q[i+1] == '$')) {
			i++
		}
		b.WriteByte(q[i])
	}
	return b.String()
}
