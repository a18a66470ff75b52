package etcdcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/testwait"
)

const ownMemberEnv = "HACTL_ETCDCLUSTER_MEMBER"

// ownMember turns the test binary into a member of ours, as hactl etcd run is.
func ownMember() {
	text, ok := os.LookupEnv(ownMemberEnv)
	if !ok {
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log, err := logging.New(os.Stderr, logging.Config{})
	var m *Member
	if err == nil {
		cfg := Config{}
		err = json.Unmarshal([]byte(text), &cfg)
		cfg.Logger = log
		cfg.Notify = func(s string) { log.Info("notify", "state", s) }
		if err == nil {
			m, err = New(cfg)
		}
	}
	if err == nil {
		err = m.Run(ctx)
	}
	exitcode.Print(os.Stderr, "member", err)
	os.Exit(exitcode.Of(err))
}

type ownProcess struct {
	tb   testing.TB
	cmd  *exec.Cmd
	out  lockedBuffer // not a file: a test of a full disk would lose it
	done chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func startOwnMember(tb testing.TB, m *master, peers []*master) *ownProcess {
	tb.Helper()
	if peers == nil {
		peers = []*master{m}
	}
	m.found(peers)
	return runOwnMember(tb, m)
}

// runOwnMember starts the process of a member that has its intent.
func runOwnMember(tb testing.TB, m *master) *ownProcess {
	tb.Helper()
	text, err := json.Marshal(struct {
		Name, Cluster, DataDir, StateDir, ClientURL, PeerURL string
		Heartbeat, Election                                  time.Duration
	}{m.cfg.Name, m.cfg.Cluster, m.cfg.DataDir, m.cfg.StateDir, m.cfg.ClientURL, m.cfg.PeerURL, m.cfg.Heartbeat, m.cfg.Election})
	if err != nil {
		tb.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	p := &ownProcess{tb: tb, done: make(chan struct{})}
	p.cmd = exec.Command(exe)
	p.cmd.Env = append(os.Environ(), ownMemberEnv+"="+string(text))
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	tb.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

func (p *ownProcess) pid() int { return p.cmd.Process.Pid }

func (p *ownProcess) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *ownProcess) wait() int {
	p.tb.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.tb.Fatalf("the process does not end; its log:\n%s", p.log())
		return 0
	}
}

func (p *ownProcess) log() string { return p.out.String() }

// waitServing waits until the member answers, in whatever process it runs.
func (m *master) waitServing() {
	m.tb.Helper()
	cl := m.client()
	testwait.For(m.tb, m.cfg.Name+" to serve", patience, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := cl.Get(ctx, "k")
		return err
	})
}

func prlimitFileSize(pid int, limit syscall.Rlimit) error {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), uintptr(syscall.RLIMIT_FSIZE), uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("prlimit: %w", errors.New(errno.Error()))
	}
	return nil
}
