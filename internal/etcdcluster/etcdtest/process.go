package etcdtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
)

// memberEnv holds the spec of a member process.
const memberEnv = "HACTL_ETCDTEST_MEMBER"

// Main turns the test binary into an etcd member when StartProcesses started it,
// and returns at once otherwise. Call it first in TestMain.
func Main() {
	text, ok := os.LookupEnv(memberEnv)
	if !ok {
		return
	}
	if err := runMember(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runMember(text string) error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	var m embedded
	if err := json.Unmarshal([]byte(text), &m.spec); err != nil {
		return err
	}
	if err := m.start(); err != nil {
		return err
	}
	<-term
	return m.stop()
}

// process is a member in a process of its own.
type process struct {
	spec spec

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

func (p *process) start() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.Marshal(p.spec)
	if err != nil {
		return err
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), memberEnv+"="+string(text))
	// A test binary that dies must not leave members behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	log, err := os.OpenFile(p.spec.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log

	started, done := make(chan error), make(chan struct{})
	go func() {
		defer close(done)
		// The kernel sends Pdeathsig when the starting *thread* ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start member %s: %w", p.spec.Name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.done = cmd, done
	return nil
}

func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) signal(sig syscall.Signal, wait bool) error {
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to member %s: %w", sig, p.spec.Name, err)
	}
	if wait {
		<-done
	}
	return nil
}

func (p *process) stop() error   { return p.signal(syscall.SIGTERM, true) }
func (p *process) kill() error   { return p.signal(syscall.SIGKILL, true) }
func (p *process) pause() error  { return p.signal(syscall.SIGSTOP, false) }
func (p *process) resume() error { return p.signal(syscall.SIGCONT, false) }
