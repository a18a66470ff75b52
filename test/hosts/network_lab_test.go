//go:build lab

package hosts

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

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
