package lb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

const successorEnv = "LB_TEST_SUCCESSOR"

// A successor takes the sockets over while clients connect all the time: none is
// refused, and old connections go on at the predecessor.
func TestHandOver(t *testing.T) {
	backend := echoServer(t)
	f := listener(t, "127.0.0.1:0")
	keep, err := detach(f)
	if err != nil {
		t.Fatal(err)
	}
	own := os.NewFile(uintptr(keep), "own")
	spare := listenerCopy(t, own)
	r := newRig(t, nil, Config{Listeners: []*os.File{own}, Source: Static([]Backend{{Address: backend}}), Check: Check{Kind: CheckTCP}, DrainTimeout: time.Hour})
	old, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	say(t, old, "old")

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var tries atomic.Int64
	wg.Go(func() {
		for ctx.Err() == nil {
			c, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Errorf("try %d: %v", tries.Load(), err)
				return
			}
			say(t, c, "new")
			_ = c.Close()
			tries.Add(1)
		}
	})
	cmd := exec.Command(os.Args[0], "-test.run=^TestSuccessor$")
	cmd.Env = append(os.Environ(), successorEnv+"="+backend, "WATCHDOG_USEC=10000000", "WATCHDOG_PID="+strconv.Itoa(os.Getpid()))
	stdin, in, err1 := os.Pipe()
	out, stdout, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stdout
	pid, err := Succeed(ctx, cmd, []*os.File{spare}, patience)
	_, _ = stdin.Close(), stdout.Close()
	if err != nil {
		said, _ := io.ReadAll(out)
		t.Fatalf("%v\n%s", err, said)
	}
	if pid <= 1 || pid == cmd.Process.Pid || parentOf(t, pid) == os.Getpid() {
		t.Errorf("the successor %d is a child of this process, %d; systemd would not wait for its end", pid, os.Getpid())
	}
	_ = spare.Close()
	r.KeepConnections()
	stopped := make(chan struct{})
	go func() { r.stop(); close(stopped) }()
	eventually(t, "the predecessor to accept nothing", func() bool { return len(r.engineListeners()) == 0 })
	before := tries.Load()
	eventually(t, "the successor to serve", func() bool { return tries.Load() > before+5 })
	say(t, old, "still here")
	select {
	case <-stopped:
		t.Error("the predecessor ended with a connection open")
	default:
	}
	_ = old.Close()
	<-stopped
	cancel()
	wg.Wait()
	_ = in.Close()
	if said, err := io.ReadAll(out); err != nil || !strings.Contains(string(said), "PASS") { // to its end
		t.Errorf("successor: %v\n%s", err, said)
	}
}

// A predecessor of an older version leaves in the environment whom systemd's watchdog
// expects: itself. The successor answers all the same.
func TestSuccessorOfAnOlderVersionAnswersTheWatchdog(t *testing.T) {
	socket := listener(t, "127.0.0.1:0")
	defer socket.Close()
	stdin, in, err1 := os.Pipe()
	out, stdout, err2 := os.Pipe()
	ready, says, err3 := os.Pipe()
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	defer ready.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSuccessor$")
	cmd.Env = append(os.Environ(), successorEnv+"="+echoServer(t), "WATCHDOG_USEC=10000000", envWatchdogPID+"="+strconv.Itoa(os.Getpid()),
		envDetach+"=1", envInherit+"=1", envReady+"="+strconv.Itoa(firstFD+1))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stdout
	cmd.ExtraFiles = []*os.File{socket, says}
	err := cmd.Run() // it only starts the successor
	_, _, _ = stdin.Close(), stdout.Close(), says.Close()
	if err != nil {
		t.Error(err)
	}
	if said, err := io.ReadAll(ready); err != nil || !strings.HasSuffix(string(said), "\nready\n") { // until it has closed the pipe
		t.Errorf("successor: %q, %v", said, err)
	}
	_ = in.Close()
	if said, err := io.ReadAll(out); err != nil || !strings.Contains(string(said), "PASS") { // to its end
		t.Errorf("successor: %v\n%s", err, said)
	}
}

// A successor of an older version does not take the variable out itself.
func TestSuccessorHearsOfNoOthersWatchdog(t *testing.T) {
	t.Setenv(envWatchdogPID, strconv.Itoa(os.Getpid()))
	var out strings.Builder
	cmd := exec.Command("sh", "-c", `echo "pid is ${WATCHDOG_PID-not there}"`)
	cmd.Stdout = &out
	if _, err := Succeed(t.Context(), cmd, nil, patience); err == nil || out.String() != "pid is not there\n" {
		t.Errorf("%v, %q", err, out.String())
	}
}

// A balancer that has handed over ends its quiet connections in an orderly way, one after
// the other, before the drain time, here the default, is over: none is reset.
func TestHandedOverConnectionsAreNotReset(t *testing.T) {
	var handed atomic.Bool
	r := newRig(t, nil, Config{
		Source: Static([]Backend{{Address: echoServer(t)}}), Check: Check{Kind: CheckTCP}, Watchdog: 100 * time.Millisecond,
		Notify: func(s string) {
			if handed.Load() {
				t.Errorf("it tells the service manager %s, who listens to the successor", s)
			}
		},
	})
	var conns []net.Conn
	for range 40 {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 3 { // fewer might be a handshake
			say(t, c, "hello")
		}
		conns = append(conns, c)
	}
	r.KeepConnections()
	ticks := r.ticked.Load()
	eventually(t, "a last word that was under way", func() bool { return r.ticked.Load() > ticks })
	handed.Store(true)
	stopped := make(chan struct{})
	go func() { r.stop(); close(stopped) }()
	counts := map[int64]bool{}
	eventually(t, "all to have ended", func() bool {
		open := r.engine.Open()
		counts[open] = true
		return open == 0
	})
	if len(counts) < len(conns)/4 {
		t.Errorf("of %d open connections many ended at once: seen were %v", len(conns), counts)
	}
	for i, c := range conns {
		_ = c.SetDeadline(time.Now().Add(patience))
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("connection %d: %v, want an orderly end", i, err)
		}
	}
	<-stopped
}

func TestEndNow(t *testing.T) {
	for _, tc := range []struct {
		open          int64
		passed, whole time.Duration
		want          int
	}{
		{1000, 0, 10 * time.Second, 0},
		{1000, 4900 * time.Millisecond, 10 * time.Second, 0},
		{1000, 5 * time.Second, 10 * time.Second, 10}, // a hundred looks are left
		{500, 7500 * time.Millisecond, 10 * time.Second, 10},
		{3, 5 * time.Second, 10 * time.Second, 1},
		{7, 9990 * time.Millisecond, 10 * time.Second, 7},
		{7, 11 * time.Second, 10 * time.Second, 7},
		{7, 0, time.Millisecond, 0},
		{0, 6 * time.Second, 10 * time.Second, 0},
	} {
		if got := endNow(tc.open, tc.passed, tc.whole); got != tc.want {
			t.Errorf("%d open after %v of %v: %d, want %d", tc.open, tc.passed, tc.whole, got, tc.want)
		}
	}
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	var state string
	var ppid int
	if _, err := fmt.Sscan(rest, &state, &ppid); err != nil {
		t.Fatal(err)
	}
	return ppid
}

func (r *rig) engineListeners() []string {
	if c, err := net.Dial("tcp", r.addr); err == nil {
		_ = c.Close()
	}
	if r.engine.Accepting() {
		return []string{r.addr}
	}
	return nil
}

// TestSuccessor is the process that TestHandOver starts.
func TestSuccessor(t *testing.T) {
	backend := os.Getenv(successorEnv)
	if backend == "" {
		return // only as a child
	}
	if every, err := daemon.SdWatchdogEnabled(false); err != nil || every != 10*time.Second {
		t.Errorf("the service manager's watchdog gets an answer each %v, %v; want 10s as the predecessor", every, err)
	}
	files, ready, err := Inherited()
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	b, err := New(Config{Listeners: files, Source: Static([]Backend{{Address: backend}}), Check: Check{Kind: CheckTCP}, Notify: func(s string) {
		if s == "READY=1" {
			ready()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestSuccessorThatDoesNotServe(t *testing.T) {
	for name, tc := range map[string]struct {
		args    []string
		timeout time.Duration
		want    string
	}{
		"ends":         {[]string{"true"}, patience, "ended before it served"},
		"fails":        {[]string{"false"}, patience, "ended before it served (exit status 1)"},
		"hangs":        {[]string{"cat"}, 50 * time.Millisecond, "did not serve within"},
		"is not ready": {[]string{"sh", "-c", "echo $$ >&3; exec cat"}, 500 * time.Millisecond, "did not serve within"},
		"not to run":   {[]string{"/nonexistent/program"}, patience, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(tc.args[0])
			r, w, _ := os.Pipe() // cat waits for its end
			cmd.Stdin = r
			defer w.Close()
			defer r.Close()
			if _, err := Succeed(t.Context(), cmd, nil, tc.timeout); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestInheritedRefusesNonsense(t *testing.T) {
	for _, n := range []string{"x", "-1", "0", "1000"} {
		t.Setenv(envInherit, n)
		t.Setenv(envReady, "4")
		if _, _, err := Inherited(); err == nil {
			t.Errorf("%s sockets: no error", n)
		}
	}
	t.Setenv(envInherit, "")
	if f, ready, err := Inherited(); f != nil || ready != nil || err != nil {
		t.Error("something inherited from nobody")
	}
}

func TestListenTakesInheritedSocket(t *testing.T) {
	f := listener(t, "127.0.0.1:0")
	addr := addressOf(t, f)
	other := listener(t, "127.0.0.1:0")
	unasked := addressOf(t, other)
	files, unused, err := Listen(t.Context(), []string{addr}, []*os.File{other, f})
	if err != nil || len(files) != 1 || files[0] != f {
		t.Fatalf("got %v %v, want the inherited one", files, err)
	}
	defer f.Close()
	if !slices.Equal(unused, []string{unasked}) {
		t.Errorf("unused are %q, want %s", unused, unasked)
	}
	if _, err := net.Dial("tcp", unasked); err == nil {
		t.Error("the one that nobody asked for still listens")
	}
	if _, _, err := Listen(t.Context(), []string{addr}, nil); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second one on the same address: %v", err)
	}
	for _, bad := range []string{"nonsense", "1.2.3.4", "unix:relative", "256.0.0.1:99999", "localhost:6443", ":https", "127.0.0.1:70000"} {
		if _, _, err := Listen(t.Context(), []string{bad}, nil); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

// Whatever form an address is written in, a successor finds the socket that its
// predecessor, or systemd, has bound for it.
func TestEveryFormOfAddressIsInherited(t *testing.T) {
	for _, tc := range []struct{ before, after, bound string }{
		{"0.0.0.0:PORT", "0.0.0.0:PORT", "0.0.0.0:PORT"},
		{":PORT", ":PORT", "[::]:PORT"},
		{"*:PORT", ":PORT", "[::]:PORT"},
		{"[::]:PORT", "[::]:PORT", "[::]:PORT"},
		{"127.0.0.1:PORT", "127.0.0.1:PORT", "127.0.0.1:PORT"},
		{"[::1]:PORT", "[::1]:PORT", "[::1]:PORT"},
		{"[::ffff:127.0.0.1]:PORT", "127.0.0.1:PORT", "127.0.0.1:PORT"},
		{":PORT", "0.0.0.0:PORT", "[::]:PORT"}, // a socket unit with ListenStream=PORT; an older version
		{"0.0.0.0:PORT", ":PORT", "0.0.0.0:PORT"},
	} {
		t.Run(tc.before+" then "+tc.after, func(t *testing.T) {
			f := listener(t, strings.ReplaceAll(tc.before, "PORT", "0"))
			defer f.Close()
			bound := addressOf(t, f)
			_, port, _ := net.SplitHostPort(bound)
			with := func(s string) string { return strings.ReplaceAll(s, "PORT", port) }
			if bound != with(tc.bound) {
				t.Errorf("bound to %s, want %s", bound, with(tc.bound))
			}
			files, unused, err := Listen(t.Context(), []string{with(tc.after)}, []*os.File{f})
			if len(unused) != 0 {
				t.Errorf("unused: %q", unused)
			}
			if err != nil || len(files) != 1 || files[0] != f {
				t.Errorf("got %v %v, want the inherited one", files, err)
			}
		})
	}
}

// A socket that is IPv6 alone (BindIPv6Only=ipv6-only in the socket unit) serves no
// IPv4: who wants that gets a second one.
func TestIPv6AloneIsNotBoth(t *testing.T) {
	for _, tc := range []struct {
		listen   string
		v4too    bool // there is one to inherit
		families string
		unused   int
	}{
		{listen: "[::]:PORT", families: "6"},
		{listen: "[::]:PORT", v4too: true, families: "6", unused: 1},
		{listen: "[::]:PORT 0.0.0.0:PORT", families: "64"},
		{listen: "[::]:PORT 0.0.0.0:PORT", v4too: true, families: "64"},
		{listen: "0.0.0.0:PORT", families: "4", unused: 1},
		{listen: "0.0.0.0:PORT", v4too: true, families: "4", unused: 1},
		{listen: ":PORT", families: "64"},
		{listen: ":PORT", v4too: true, families: "64"},
		{listen: ":PORT 0.0.0.0:PORT", families: "64"},
		{listen: ":PORT 0.0.0.0:PORT", v4too: true, families: "64"},
	} {
		t.Run(fmt.Sprintf("%s v4=%v", tc.listen, tc.v4too), func(t *testing.T) {
			six, port := ipv6Alone(t)
			inherited := []*os.File{six}
			if tc.v4too {
				inherited = []*os.File{listener(t, "0.0.0.0:"+port), six}
			}
			files, unused, err := Listen(t.Context(), strings.Fields(strings.ReplaceAll(tc.listen, "PORT", port)), inherited)
			if err != nil || len(unused) != tc.unused {
				t.Errorf("unused %q, %v", unused, err)
			}
			families := ""
			for _, f := range files {
				own, err := addressesOf([]*os.File{f})
				switch {
				case err != nil:
					t.Error(err)
				case own.has("127.0.0.1:"+port) && own.has("[::1]:"+port):
					families += "both"
				case own.has("127.0.0.1:" + port):
					families += "4"
				case own.has("[::1]:" + port):
					families += "6"
				}
				if is := addressOf(t, f); is == "[::]:"+port && f != six {
					t.Errorf("%s is not the inherited one", is)
				}
				_ = f.Close()
			}
			if families != tc.families {
				t.Errorf("sockets of IP versions %s, want %s", families, tc.families)
			}
		})
	}
}

// ipv6Alone is a socket on [::] without IPv4, and its port.
func ipv6Alone(t *testing.T) (*os.File, string) {
	t.Helper()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), "tcp6", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return f, port
}

func TestTakeInherited(t *testing.T) {
	front, metrics := listener(t, "127.0.0.1:0"), listener(t, "127.0.0.1:0")
	defer front.Close()
	defer metrics.Close()
	addr := addressOf(t, metrics)
	taken, rest, err := TakeInherited(addr, []*os.File{metrics, front})
	if err != nil || taken != metrics || len(rest) != 1 || rest[0] != front {
		t.Errorf("got %v, %v, %v", taken, rest, err)
	}
	// One that began to be wanted with the upgrade takes nobody else's socket.
	taken, rest, err = TakeInherited("127.0.0.1:1", []*os.File{front})
	if err != nil || taken != nil || len(rest) != 1 {
		t.Errorf("got %v, %v, %v", taken, rest, err)
	}
	if _, _, err := TakeInherited("nonsense", nil); err == nil {
		t.Error("no error")
	}
}

func TestListenUnix(t *testing.T) {
	path := "unix:" + t.TempDir() + "/s"
	first := listener(t, path)
	if _, _, err := Listen(t.Context(), []string{path}, nil); err == nil || !strings.Contains(err.Error(), "another process serves there") {
		t.Errorf("a live socket: %v", err)
	}
	_ = first.Close() // the file stays, as after a crash
	second := listener(t, path)
	_ = second.Close()
}

func listenerCopy(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := dup(f)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), addressOf(t, f))
}

func echoServer(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { _, _ = io.Copy(c, c); _ = c.Close() })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

func say(t *testing.T, c net.Conn, what string) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(c, what); err != nil {
		t.Errorf("say %q: %v", what, err)
		return
	}
	if got, err := bufio.NewReader(c).ReadString('\n'); err != nil || got != what+"\n" {
		t.Errorf("said %q, heard %q, %v", what, got, err)
	}
}
