//go:build lab

package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/test/hosts"
)

// A lab by hand: each command is a process of its own.
func TestCommands(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "hactl-lab-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(t.TempDir(), "lab")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lab := func(wantCode int, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(os.Environ(), "HACTL_LAB_DIR="+dir, "HACTL_LAB=by-hand")
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != wantCode {
			t.Fatalf("lab %s: exit code %d, want %d: %v %s", strings.Join(args, " "), got, wantCode, err, exit.Stderr)
		}
		return strings.TrimSpace(string(out))
	}
	defer lab(0, "down")

	if got := lab(0, "up", "--name", "a", "--name", "b", "--bind", "/etc/os-release:/opt/release"); !strings.Contains(got, "10.245.1.12") {
		t.Errorf("up says\n%s", got)
	}
	if got := lab(0, "exec", "a", "--", "hostname"); got != "a" {
		t.Errorf("hostname %q", got)
	}
	lab(7, "exec", "a", "--", "sh", "-c", "exit 7")
	lab(0, "exec", "b", "test", "-s", "/opt/release")
	lab(0, "copy", "main.go", "a:/srv/main.go")
	lab(0, "exec", "a", "--", "grep", "-q", "package main", "/srv/main.go")
	lab(0, "cut", "--one-way", "a", "b")
	lab(0, "slow", "--delay", "10ms", "--loss", "1%", "--rate", "10M", "a,b", "lab")
	lab(exitcode.Usage, "slow", "a", "b")
	lab(exitcode.Usage, "cut", "a", "b", "--one-way")
	lab(exitcode.Failed, "cut", "a", "c")
	lab(0, "freeze", "b")
	lab(0, "power-off", "a")
	var status hosts.Status
	if err := json.Unmarshal([]byte(lab(0, "status", "-o", "json")), &status); err != nil {
		t.Fatal(err)
	}
	if len(status.Hosts) != 2 || status.Hosts[0].State != hosts.Off || status.Hosts[1].State != hosts.Frozen || len(status.Cuts) != 1 || len(status.Slows) != 4 {
		t.Errorf("status %+v", status)
	}
	lab(0, "heal")
	lab(0, "thaw", "b")
	lab(0, "power-on", "a")
	lab(0, "exec", "a", "--", "ping", "-c1", "-W5", "b")
	if got := lab(0, "console", "a"); !strings.Contains(got, "Welcome to") {
		t.Errorf("console:\n%s", got)
	}
	lab(0, "down")
	lab(exitcode.Unreachable, "status")
	lab(0, "down")
}
