package keeper

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// children starts the keeper's processes, and reaps those that were handed to it
// as PID 1 without taking its own from their waiters.
type children struct {
	mu  sync.Mutex // held between fork and the note in own
	own map[int]bool
}

func newChildren() *children { return &children{own: map[int]bool{}} }

// start starts cmd; wait must be called.
func (c *children) start(cmd *exec.Cmd) (wait func() error, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	c.own[pid] = true
	return func() error {
		err := cmd.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.own, pid)
		return err
	}, nil
}

// run runs a program to its end. The error has what it said.
func (c *children) run(ctx context.Context, stdin string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &said, &said
	wait, err := c.start(cmd)
	if err == nil {
		err = wait()
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

// reapOrphans reaps at every signal until ctx ends.
func (c *children) reapOrphans(ctx context.Context, sigs <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-sigs:
			c.reap()
		}
	}
}

func (c *children) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return // the zombies wait for the next signal
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || c.own[pid] {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err == nil && isOrphan(string(stat)) {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
	}
}

// isOrphan says whether a line of /proc/PID/stat shows a zombie whose parent is
// PID 1. The program's name stands in parentheses and may hold anything.
func isOrphan(stat string) bool {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	return len(fields) > 1 && fields[0] == "Z" && fields[1] == "1"
}
