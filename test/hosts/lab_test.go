//go:build lab

package hosts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/testwait"
)

// ownerEnv makes the test binary an owner of a lab that waits to be killed.
const ownerEnv = "HACTL_LAB_TEST_OWNER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerEnv); dir != "" {
		own(dir)
	}
	goleak.VerifyTestMain(m)
}

func own(dir string) {
	lab, err := Up(context.Background(), Config{Dir: dir, Hosts: 1})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("up", lab.Name(), lab.state.GuardPID)
	select {}
}

// up brings up a lab in a folder of the test's own.
func up(t *testing.T, cfg Config) *Lab {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = labs(t)
	}
	log, err := logging.New(t.Output(), logging.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Logger = log
	lab, err := Up(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Down(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if err := lab.Sealed(); err != nil {
		t.Fatal(err)
	}
	return lab
}

// labs is a folder for labs with a path short enough for a socket.
func labs(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "hactl-lab-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.Remove(filepath.Join(dir, ".lock"))
		if err := os.Remove(dir); err != nil {
			t.Errorf("something is left in the folder of labs: %v", err)
		}
	})
	return dir
}

func run(t *testing.T, h *Host, args ...string) string {
	t.Helper()
	out, err := h.Exec(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// reaches pings once, with a second's patience.
func reaches(t *testing.T, from, to *Host) bool {
	t.Helper()
	_, err := from.Exec(t.Context(), "ping", "-c1", "-W1", to.Name())
	var failed *ExecError
	if err != nil && (!errors.As(err, &failed) || failed.Code != 1) {
		t.Fatal(err)
	}
	return err == nil
}

// mustReach waits until a ping is answered.
func mustReach(t *testing.T, from, to *Host) {
	t.Helper()
	testwait.For(t, "a ping from "+from.Name()+" to "+to.Name(), 10*time.Second, func() error {
		if !reaches(t, from, to) {
			return errors.New("no answer")
		}
		return nil
	})
}

// echo starts a service on port 7 of h that sends back what it gets.
func echo(t *testing.T, h *Host) {
	t.Helper()
	run(t, h, "systemd-run", "--quiet", "--unit=echo", "--service-type=notify", "-p", "NotifyAccess=all",
		"bash", "-c", "systemd-notify --ready; exec systemd-socket-activate -l 7 -a --inetd cat")
}

// dial connects to the echo service, which may not listen yet.
func dial(t *testing.T, lab *Lab, h *Host) (conn net.Conn) {
	t.Helper()
	testwait.For(t, "the echo service", 10*time.Second, func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		conn, err = lab.DialContext(ctx, "tcp", h.Name()+":7")
		return err
	})
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestHostsBootAndReachEachOther(t *testing.T) {
	t.Parallel()
	lab := up(t, Config{Hosts: 3, Binds: []Bind{{Source: "/proc/self/exe", Target: "/opt/bound"}}})
	ids := map[string]bool{}
	for i, h := range lab.Hosts() {
		if h != lab.Host(i+1) {
			t.Errorf("host %d is %s", i+1, h.Name())
		}
		if state := run(t, h, "systemctl", "is-system-running"); state != "running" {
			t.Errorf("%s is %s:\n%s", h.Name(), state, run(t, h, "systemctl", "--failed"))
		}
		if pid1 := run(t, h, "cat", "/proc/1/comm"); pid1 != "systemd" {
			t.Errorf("PID 1 of %s is %s", h.Name(), pid1)
		}
		if got := run(t, h, "busctl", "get-property", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "NFailedUnits"); got != "u 0" {
			t.Errorf("D-Bus of %s says %q", h.Name(), got)
		}
		if got := run(t, h, "uname", "-n"); got != h.Name() {
			t.Errorf("%s calls itself %s", h.Name(), got)
		}
		if got := run(t, h, "ip", "-4", "-o", "address", "show", "dev", "host0"); !strings.Contains(got, h.Address().String()+"/24") {
			t.Errorf("addresses of %s: %s", h.Name(), got)
		}
		if got := run(t, h, "ip", "route", "show", "default"); got != "" {
			t.Errorf("%s has a default route: %s", h.Name(), got)
		}
		run(t, h, "test", "-s", "/opt/bound")
		ids[run(t, h, "cat", "/etc/machine-id", "/proc/sys/kernel/random/boot_id")] = true
		for _, other := range lab.Hosts() {
			mustReach(t, h, other)
		}
	}
	if len(ids) != 3 {
		t.Errorf("machine ids: %v", ids)
	}
}

func TestExec(t *testing.T) {
	t.Parallel()
	lab := up(t, Config{Hosts: 1})
	h := lab.Host(1)
	out, err := h.Exec(t.Context(), "sh", "-c", "echo out; echo oops >&2; exit 7")
	var failed *ExecError
	if !errors.As(err, &failed) || failed.Code != 7 || failed.Stderr != "oops\n" || out != "out\n" {
		t.Errorf("got %q, %+v", out, err)
	}
	if got := run(t, h, "printf", "%s|", "a b", "$HOME", "", "*"); got != "a b|$HOME||*|" {
		t.Errorf("arguments became %q", got)
	}
	if got := run(t, h, "env"); strings.Contains(got, "HACTL") || !strings.Contains(got, "HOME=/root") {
		t.Errorf("environment:\n%s", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := h.Exec(ctx, "sleep", "61"); err == nil {
		t.Error("exec outlived its context")
	}
	testwait.For(t, "the end of what exec started", 5*time.Second, func() error {
		if out, err := h.Exec(t.Context(), "pgrep", "-af", "sleep 61"); err == nil {
			return errors.New(out)
		}
		return nil
	})
	src := t.TempDir()
	for name, perm := range map[string]fs.FileMode{"a": 0o640, "b/tool": 0o755} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(src, name)), 0o755), os.WriteFile(filepath.Join(src, name), []byte(name), perm)); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.CopyTo(t.Context(), src, "/srv/new/copy"); err != nil {
		t.Fatal(err)
	}
	if got := run(t, h, "stat", "-c", "%n %a %U", "/srv/new/copy/a", "/srv/new/copy/b/tool"); got != "/srv/new/copy/a 640 root\n/srv/new/copy/b/tool 755 root" {
		t.Errorf("copied:\n%s", got)
	}
	if err := h.CopyTo(t.Context(), filepath.Join(src, "none"), "/srv/x"); !errors.Is(err, fs.ErrNotExist) && err == nil {
		t.Errorf("copy of nothing: %v", err)
	}
	if err := h.WriteFile(t.Context(), "/etc/hactl/token", []byte("secret\x00\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := h.ReadFile(t.Context(), "/etc/hactl/token")
	if err != nil || string(got) != "secret\x00\n" || run(t, h, "stat", "-c", "%a", "/etc/hactl/token") != "600" {
		t.Errorf("read back %q, %v", got, err)
	}
}

func TestFreezeAndThaw(t *testing.T) {
	t.Parallel()
	lab := up(t, Config{Hosts: 2})
	m1, m2 := lab.Host(1), lab.Host(2)
	run(t, m1, "systemd-run", "--quiet", "--unit=ticker", "bash", "-c", "while :; do echo >>/run/ticks; sleep 0.01; done")
	ticks := func() int { // read without the host's help
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/root/proc/%d/root/run/ticks", lab.state.KeeperPID, leader(t, m1)))
		return len(data)
	}
	testwait.For(t, "ticks", 10*time.Second, func() error {
		if ticks() == 0 {
			return errors.New("none")
		}
		return nil
	})
	if err := m1.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := state(t, m1); got != Frozen {
		t.Errorf("it is %s", got)
	}
	before := ticks()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := m1.Exec(ctx, "true"); err == nil {
		t.Error("a frozen host ran something")
	}
	if got := ticks(); got != before {
		t.Errorf("frozen, and yet %d ticks more", got-before)
	}
	run(t, m2, "true")
	if err := m1.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, "more ticks", 10*time.Second, func() error {
		if ticks() == before {
			return errors.New("none")
		}
		return nil
	})
	// A frozen host can lose its power.
	if err := errors.Join(m1.Freeze(t.Context()), m1.PowerOff(t.Context()), m1.PowerOn(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := state(t, m1); got != On {
		t.Errorf("it is %s", got)
	}
}

func leader(t *testing.T, h *Host) int {
	t.Helper()
	s, err := h.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Leader
}

func state(t *testing.T, h *Host) string {
	t.Helper()
	s, err := h.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.State
}

func TestPower(t *testing.T) {
	t.Parallel()
	lab := up(t, Config{Hosts: 2})
	m1, m2 := lab.Host(1), lab.Host(2)
	const boot = "/proc/sys/kernel/random/boot_id"
	run(t, m1, "sh", "-c", "echo kept >/var/lib/kept; echo lost >/run/lost; trap '' TERM; systemd-run --quiet sh -c 'trap : TERM; sleep 1000'")
	first := run(t, m2, "cat", boot)
	if err := m1.PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := state(t, m1); got != Off {
		t.Errorf("it is %s", got)
	}
	if _, err := m1.Exec(t.Context(), "true"); err == nil || !strings.Contains(err.Error(), "is off") {
		t.Errorf("exec: %v", err)
	}
	if reaches(t, m2, m1) {
		t.Error("m1 answers without power")
	}
	if err := m1.Freeze(t.Context()); err == nil {
		t.Error("froze a host that is off")
	}
	if err := m1.PowerOff(t.Context()); err != nil {
		t.Errorf("off twice: %v", err)
	}
	if err := m1.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m1.PowerOn(t.Context()); err == nil {
		t.Error("on twice")
	}
	if got := run(t, m1, "cat", "/var/lib/kept"); got != "kept" {
		t.Errorf("the disk has %q", got)
	}
	if _, err := m1.Exec(t.Context(), "test", "-e", "/run/lost"); err == nil {
		t.Error("memory survived the power cut")
	}
	if got := run(t, m1, "systemctl", "is-system-running"); got != "running" {
		t.Errorf("it is %s", got)
	}
	mustReach(t, m2, m1)
	if err := m1.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := run(t, m1, "cat", "/var/lib/kept"); got != "kept" {
		t.Errorf("after a reboot the disk has %q", got)
	}
	mustReach(t, m2, m1)
	if _, err := m1.Exec(t.Context(), "systemctl", "poweroff"); err != nil {
		t.Log(err) // it may be killed by what it asked for
	}
	testwait.For(t, "power off from inside", 20*time.Second, func() error {
		if got := state(t, m1); got != Off {
			return errors.New(got)
		}
		return nil
	})
	if got := run(t, m2, "cat", boot); got != first {
		t.Error("m2 was booted too")
	}
	s, err := m1.Status(t.Context())
	if err != nil || s.Boots != 3 {
		t.Errorf("%+v, %v", s, err)
	}
	console, err := m1.Console()
	if err != nil || strings.Count(console, "Welcome to") < 3 {
		t.Errorf("%v, console:\n%s", err, console)
	}
}
