package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stat is the part of /proc/PID/stat that tells where a process belongs.
type stat struct {
	PID, PPID, PGID int
	State           byte
	Start           uint64 // clock ticks since boot: with PID it names a process for ever
}

// live reports whether the process can still run code.
func (s stat) live() bool { return s.State != 'Z' && s.State != 'X' && s.State != 0 }

// parseStat reads a line of /proc/PID/stat. The command's name, in parentheses,
// may hold anything, parentheses and spaces included.
func parseStat(line []byte) (stat, error) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 1 || end < open {
		return stat{}, fmt.Errorf("stat %q: no command name", line)
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(line[:open])))
	if err != nil {
		return stat{}, fmt.Errorf("stat: pid: %w", err)
	}
	f := bytes.Fields(line[end+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, fmt.Errorf("stat of %d: %d fields", pid, len(f))
	}
	s := stat{PID: pid, State: f[0][0]}
	var errs [3]error
	s.PPID, errs[0] = strconv.Atoi(string(f[1]))
	s.PGID, errs[1] = strconv.Atoi(string(f[2]))
	s.Start, errs[2] = strconv.ParseUint(string(f[19]), 10, 64)
	return s, errors.Join(errs[:]...)
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// scan lists every process that can be seen. Those that end meanwhile are left out.
func scan() ([]stat, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	all := make([]stat, 0, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s, err := readStat(pid); err == nil {
			all = append(all, s)
		}
	}
	return all, nil
}

// descendants returns the live processes among all that are roots or have one
// among their ancestors.
func descendants(all []stat, root func(stat) bool) []stat {
	byPID := make(map[int]stat, len(all))
	for _, s := range all {
		byPID[s.PID] = s
	}
	known := make(map[int]bool, len(all)) // pid → belongs
	var belongs func(s stat, depth int) bool
	belongs = func(s stat, depth int) bool {
		if b, ok := known[s.PID]; ok {
			return b
		}
		b := root(s)
		if parent, ok := byPID[s.PPID]; !b && ok && depth < len(all) {
			b = belongs(parent, depth+1)
		}
		known[s.PID] = b
		return b
	}
	var out []stat
	for _, s := range all {
		if s.live() && belongs(s, 0) {
			out = append(out, s)
		}
	}
	return out
}

// hasMark reports whether pid was started with the mark in its environment.
func hasMark(pid int, mark string) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return false
	}
	want := []byte(MarkEnv + "=" + mark)
	for kv := range bytes.SplitSeq(env, []byte{0}) {
		if bytes.Equal(kv, want) {
			return true
		}
	}
	return false
}

// signal sends sig to the very process that s describes, or to none.
func (s stat) signal(sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(s.PID, 0)
	if err != nil {
		return gone(err)
	}
	defer unix.Close(fd)
	now, err := readStat(s.PID) // the pidfd pins whoever has the pid now: is it still the same?
	if err != nil || now.Start != s.Start {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); gone(err) != nil {
		return fmt.Errorf("signal pid %d: %w", s.PID, err)
	}
	return nil
}

func gone(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// killUntilNone kills what list returns until it returns nothing.
func killUntilNone(ctx context.Context, list func() ([]stat, error)) error {
	var lastErr error
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		rest, err := list()
		if err == nil && len(rest) == 0 {
			return nil
		}
		lastErr = err
		pids := make([]int, 0, len(rest))
		for _, s := range rest {
			lastErr = errors.Join(lastErr, s.signal(unix.SIGKILL))
			pids = append(pids, s.PID)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("pids %v still live: %w", pids, errors.Join(ctx.Err(), lastErr))
		case <-time.After(pause):
		}
	}
}
