package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/testwait"
)

// terminal is a pseudo terminal with podmaster as its session's leader, as a shell's
// foreground job is to a person who types.
type terminal struct {
	*cmd
	ptm  *os.File
	mu   sync.Mutex
	seen bytes.Buffer
}

func startTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	ptm, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(ptm.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ptm.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	pts, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pts.Close()
	term := &terminal{cmd: podmasterCmd(args...), ptm: ptm}
	term.Stdin, term.Stdout, term.Stderr = pts, pts, pts
	term.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := term.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := ptm.Read(buf)
			if err != nil {
				return
			}
			term.mu.Lock()
			term.seen.Write(buf[:n])
			term.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		if term.ProcessState == nil {
			_ = term.Process.Kill()
			_ = term.Wait()
		}
		_ = ptm.Close()
		if t.Failed() {
			t.Logf("the terminal shows:\n%s", term.shows())
		}
	})
	return term
}

func (t *terminal) shows() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen.String()
}

func (t *terminal) expect(tb testing.TB, text string) {
	tb.Helper()
	testwait.For(tb, fmt.Sprintf("the terminal to show %q", text), 20*time.Second, func() error {
		if !strings.Contains(t.shows(), text) {
			return fmt.Errorf("it shows %q", t.shows())
		}
		return nil
	})
}

func (t *terminal) types(tb testing.TB, text string) {
	tb.Helper()
	if _, err := t.ptm.WriteString(text); err != nil {
		tb.Fatal(err)
	}
}

func TestTerminal(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	start := func(t *testing.T, key, script string) *terminal {
		t.Helper()
		return startTerminal(t, "--etcd-servers="+cluster.Endpoints()[0], "--key="+key, "--whoami=m1", "--", "sh", "-c", script)
	}
	released := func(t *testing.T, key string) {
		t.Helper()
		if info := waitHolder(t, cluster, key, ""); info.Last != "m1" {
			t.Errorf("not released: %+v", info)
		}
	}
	t.Run("the command reads what is typed", func(t *testing.T) {
		term := start(t, "read", `echo ready; read line; echo "<$line>"; exec sleep 1000`)
		term.expect(t, "ready")
		term.types(t, "hello\n")
		term.expect(t, "<hello>")
		term.types(t, "\x03")
		if code := term.exit(t); code != 130 {
			t.Errorf("Ctrl-C: code %d, want 130", code)
		}
		released(t, "read")
	})
	t.Run("Ctrl-C is the command's to handle", func(t *testing.T) {
		term := start(t, "trap", `trap 'echo caught' INT; echo ready; while :; do sleep 0.1; done`)
		term.expect(t, "ready")
		term.types(t, "\x03")
		term.expect(t, "caught")
		waitHolder(t, cluster, "trap", "m1")
		_ = term.Process.Signal(syscall.SIGTERM)
		if code := term.exit(t); code != 0 {
			t.Errorf("SIGTERM: code %d", code)
		}
		released(t, "trap")
	})
	t.Run("Ctrl-Z stops nobody", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out")
		term := start(t, "stop", `echo ready; while :; do echo x >>`+out+`; sleep 0.02; done`)
		term.expect(t, "ready")
		term.types(t, "\x1a")
		term.expect(t, "Ctrl-C ends it")
		size := func() int64 {
			fi, err := os.Stat(out)
			if err != nil {
				t.Fatal(err)
			}
			return fi.Size()
		}
		before := size()
		testwait.For(t, "the work to go on", 20*time.Second, func() error {
			if now := size(); now <= before {
				return fmt.Errorf("%d lines", now)
			}
			return nil
		})
		term.types(t, "\x03")
		if code := term.exit(t); code != 130 {
			t.Errorf("code %d", code)
		}
		released(t, "stop")
	})
	t.Run("a command that is restarted has the terminal again", func(t *testing.T) {
		term := start(t, "again", `echo "ready $$"; read line; echo "<$line>"; exit 1`)
		term.expect(t, "ready")
		term.types(t, "one\n")
		term.expect(t, "<one>")
		term.types(t, "two\n")
		term.expect(t, "<two>")
		_ = term.Process.Signal(syscall.SIGTERM)
		if code := term.exit(t); code != 0 {
			t.Errorf("SIGTERM: code %d", code)
		}
	})
	t.Run("Ctrl-C before the term", func(t *testing.T) {
		holder := startCmd(t, "--etcd-servers="+cluster.Endpoints()[0], "--key=wait", "--whoami=m2", "--", "sleep", "1000")
		waitHolder(t, cluster, "wait", "m2")
		term := start(t, "wait", "echo never")
		testwait.For(t, "m1 to wait", 20*time.Second, func() error {
			if info := waitHolder(t, cluster, "wait", "m2"); len(info.Waiting) != 1 {
				return fmt.Errorf("%+v", info.Waiting)
			}
			return nil
		})
		term.types(t, "\x03")
		if code := term.exit(t); code != 0 {
			t.Errorf("code %d", code)
		}
		_ = holder.Process.Signal(syscall.SIGTERM)
		holder.exit(t)
	})
}
