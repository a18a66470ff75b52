//go:build lab

package hosts

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/testwait"
)

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
