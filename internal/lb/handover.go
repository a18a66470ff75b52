package lb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// The environment that tells a successor which descriptors it got.
const (
	envInherit = "HACTL_LB_INHERIT" // how many listening sockets, from descriptor 3 on
	envReady   = "HACTL_LB_READY"   // the descriptor to close when it serves
)

const firstFD = 3

// Inherited returns the sockets that a predecessor has handed over, and what to
// call when this process serves; nothing and nil when there is no predecessor.
func Inherited() (files []*os.File, ready func(), err error) {
	n, err := strconv.Atoi(os.Getenv(envInherit))
	if os.Getenv(envInherit) == "" {
		return nil, nil, nil
	}
	pipe, err2 := strconv.Atoi(os.Getenv(envReady))
	_ = os.Unsetenv(envInherit)
	_ = os.Unsetenv(envReady)
	if err := errors.Join(err, err2); err != nil || n < 1 || n > 64 || pipe != firstFD+n {
		return nil, nil, fmt.Errorf("sockets from a predecessor: wrong environment: %w", err)
	}
	for i := range n {
		files = append(files, os.NewFile(uintptr(firstFD+i), "inherited "+strconv.Itoa(i)))
	}
	p := os.NewFile(uintptr(pipe), "ready")
	return files, func() {
		_, _ = p.Write([]byte{1})
		_ = p.Close()
	}, nil
}

// Succeed starts cmd, another load balancer, with the listening sockets, and
// returns when it serves from them too. If it ends or is not ready within
// timeout, it is killed and the error says so: nothing has changed then.
func Succeed(ctx context.Context, cmd *exec.Cmd, sockets []*os.File, timeout time.Duration) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start a successor: %w", err)
	}
	defer r.Close()
	cmd.ExtraFiles = append(append([]*os.File(nil), sockets...), w)
	cmd.Env = append(cmd.Environ(), envInherit+"="+strconv.Itoa(len(sockets)), envReady+"="+strconv.Itoa(firstFD+len(sockets)))
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return fmt.Errorf("start a successor: %w", err)
	}
	served := make(chan bool, 1)
	go func() {
		n, _ := r.Read(make([]byte, 1))
		served <- n == 1
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case ok := <-served:
		if ok {
			return nil
		}
		err = errors.New("it ended before it served")
	case <-timer.C:
		err = fmt.Errorf("it did not serve within %v", timeout)
	case <-ctx.Done():
		err = ctx.Err()
	}
	_ = cmd.Process.Kill()
	_ = r.Close()
	if werr := cmd.Wait(); werr != nil {
		err = fmt.Errorf("%w (%w)", err, werr)
	}
	return fmt.Errorf("start a successor: %w", err)
}
