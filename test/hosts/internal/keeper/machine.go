package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hactl/hactl/test/hosts/internal/labdir"
	"github.com/hactl/hactl/test/hosts/internal/link"
	"github.com/hactl/hactl/test/hosts/internal/wire"
)

// machine is one host: a disk that stays, and a container while it is on.
type machine struct {
	wire.Host
	plan    wire.Plan
	dir     string // disk and console
	cgroup  labdir.Cgroup
	procs   *children
	network *network
	log     *slog.Logger

	power sync.Mutex // held while the host is switched on, off, frozen or thawed

	mu        sync.Mutex
	rebooting bool // it ended to be started again
	frozen    bool
	leader    int
	boots     int
	took      time.Duration
	run       *run // nil when off
}

// rebootStatus is the exit status by which a container asks to be started again
// (systemd-nspawn(1), --keep-unit).
const rebootStatus = 133

// run is one life of the container.
type run struct {
	started time.Time
	ready   chan struct{} // closed when systemd says that it is up
	ended   chan struct{} // closed when the container is gone
	isReady bool
}

// powerOn boots the host and returns when systemd has started everything.
func (m *machine) powerOn(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	if m.current() != nil {
		return fmt.Errorf("power on %s: it is on", m.Name)
	}
	m.setRebooting(false)
	r, err := m.start(ctx)
	if err != nil {
		return fmt.Errorf("power on %s: %w", m.Name, err)
	}
	select {
	case <-r.ready:
		return nil
	case <-r.ended:
		err = errors.New("it ended while booting")
	case <-ctx.Done():
		err = fmt.Errorf("it has not booted: %w", context.Cause(ctx))
	}
	err = fmt.Errorf("power on %s: %w; its console: %q", m.Name, err, m.consoleTail())
	off, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(err, m.clear(off))
}

// powerOff ends the host as a power cut does: SIGKILL to everything at once.
func (m *machine) powerOff(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	m.setRebooting(false)
	if err := m.clear(ctx); err != nil {
		return fmt.Errorf("power off %s: %w", m.Name, err)
	}
	m.setRebooting(false)
	return nil
}

// clear kills what runs and removes what it left: control groups and the port.
func (m *machine) clear(ctx context.Context) error {
	if err := m.cgroup.Kill(ctx); err != nil {
		return err
	}
	if r := m.current(); r != nil {
		select {
		case <-r.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := m.cgroup.Remove(ctx); err != nil {
		return err
	}
	if index(m.Name) == 0 {
		return nil
	}
	// The kernel removes the port too, but when it has time.
	err := m.procs.run(ctx, "", "ip", "link", "delete", "dev", link.Port(m.Name))
	if err != nil && index(m.Name) != 0 {
		return err
	}
	return nil
}

// freeze stops or continues every process of the host. Its kernel, which is the
// machine's, still answers at the level of TCP.
func (m *machine) freeze(ctx context.Context, frozen bool) error {
	m.power.Lock()
	defer m.power.Unlock()
	if m.current() == nil {
		return fmt.Errorf("freeze %s: it is off", m.Name)
	}
	if err := m.cgroup.Freeze(ctx, frozen); err != nil {
		return fmt.Errorf("freeze %s: %w", m.Name, err)
	}
	m.mu.Lock()
	m.frozen = frozen
	m.mu.Unlock()
	return nil
}

func (m *machine) start(ctx context.Context) (*run, error) {
	if err := m.clear(ctx); err != nil {
		return nil, err
	}
	if err := m.cgroup.Make(); err != nil {
		return nil, err
	}
	group, err := m.cgroup.Open()
	if err != nil {
		return nil, err
	}
	defer group.Close()
	console, err := os.OpenFile(m.console(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer console.Close()
	socket := filepath.Join(m.dir, "notify")
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: socket})
	if err != nil {
		return nil, err
	}
	r := &run{started: time.Now(), ready: make(chan struct{}), ended: make(chan struct{})}
	m.mu.Lock()
	m.run, m.frozen, m.leader = r, false, 0
	m.mu.Unlock()

	cmd := exec.Command("systemd-nspawn", m.nspawnArgs()...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET=" + socket}
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	wait, err := m.procs.start(cmd)
	if err != nil {
		m.end(r, false)
		_ = notify.Close()
		return nil, err
	}
	go m.listen(r, notify)
	go func() {
		err := wait()
		again := cmd.ProcessState.ExitCode() == rebootStatus
		m.log.Info("host is off", "took", time.Since(r.started), "again", again, "err", err)
		_ = notify.Close()
		m.end(r, again)
		if again {
			m.reboot()
		}
	}()
	return r, nil
}

// listen takes in what the container says of itself until the socket is closed.
func (m *machine) listen(r *run, notify *net.UnixConn) {
	buf := make([]byte, 4096)
	for {
		n, err := notify.Read(buf)
		if err != nil {
			return
		}
		for line := range strings.SplitSeq(string(buf[:n]), "\n") {
			if pid, ok := strings.CutPrefix(line, "X_NSPAWN_LEADER_PID="); ok {
				m.booting(pid)
			}
			if line == "READY=1" {
				m.up(r)
			}
		}
		m.network.portsChanged()
	}
}

// booting notes a new PID 1.
func (m *machine) booting(pid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leader, _ = strconv.Atoi(pid)
	m.boots++
}

func (m *machine) up(r *run) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !r.isReady {
		r.isReady = true
		m.took = time.Since(r.started)
		close(r.ready)
	}
}

func (m *machine) end(r *run, rebooting bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run, m.leader, m.frozen, m.rebooting = nil, 0, false, rebooting
	close(r.ended)
}

// reboot starts the host again, unless somebody has switched it meanwhile.
func (m *machine) reboot() {
	m.power.Lock()
	defer m.power.Unlock()
	m.mu.Lock()
	again := m.rebooting && m.run == nil
	m.mu.Unlock()
	if !again {
		return
	}
	defer m.setRebooting(false)
	ctx, cancel := context.WithTimeout(context.Background(), bootWithin)
	defer cancel()
	if _, err := m.start(ctx); err != nil {
		m.log.Error("host stays off after its reboot", "err", err)
	}
}

func (m *machine) setRebooting(rebooting bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rebooting = rebooting
}

func (m *machine) current() *run {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.run
}

func (m *machine) status() wire.HostStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := wire.HostStatus{Host: m.Host, Leader: m.leader, Boots: m.boots, BootTook: m.took, State: wire.Off}
	switch {
	case m.run == nil && m.rebooting:
		s.State = wire.Booting
	case m.run == nil:
	case m.frozen:
		s.State = wire.Frozen
	case m.run.isReady:
		s.State = wire.On
	default:
		s.State = wire.Booting
	}
	return s
}
