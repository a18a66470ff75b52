// Package guard is the lab's process on the machine's side: it starts the keeper
// in namespaces of its own, and removes the lab when its owner is gone.
//
//	owner (test or command) ══pipe══▶ guard ──pid, mount, network namespace──▶ keeper (PID 1) ─▶ hosts
//
// What it holds: the owner's death in any way closes the pipe, and the guard
// removes the lab. The guard's death in any way kills the keeper (parent-death
// signal), and with PID 1 of the namespace every process of the lab; the mounts
// and the network go with the last of them. What is left then, empty control
// groups and a folder, is removed by the next `up` or `down`.
package guard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/hactl/hactl/test/hosts/internal/labdir"
)

// Disown is what an owner sends before it closes its pipe, so that the lab
// outlives it.
const Disown = "disown\n"

// Config is what a guard is given by Up.
type Config struct {
	Dir string // the lab's folder, with its state file; the caller holds its lock
	// Result gets one line when the lab is up ("ok") or has failed (why).
	Result io.WriteCloser
	// Owner is read until its end.
	Owner io.Reader
	// Program is started as `Program keeper DIR`. Default: this one.
	Program string
}

// removeWithin is how long the removal of a lab may take.
const removeWithin = 30 * time.Second

// Run starts the keeper and returns when the lab has been removed: because ctx
// ended, the owner is gone, or the keeper has ended.
func Run(ctx context.Context, cfg Config) error {
	// The parent-death signal belongs to the thread that forks.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := run(ctx, cfg)
	if err != nil {
		_, _ = fmt.Fprintln(cfg.Result, err)
	}
	_ = cfg.Result.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeWithin)
	defer cancel()
	return errors.Join(err, labdir.Remove(ctx, cfg.Dir))
}

func run(ctx context.Context, cfg Config) error {
	keeper, ready, err := startKeeper(cfg)
	if err != nil {
		return err
	}
	defer ready.Close()
	ended := make(chan error, 1)
	go func() { ended <- keeper.Wait() }()

	up := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(ready).ReadString('\n')
		up <- line
	}()
	gone := make(chan struct{})
	go func() {
		if said, _ := io.ReadAll(cfg.Owner); string(said) != Disown {
			close(gone)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-gone:
			return nil
		case err := <-ended:
			return keeperEnded(cfg.Dir, err)
		case line := <-up:
			if line == "" {
				return keeperEnded(cfg.Dir, <-ended)
			}
			_, _ = io.WriteString(cfg.Result, line)
			_ = cfg.Result.Close()
			up = nil
		}
	}
}

// startKeeper starts the keeper and writes its pid into the state file.
func startKeeper(cfg Config) (keeper *exec.Cmd, ready *os.File, err error) {
	state, err := labdir.Read(cfg.Dir)
	if err != nil {
		return nil, nil, err
	}
	lab, err := labdir.Group(state.Cgroup)
	if err != nil {
		return nil, nil, err
	}
	group := lab.Sub("keeper")
	if err := group.Make(); err != nil {
		return nil, nil, fmt.Errorf("control group of the lab: %w", err)
	}
	groupDir, err := group.Open()
	if err != nil {
		return nil, nil, fmt.Errorf("control group of the lab: %w", err)
	}
	defer groupDir.Close()
	log, err := os.OpenFile(filepath.Join(cfg.Dir, labdir.LogFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	ready, readyEnd, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer readyEnd.Close()

	program := cfg.Program
	if program == "" {
		program = "/proc/self/exe" // works after `go run` has removed the file
	}
	keeper = exec.Command(program, "keeper", cfg.Dir)
	keeper.Stdout, keeper.Stderr = log, log
	keeper.ExtraFiles = []*os.File{readyEnd}
	keeper.Dir = "/"
	keeper.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Pdeathsig:   syscall.SIGKILL,
		UseCgroupFD: true, CgroupFD: int(groupDir.Fd()),
	}
	if err := keeper.Start(); err != nil {
		_ = ready.Close()
		return nil, nil, fmt.Errorf("start the lab's keeper in new namespaces: %w", err)
	}
	state.GuardPID, state.KeeperPID = os.Getpid(), keeper.Process.Pid
	if err := labdir.Write(cfg.Dir, state); err != nil {
		_ = keeper.Process.Kill()
		_ = keeper.Wait()
		_ = ready.Close()
		return nil, nil, err
	}
	return keeper, ready, nil
}

// keeperEnded is the error of a keeper that ended by itself, with its last words.
func keeperEnded(dir string, err error) error {
	if err == nil {
		err = errors.New("exit status 0")
	}
	log, _ := os.ReadFile(filepath.Join(dir, labdir.LogFile))
	return fmt.Errorf("the lab's keeper ended: %w: %q", err, log[max(0, len(log)-1000):])
}
