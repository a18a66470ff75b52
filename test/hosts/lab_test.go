//go:build lab

package hosts

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

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

// echoes counts the pings that have come to h.
func echoes(t *testing.T, h *Host) int {
	t.Helper()
	// The first Icmp line has the names, the second the values.
	lines := strings.Split(run(t, h, "grep", "^Icmp:", "/proc/net/snmp"), "\n")
	i := slices.Index(strings.Fields(lines[0]), "InEchos")
	n, err := strconv.Atoi(strings.Fields(lines[1])[i])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCut(t *testing.T) {
	t.Parallel()
	lab := up(t, Config{Hosts: 3})
	m1, m2, m3 := lab.Host(1), lab.Host(2), lab.Host(3)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(lab.Cut(t.Context(), "m1", "m2"))
	if reaches(t, m1, m2) || reaches(t, m2, m1) {
		t.Error("a cut lets something pass")
	}
	mustReach(t, m1, m3)
	mustReach(t, m3, m2)
	must(lab.Heal(t.Context()))
	mustReach(t, m1, m2)
	mustReach(t, m2, m1)

	must(lab.CutOneWay(t.Context(), "m1", "m2"))
	atM1, atM2 := echoes(t, m1), echoes(t, m2)
	if reaches(t, m1, m2) || reaches(t, m2, m1) {
		t.Error("an answer came over a way that is cut")
	}
	if echoes(t, m2) != atM2 {
		t.Error("m2 heard m1")
	}
	if echoes(t, m1) != atM1+1 {
		t.Error("m1 did not hear m2, whose way is free")
	}
	must(lab.Partition(t.Context(), []string{"m1", "m2"}, []string{"m3"}))
	must(lab.HealBetween(t.Context(), "m1", "m2"))
	mustReach(t, m1, m2)
	if reaches(t, m1, m3) || reaches(t, m2, m3) {
		t.Error("a partition lets something pass")
	}
	must(lab.Heal(t.Context()))

	echo(t, m1)
	conn := dial(t, lab, m1)
	must(lab.Isolate(t.Context(), "m1", true))
	_, err := conn.Write([]byte("lost"))
	must(err)
	must(conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond)))
	if n, err := conn.Read(make([]byte, 9)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d, %v through a cut: want neither an answer nor a reset", n, err)
	}
	must(lab.Heal(t.Context()))
	must(conn.SetReadDeadline(time.Now().Add(time.Minute)))
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "lost" {
		t.Errorf("after healing: %q, %v", got, err)
	}

	for _, err := range []error{
		lab.Cut(t.Context(), "m1", "m9"), lab.Cut(t.Context(), "m1", "m1"), lab.Slow(t.Context(), "m1", "m2", Slowness{Loss: 2}),
	} {
		if err == nil {
			t.Error("accepted")
		}
	}
	if status, err := lab.Status(t.Context()); err != nil || len(status.Cuts)+len(status.Slows) != 0 {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestSlow(t *testing.T) {
	t.Parallel()
	lab := up(t, Config{Hosts: 2})
	m1, m2 := lab.Host(1), lab.Host(2)
	rtt := func() float64 {
		t.Helper()
		out := run(t, m1, "ping", "-c2", "-i0.2", "-W5", "m2")
		found := regexp.MustCompile(`= ([0-9.]+)/`).FindStringSubmatch(out)
		if found == nil {
			t.Fatalf("ping said %s", out)
		}
		ms, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		return ms
	}
	if err := lab.Slow(t.Context(), "m1", "m2", Slowness{Delay: 60 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if ms := rtt(); ms < 120 {
		t.Errorf("both ways 60 ms: round trip %v ms", ms)
	}
	// A slow way stays slow when a host's port is another one.
	if err := errors.Join(m2.PowerOff(t.Context()), m2.PowerOn(t.Context())); err != nil {
		t.Fatal(err)
	}
	if ms := rtt(); ms < 120 {
		t.Errorf("after a power cycle: round trip %v ms", ms)
	}
	if err := lab.SlowOneWay(t.Context(), "m1", "m2", Slowness{Loss: 1}); err != nil {
		t.Fatal(err)
	}
	if reaches(t, m1, m2) {
		t.Error("all is lost, and yet something arrives")
	}
	if err := lab.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustReach(t, m1, m2)

	// Large segments with unfinished checksums survive the way through user space.
	echo(t, m1)
	conn := dial(t, lab, m1)
	if err := lab.Slow(t.Context(), Observer, "m1", Slowness{Delay: time.Millisecond, Jitter: time.Millisecond, Loss: 0.005, Duplicate: 0.01, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	sent := bytes.Repeat([]byte("0123456789abcdef"), 32<<10)
	wrote := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		wrote <- err
	}()
	got := make([]byte, len(sent))
	_, err := io.ReadFull(conn, got)
	if err := errors.Join(err, <-wrote); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back wrong: %v", len(sent), err)
	}
	status, err := lab.Status(t.Context())
	if err != nil || len(status.Slows) != 2 || status.Slows[0].From != Observer {
		t.Errorf("%+v, %v", status, err)
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

func TestListenAtTheObserver(t *testing.T) {
	t.Parallel()
	lab := up(t, Config{Hosts: 1})
	listener, err := lab.Listen(t.Context(), "tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	said := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			said <- err.Error()
			return
		}
		defer conn.Close()
		line, _ := bufio.NewReader(conn).ReadString('\n')
		said <- conn.RemoteAddr().(*net.TCPAddr).IP.String() + " " + line
	}()
	run(t, lab.Host(1), "bash", "-c", "echo hello >/dev/tcp/lab/8080")
	if got := <-said; got != "10.245.1.11 hello\n" {
		t.Errorf("got %q", got)
	}
}

func TestSealedSeesAWayOut(t *testing.T) {
	t.Parallel()
	lab := up(t, Config{Hosts: 1})
	ip := func(args ...string) {
		t.Helper()
		args = append([]string{"-t", strconv.Itoa(lab.state.KeeperPID), "-n", "ip"}, args...)
		if out, err := exec.CommandContext(t.Context(), "nsenter", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	ip("route", "add", "default", "via", "10.245.1.11")
	if err := lab.Sealed(); !errors.Is(err, ErrNotSealed) || !strings.Contains(err.Error(), "default route") {
		t.Errorf("a default route: %v", err)
	}
	ip("route", "del", "default")
	if err := lab.Sealed(); err != nil {
		t.Error(err)
	}
	ip("link", "add", "out", "type", "veth", "peer", "name", "in")
	ip("link", "set", "out", "up")
	if err := lab.Sealed(); !errors.Is(err, ErrNotSealed) || !strings.Contains(err.Error(), "interface out is up") {
		t.Errorf("a foreign interface: %v", err)
	}
	machine := &Lab{state: lab.state}
	machine.state.KeeperPID = os.Getpid()
	if err := machine.Sealed(); !errors.Is(err, ErrNotSealed) || !strings.Contains(err.Error(), "the machine's own") {
		t.Errorf("the machine's own network: %v", err)
	}
}

// trace is what a lab could leave on the machine.
func trace(t *testing.T, lab string) map[string]string {
	t.Helper()
	got := map[string]string{}
	read := func(name string, data []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		got[name] = string(data)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	read("mounts", mounts, err)
	links, err := exec.CommandContext(t.Context(), "ip", "-o", "link").Output()
	read("interfaces", links, err)
	rules, err := exec.CommandContext(t.Context(), "nft", "list", "ruleset").Output()
	read("rules", rules, err)
	var groups, procs []string
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, lab) {
			groups = append(groups, path)
		}
		return nil // others come and go
	})
	read("control groups", []byte(strings.Join(groups, "\n")), err)
	entries, err := os.ReadDir("/proc")
	for _, e := range entries {
		line, readErr := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if readErr == nil && bytes.Contains(line, []byte(lab)) {
			procs = append(procs, e.Name()+" "+string(line))
		}
	}
	read("processes", []byte(strings.Join(procs, "\n")), err)
	temporary, err := filepath.Glob("/tmp/nspawn*")
	read("temporary folders", []byte(strings.Join(temporary, "\n")), err)
	return got
}

func checkTrace(t *testing.T, before, after map[string]string) {
	t.Helper()
	for what, was := range before {
		if after[what] != was {
			t.Errorf("%s: before\n%s\nafter\n%s", what, was, after[what])
		}
	}
}

func TestDownLeavesNothing(t *testing.T) {
	t.Parallel()
	const name = "leaves-nothing"
	dir := labs(t)
	before := trace(t, name)
	lab := up(t, Config{Name: name, Dir: dir, Hosts: 3})
	for what, value := range trace(t, name) {
		if (what == "control groups" || what == "processes") == (value == before[what]) {
			t.Errorf("while the lab is up, the machine's %s are\n%s", what, value) // that the test can fail
		}
	}
	if err := errors.Join(
		lab.Slow(t.Context(), "m1", "m2", Slowness{Delay: time.Millisecond}), lab.Cut(t.Context(), "m2", "m3"),
		lab.Host(1).PowerOff(t.Context()), lab.Host(1).PowerOn(t.Context()), lab.Host(2).Freeze(t.Context()), lab.Host(3).PowerOff(t.Context()),
	); err != nil {
		t.Fatal(err)
	}
	if _, err := Up(t.Context(), Config{Name: name, Dir: dir}); err == nil || !strings.Contains(err.Error(), "the lab is up") {
		t.Errorf("the same lab a second time: %v", err)
	}
	if err := lab.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkTrace(t, before, trace(t, name))
	if err := lab.Down(t.Context()); err != nil {
		t.Errorf("down twice: %v", err)
	}
	if _, err := lab.Host(1).Exec(t.Context(), "true"); err == nil {
		t.Error("exec in a lab that is down")
	}
}

func TestCanceledUpLeavesNothing(t *testing.T) {
	t.Parallel()
	const name = "canceled"
	dir := labs(t)
	before := trace(t, name)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // as soon as the guard has made its mark
		for ctx.Err() == nil {
			if s, err := os.ReadFile(filepath.Join(dir, name, "state")); err == nil && !bytes.Contains(s, []byte(`"guardPID": 0`)) {
				cancel()
			}
			_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
		}
	}()
	if _, err := Up(ctx, Config{Name: name, Dir: dir, Hosts: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	checkTrace(t, before, trace(t, name))
}

func TestFailedBootSaysWhy(t *testing.T) {
	t.Parallel()
	const name = "fails"
	before := trace(t, name)
	_, err := Up(t.Context(), Config{Name: name, Dir: labs(t), Hosts: 1, NspawnArgs: []string{"--no-such-option"}})
	if err == nil || !strings.Contains(err.Error(), "power on m1") || !strings.Contains(err.Error(), "no-such-option") {
		t.Errorf("got %v", err)
	}
	checkTrace(t, before, trace(t, name))
}

// startOwner starts a process that owns a lab.
func startOwner(t *testing.T, dir string) (owner *exec.Cmd, name string, guard int) {
	t.Helper()
	owner = exec.CommandContext(t.Context(), os.Args[0])
	owner.Env = append(os.Environ(), ownerEnv+"="+dir)
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = owner.Process.Kill(); _ = owner.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if _, scanErr := fmt.Sscanf(line, "up %s %d", &name, &guard); scanErr != nil {
		t.Fatalf("%q: %v, %v", line, err, scanErr)
	}
	return owner, name, guard
}

func TestLabEndsWithItsOwner(t *testing.T) {
	t.Parallel()
	dir := labs(t)
	owner, name, _ := startOwner(t, dir)
	if err := owner.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, "the guard to remove the lab", 20*time.Second, func() error {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("folder: %w", errors.Join(errors.New("it is there"), err))
		}
		return nil
	})
	for what, value := range trace(t, name) {
		if strings.Contains(value, name) {
			t.Errorf("%s: %s", what, value)
		}
	}
}

// When the guard is killed too, its lab's processes die with it, and the next Up
// removes the rest.
func TestNextUpRemovesWhatAKilledGuardLeft(t *testing.T) {
	t.Parallel()
	dir := labs(t)
	_, name, guard := startOwner(t, dir)
	if err := syscall.Kill(guard, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, "the hosts to die with the guard", 20*time.Second, func() error {
		if _, err := Open(dir, name); !errors.Is(err, ErrNoLab) {
			return fmt.Errorf("open: %w", errors.Join(errors.New("it is up"), err))
		}
		return nil
	})
	other := up(t, Config{Dir: dir, Hosts: 1})
	if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("folder of the killed lab: %v", err)
	}
	for what, value := range trace(t, name) {
		if strings.Contains(value, name) {
			t.Errorf("%s: %s", what, value)
		}
	}
	run(t, other.Host(1), "true")
}

func TestDetachedLabIsEndedByName(t *testing.T) {
	t.Parallel()
	dir := labs(t)
	lab := up(t, Config{Dir: dir, Hosts: 1, Detach: true})
	again, err := Open(dir, lab.Name())
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, again.Host(1), "hostname"); got != "m1" {
		t.Errorf("hostname is %q", got)
	}
	if err := Down(t.Context(), dir, lab.Name()); err != nil {
		t.Fatal(err)
	}
	if err := Down(t.Context(), dir, lab.Name()); !errors.Is(err, ErrNoLab) {
		t.Errorf("down twice: %v", err)
	}
}
