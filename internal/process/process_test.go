package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hactl/hactl/internal/testwait"
)

const roleEnv = "PROCESS_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleEnv); role {
	case "":
		goleak.VerifyTestMain(m)
	case "parent": // starts os.Args[1:], tells its pid, and waits to be killed
		p, err := Start(Config{Path: os.Args[1], Args: os.Args[2:], Stdout: os.Stdout})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(p.PID())
		select {}
	case "fused":
		if err := fused(os.Args[1]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	case "reaper": // a subreaper that kills what its shell left behind
		if err := reaper(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

func reaper() error {
	if err := BecomeSubreaper(); err != nil {
		return err
	}
	p, err := Start(Config{Path: "sh", Args: []string{"-c", daemonize}, Env: []string{"PATH=" + os.Getenv("PATH")}, Stdout: os.Stdout})
	if err != nil {
		return err
	}
	p.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := KillDescendants(ctx); err != nil {
		return err
	}
	for rest := []int{0}; len(rest) > 0; {
		if rest, err = Descendants(); err != nil {
			return err
		}
	}
	if n := ReapOrphans(); n != 1 {
		return fmt.Errorf("reaped %d orphans, want 1", n)
	}
	fmt.Println("clean")
	return nil
}

// daemonize tells the pid of a process that left its session, whose parents end.
const daemonize = `p=$(setsid sh -c 'echo $$; exec sleep 1000 >/dev/null 2>&1' </dev/null &); echo $p`

// start starts a process whose output lines can be read.
func start(t *testing.T, cfg Config) (*Process, *bufio.Reader) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Stdout = w
	p, err := Start(cfg)
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Kill()
		p.Wait()
		_ = r.Close()
	})
	return p, bufio.NewReader(r)
}

func role(role string) []string { return append(os.Environ(), roleEnv+"="+role) }

func readPID(t *testing.T, r *bufio.Reader) int {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("read pid: %v (%q)", err, line)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func waitDead(t *testing.T, what string, pid int) {
	t.Helper()
	testwait.For(t, what+" to be dead", 10*time.Second, func() error {
		if s, err := readStat(pid); err == nil && s.live() {
			return fmt.Errorf("pid %d is in state %c", pid, s.State)
		}
		return nil
	})
}

func TestExit(t *testing.T) {
	for _, tc := range []struct {
		script, text string
		code         int
	}{
		{"exit 0", "exit status 0", 0},
		{"exit 3", "exit status 3", 3},
		{"kill -KILL $$", "signal: killed", 137},
		{"kill -TERM $$", "signal: terminated", 143},
	} {
		p, _ := start(t, Config{Path: "sh", Args: []string{"-c", tc.script}})
		e := p.Wait()
		if e.String() != tc.text || e.ShellCode() != tc.code || e.OK() != (tc.code == 0) {
			t.Errorf("%s: %q, shell code %d, ok %v", tc.script, e, e.ShellCode(), e.OK())
		}
		if (p.Err() == nil) != (tc.code == 0) {
			t.Errorf("%s: Err %v", tc.script, p.Err())
		}
		var ee *ExitError
		if tc.code != 0 && !errors.As(p.Err(), &ee) {
			t.Errorf("%s: Err is %T", tc.script, p.Err())
		}
		if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("%s: signal after the end: %v", tc.script, err)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	plain := dir + "/plain"
	if err := os.WriteFile(plain, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		cfg  Config
		want error
	}{
		"not in PATH":      {Config{Path: "no-such-program-here"}, exec.ErrNotFound},
		"no file":          {Config{Path: dir + "/none"}, fs.ErrNotExist},
		"not executable":   {Config{Path: plain}, fs.ErrPermission},
		"no folder":        {Config{Path: "true", Dir: dir + "/none"}, fs.ErrNotExist},
		"empty":            {Config{}, nil},
		"foreground alone": {Config{Path: "true", Foreground: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Start(tc.cfg)
			if err == nil || (tc.want != nil && !errors.Is(err, tc.want)) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if !strings.Contains(err.Error(), strconv.Quote(tc.cfg.Path)) {
				t.Errorf("%v does not name the program", err)
			}
		})
	}
}

func TestEnvDirAndFiles(t *testing.T) {
	dir := t.TempDir()
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("typed\n"); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	defer in.Close()
	p, out := start(t, Config{
		Path: "sh", Args: []string{"-c", `read a <&3; echo "$A $a $(pwd)"`}, Dir: dir,
		Env: []string{"A=b", "PATH=" + os.Getenv("PATH"), MarkEnv + "=inherited"}, ExtraFiles: []*os.File{in},
	})
	got, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if want := "b typed " + dir + "\n"; string(got) != want || !p.Wait().OK() {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The thread that called Start ends; the child must not die of it.
func TestOutlivesTheCallersThread(t *testing.T) {
	type started struct {
		p   *Process
		err error
	}
	ch := make(chan started)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		p, err := Start(Config{Path: "cat", Stdin: r})
		ch <- started{p, err}
	}()
	s := <-ch
	if s.err != nil {
		t.Fatal(s.err)
	}
	_ = r.Close()
	for range 200 { // threads come and go
		done := make(chan struct{})
		go func() { runtime.LockOSThread(); close(done) }()
		<-done
	}
	select {
	case <-s.p.Done():
		t.Fatalf("the child died with its caller's thread: %v", s.p.Exit())
	default:
	}
	_ = w.Close() // cat ends at the end of its input, not by a signal
	if e := s.p.Wait(); !e.OK() {
		t.Fatalf("the child ended with %v", e)
	}
}

func TestChildDiesWithItsParent(t *testing.T) {
	parent, out := start(t, Config{Path: os.Args[0], Args: []string{"sleep", "1000"}, Env: role("parent")})
	child := readPID(t, out)
	if err := parent.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	parent.Wait()
	waitDead(t, "the child of a killed parent", child)
}

func TestGroupDiesWithItsLeader(t *testing.T) {
	p, out := start(t, Config{Path: "sh", Args: []string{"-c", "sleep 1000 >/dev/null & echo $!; wait"}})
	grandchild := readPID(t, out)
	if err := p.Signal(syscall.SIGKILL); err != nil { // the leader only
		t.Fatal(err)
	}
	p.Wait()
	waitDead(t, "the grandchild", grandchild)
}

func TestKeepGroup(t *testing.T) {
	p, out := start(t, Config{Path: "sh", Args: []string{"-c", "sleep 1000 >/dev/null & echo $!"}, KeepGroup: true})
	grandchild := readPID(t, out)
	p.Wait()
	s, err := readStat(grandchild)
	if err != nil || !s.live() {
		t.Fatalf("the grandchild is gone: %v", err)
	}
	if err := p.KillRemaining(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitDead(t, "the grandchild", grandchild)
}

func TestDaemonIsFoundByItsMark(t *testing.T) {
	p, out := start(t, Config{Path: "sh", Args: []string{"-c", daemonize}})
	daemon := readPID(t, out)
	p.Wait()
	if s, err := readStat(daemon); err != nil || s.PGID == p.PID() {
		t.Fatalf("no daemon: %+v, %v", s, err)
	}
	rest, err := p.Remaining()
	if err != nil || len(rest) != 1 || rest[0] != daemon {
		t.Fatalf("remaining %v, %v; want [%d]", rest, err, daemon)
	}
	if err := p.KillRemaining(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitDead(t, "the daemon", daemon)
	if rest, err := p.Remaining(); err != nil || len(rest) != 0 {
		t.Fatalf("remaining %v, %v; want none", rest, err)
	}
}

func TestSubreaperKillsDaemons(t *testing.T) {
	p, out := start(t, Config{Path: os.Args[0], Env: role("reaper")})
	daemon := readPID(t, out)
	line, _ := out.ReadString('\n')
	if strings.TrimSpace(line) != "clean" {
		t.Fatalf("reaper says %q", line)
	}
	if e := p.Wait(); !e.OK() {
		t.Fatal(e)
	}
	waitDead(t, "the daemon", daemon)
}

func TestSignalTreeReachesDaemons(t *testing.T) {
	p, out := start(t, Config{Path: "sh", Args: []string{"-c", daemonize + "; exec sleep 1000"}})
	daemon := readPID(t, out)
	if err := p.SignalTree(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{p.PID(), daemon} {
		testwait.For(t, "a stop", 10*time.Second, func() error {
			if s, err := readStat(pid); err != nil || s.State != 'T' {
				return fmt.Errorf("pid %d: state %c: %w", pid, s.State, err)
			}
			return nil
		})
	}
	if err := p.KillRemaining(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitDead(t, "the daemon", daemon)
}

func TestStop(t *testing.T) {
	for name, tc := range map[string]struct {
		script, want string
		freeze       bool
	}{
		"polite":            {`trap 'exit 7' TERM; echo $$; while :; do sleep 0.01; done`, "exit status 7", false},
		"stubborn":          {`trap '' TERM; echo $$; while :; do sleep 0.01; done`, "signal: killed", false},
		"stopped, polite":   {`trap 'exit 7' TERM; echo $$; while :; do sleep 0.01; done`, "exit status 7", true},
		"stopped, stubborn": {`trap '' TERM; echo $$; while :; do sleep 0.01; done`, "signal: killed", true},
	} {
		t.Run(name, func(t *testing.T) {
			p, out := start(t, Config{Path: "sh", Args: []string{"-c", tc.script}})
			readPID(t, out)
			if tc.freeze {
				if err := p.SignalGroup(syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
			grace := 10 * time.Second
			if strings.HasSuffix(name, "stubborn") {
				grace = 50 * time.Millisecond
			}
			if e := p.Stop(t.Context(), grace); e.String() != tc.want {
				t.Errorf("ended with %v, want %s", e, tc.want)
			}
		})
	}
}

func TestStopKillsAtOnceWhenCanceled(t *testing.T) {
	p, out := start(t, Config{Path: "sh", Args: []string{"-c", `trap '' TERM; echo $$; while :; do sleep 0.01; done`}})
	readPID(t, out)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if e := p.Stop(ctx, time.Hour); e.Signal != syscall.SIGKILL {
		t.Errorf("ended with %v", e)
	}
}

func TestKillRemainingTellsWhatIsLeft(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := killUntilNone(ctx, func() ([]stat, error) { return []stat{{PID: 1 << 30, Start: 1}}, nil })
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), strconv.Itoa(1<<30)) {
		t.Fatalf("got %v", err)
	}
}

// A pid that now belongs to another process is not signalled.
func TestSignalComparesTheStart(t *testing.T) {
	p, _ := start(t, Config{Path: "sleep", Args: []string{"1000"}})
	s, err := readStat(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	s.Start++
	if err := s.signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := p.Wait(); e.Signal != syscall.SIGTERM {
		t.Fatalf("ended with %v: another process' signal reached it", e)
	}
}

func TestParseStat(t *testing.T) {
	tail := strings.Repeat("0 ", 16)
	for name, tc := range map[string]struct {
		line string
		want stat
		bad  bool
	}{
		"plain":        {"12 (cat) S 3 12 12 " + tail[:30] + "99 0", stat{PID: 12, PPID: 3, PGID: 12, State: 'S', Start: 99}, false},
		"odd name":     {"12 (a) S (b c) R 3 12 12 " + tail[:30] + "99 0", stat{PID: 12, PPID: 3, PGID: 12, State: 'R', Start: 99}, false},
		"no name":      {"12 S 3", stat{}, true},
		"short":        {"12 (cat) S 3 12", stat{}, true},
		"empty":        {"", stat{}, true},
		"not a number": {"12 (cat) S x 12 12 " + tail[:30] + "99", stat{}, true},
	} {
		got, err := parseStat([]byte(tc.line))
		if (err != nil) != tc.bad || (!tc.bad && got != tc.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (cat) S 3 12 12 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 99 0"))
	f.Add([]byte(")("))
	f.Fuzz(func(t *testing.T, line []byte) {
		if s, err := parseStat(line); err == nil && s.State == 0 {
			t.Errorf("%q: no state and no error", line)
		}
	})
}

func TestIdentity(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	if !self.Alive() {
		t.Error("the test itself is not alive")
	}
	other := self
	other.Start++
	if other.Alive() {
		t.Error("an earlier process with this pid is alive")
	}
	other = self
	other.Host, other.PID = "another", 1<<30
	if !other.Alive() {
		t.Error("a process of another host is said to be dead")
	}
	other.Host = self.Host
	if other.Alive() {
		t.Error("a pid that nobody has is alive")
	}
}
