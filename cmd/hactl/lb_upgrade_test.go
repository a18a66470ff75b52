package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/lb"
	"github.com/hactl/hactl/internal/testwait"
)

// installHactl puts this program at path as package managers do: beside it, then renamed.
func installHactl(t *testing.T, path string) {
	t.Helper()
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Close(), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// SIGUSR2 starts the program on disk, whatever became of the file that runs, upgrade after
// upgrade; what an operator drained stays drained then, and at a restart. Without a
// program there the old process serves on.
func TestLBUpgrade(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "hactl") // testscript goes by the name
	installHactl(t, program)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	said := func() string { data, _ := os.ReadFile(log.Name()); return string(data) }
	backends := []string{namedServer(t, "m1") + ":6444", namedServer(t, "m2") + ":6444"}
	pid := 0 // of the one that serves
	start := func() {
		t.Helper()
		cmd := exec.Command(program, "lb", "run", "--root", dir, "--check", "tcp", "--listen", "unix:"+filepath.Join(dir, "front.sock"),
			"--drain-timeout", "1ms", "--backend", backends[0]+",name=m1", "--backend", backends[1]+",name=m2")
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid = cmd.Process.Pid
		t.Cleanup(func() {
			if pid > 0 {
				_ = syscall.Kill(pid, syscall.SIGTERM)
				pid = 0
			}
			_ = cmd.Wait() // a successor is nobody's child here
		})
	}
	served := func(what string, ok func(lb.Status) error) {
		t.Helper()
		testwait.For(t, what, 30*time.Second, func() error {
			s, err := lbStatus(t, dir)
			if err == nil {
				err = ok(s)
			}
			if err != nil {
				return fmt.Errorf("%w\n%s", err, said())
			}
			pid = s.PID
			return nil
		})
	}
	ready := func(s lb.Status) error {
		if len(s.Backends) != 2 || !s.Backends[0].Usable && !s.Backends[0].Drained || !s.Backends[1].Usable {
			return fmt.Errorf("%+v", s.Backends)
		}
		return nil
	}
	start()
	served("both backends", ready)
	if _, _, err := hactlLB(t.Context(), "drain", "--root", dir, "m1"); err != nil {
		t.Fatal(err)
	}
	stillDrained := func(when string) {
		t.Helper()
		s, err := lbStatus(t, dir)
		if err != nil || !s.Backends[0].Drained || s.Backends[1].Drained {
			t.Errorf("after %s: %+v, %v", when, s.Backends, err)
		}
	}
	for n := range 2 {
		old := pid
		if err := os.Rename(program, fmt.Sprint(program, ".old", n)); err != nil {
			t.Fatal(err)
		}
		installHactl(t, program)
		if err := syscall.Kill(old, syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		served("a successor", func(s lb.Status) error {
			if s.PID == old {
				return errors.New("the old one answers")
			}
			return ready(s)
		})
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || exe != program {
			t.Errorf("upgrade %d started %s, %v; on disk is %s", n, exe, err, program)
		}
		stillDrained("an upgrade")
		testwait.For(t, "the log to tell of it", 30*time.Second, func() error {
			want := []string{fmt.Sprintf("pid=%d", pid), "program=" + program, "version="}
			for line := range strings.Lines(strings.ReplaceAll(said(), `"`, "")) {
				if strings.Contains(line, "successor serves") && strings.Contains(line, want[0]) && strings.Contains(line, want[1]) &&
					strings.Contains(line, want[2]+"v") {
					return nil
				}
			}
			return errors.New(said())
		})
	}
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	old := pid
	if err := syscall.Kill(old, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, "the log to tell that there is no program", 30*time.Second, func() error {
		if s := said(); !strings.Contains(s, "serves on") || !strings.Contains(s, program+": no such file") {
			return errors.New(s)
		}
		return nil
	})
	served("the old one", ready)
	if pid != old {
		t.Errorf("%d serves, not %d", pid, old)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, "it to end", 30*time.Second, func() error {
		if c, err := net.Dial("unix", filepath.Join(dir, "run/hactl/lb.sock")); err == nil {
			return errors.Join(errors.New("it still answers"), c.Close())
		}
		return nil
	})
	pid = 0
	installHactl(t, program)
	start()
	served("a restart", ready)
	stillDrained("a restart")
}

// Who wants an address that is taken learns how to go on.
func TestLBAddressInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, _, err = hactlLB(t.Context(), "run", "--root", t.TempDir(), "--check", "tcp", "--backend", "127.0.0.1:1", "--listen", ln.Addr().String())
	var e *exitcode.Error
	if !errors.As(err, &e) || e.Code != exitcode.Failed || !strings.Contains(e.Hint, "-USR2") || !strings.Contains(e.Hint, "ss -ltnp") {
		t.Errorf("%#v", err)
	}
}
