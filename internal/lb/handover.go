package lb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The environment that tells a successor which descriptors it got.
const (
	envInherit = "HACTL_LB_INHERIT" // how many listening sockets, from descriptor 3 on
	envReady   = "HACTL_LB_READY"   // the pipe that says that it lives, and that it serves
	envDetach  = "HACTL_LB_DETACH"  // set in the process that only starts the successor
	envDrained = "HACTL_LB_DRAINED" // the backends that operators drained, in JSON

	envWatchdogPID = "WATCHDOG_PID" // systemd's: who must answer its watchdog
)

const (
	firstFD    = 3
	maxSockets = 64
)

// inheritance reads the environment: how many sockets there are, none without a
// predecessor. The pipe comes behind them.
func inheritance() (sockets int, err error) {
	text := os.Getenv(envInherit)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	pipe, err2 := strconv.Atoi(os.Getenv(envReady))
	if err := errors.Join(err, err2); err != nil || n < 1 || n > maxSockets || pipe != firstFD+n {
		return 0, fmt.Errorf("sockets from a predecessor: wrong environment: %w", err)
	}
	return n, nil
}

// Inherited returns the sockets that a predecessor has handed over, and what to
// call when this process serves; nothing and nil when there is no predecessor.
// Detached must have been called before.
func Inherited() (files []*os.File, ready func(), err error) {
	n, err := inheritance()
	_, _ = os.Unsetenv(envInherit), os.Unsetenv(envReady)
	if err != nil || n == 0 {
		return nil, nil, err
	}
	for i := range n {
		files = append(files, os.NewFile(uintptr(firstFD+i), "inherited "+strconv.Itoa(i)))
	}
	p := os.NewFile(uintptr(firstFD+n), "ready")
	_, _ = fmt.Fprintln(p, os.Getpid())
	return files, func() {
		_, _ = fmt.Fprintln(p, "ready")
		_ = p.Close()
	}, nil
}

// Detached does the work of a process that Succeed started only to start the
// successor, and reports that this is one: it should end now. A program that can
// be a successor calls it first.
//
// The successor must be an orphan when systemd is told that it is the new main
// process: systemd waits for the end of its own children only, and kills others
// at once when the unit is stopped.
func Detached() (bool, error) {
	if os.Getenv(envDetach) == "" {
		return false, nil
	}
	_ = os.Unsetenv(envDetach)
	_ = os.Unsetenv(envWatchdogPID) // a predecessor of an older version leaves it in
	n, err := inheritance()
	if err != nil || n == 0 {
		return true, fmt.Errorf("start a successor: %w", errors.Join(err, errors.New("no sockets")))
	}
	self, err := Program()
	if err != nil {
		return true, fmt.Errorf("start a successor: %w", err)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	for i := range n + 1 {
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(firstFD+i), "inherited"))
	}
	if err := cmd.Start(); err != nil {
		return true, fmt.Errorf("start a successor: %w", err)
	}
	return true, cmd.Process.Release()
}

// Program is the path that this program was started by: what is there later, under that
// name, is its upgrade. Ask it at the start: os.Executable alone follows a file that was
// renamed, and a link that was switched leads to it no more.
func Program() (string, error) {
	path := os.Args[0]
	if os.Getenv(envInherit) != "" && filepath.IsAbs(path) { // the predecessor's, which may have been replaced again
		return path, nil
	}
	if found, err := exec.LookPath(path); err == nil {
		path = found
	}
	path, err := filepath.Abs(path)
	if err == nil && sameFile(path, "/proc/self/exe") {
		return path, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the own program: %w", err)
	}
	return strings.TrimSuffix(self, " (deleted)"), nil
}

func sameFile(a, b string) bool {
	fa, err1 := os.Stat(a)
	fb, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(fa, fb)
}

// CheckProgram says why the program at path could not be started.
func CheckProgram(path string) error {
	fi, err := os.Stat(path)
	if err == nil && fi.IsDir() {
		err = fmt.Errorf("%s is a folder", path)
	}
	if err == nil {
		if err = unix.Access(path, unix.X_OK); err != nil {
			err = fmt.Errorf("execute %s: %w", path, err)
		}
	}
	if err != nil {
		return fmt.Errorf("the program on disk: %w", err)
	}
	return nil
}

// Succeed starts cmd, another load balancer, with the listening sockets, and
// returns its process id when it serves from them too. It is no child of this
// process; see Detached. If it ends or is not ready within timeout, it is killed
// and the error says so: nothing has changed then.
func Succeed(ctx context.Context, cmd *exec.Cmd, sockets []*os.File, timeout time.Duration) (pid int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start a successor: %w", err)
	}
	defer r.Close()
	cmd.ExtraFiles = append(append([]*os.File(nil), sockets...), w)
	// systemd's watchdog waits for the successor then; the variable names this process,
	// and whom it does not name does not answer.
	env := slices.DeleteFunc(cmd.Environ(), func(v string) bool { return strings.HasPrefix(v, envWatchdogPID+"=") })
	cmd.Env = append(env, envDetach+"=1", envInherit+"="+strconv.Itoa(len(sockets)), envReady+"="+strconv.Itoa(firstFD+len(sockets)))
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return 0, fmt.Errorf("start a successor: %w", err)
	}
	// What it says comes in two lines: its process id, and "ready".
	words := make(chan string, 2)
	go func() {
		defer close(words)
		for in := bufio.NewScanner(r); in.Scan() && len(words) < cap(words); {
			words <- in.Text()
		}
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for err == nil {
		select {
		case word, said := <-words:
			switch {
			case !said:
				err = errors.New("it ended before it served")
			case word == "ready":
				return pid, cmd.Wait()
			default:
				pid, err = strconv.Atoi(word)
			}
		case <-timer.C:
			err = fmt.Errorf("it did not serve within %v", timeout)
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	_ = cmd.Process.Kill()
	if pid > 1 {
		// It holds the pipe, or it has just ended.
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = r.Close()
	if werr := cmd.Wait(); werr != nil {
		err = fmt.Errorf("%w (%w)", err, werr)
	}
	return 0, fmt.Errorf("start a successor: %w", err)
}
