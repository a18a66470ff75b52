package dev

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/child"
)

// stopTimeout bounds the clean stop of a host: kube-apiserver's drain is the
// longest part of it, 79 s where it waits for an etcd without a quorum.
const stopTimeout = 90 * time.Second

// lastDrain bounds the drain of the API servers when no other master runs that
// clients could go to, or whose etcd could give their requests a quorum: more than
// twice what an idle one takes.
const lastDrain = 20 * time.Second

// client steers the supervisor of one host.
func (f *Folder) client(host string) *child.Client {
	return child.NewClient(f.Layout(host).SupervisorSocket())
}

// running says whether a host's supervisor answers.
func (f *Folder) running(ctx context.Context, host string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := f.client(host).Units(ctx)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, child.ErrUnreachable):
		return false, nil // a socket that nobody listens on is a leftover
	default:
		return false, fmt.Errorf("%s: its supervisor does not answer: %w", host, err)
	}
}

// startHosts starts the supervisors of hosts, each in a session of its own so
// that it outlives this command and its terminal.
func (f *Folder) startHosts(ctx context.Context, hosts []string, cfg Config) error {
	for _, h := range hosts {
		if err := f.startHost(ctx, h, cfg.Programs.Hactl); err != nil {
			return fmt.Errorf("start %s: %w", h, err)
		}
		fmt.Fprintf(cfg.Progress, "%s: started\n", h)
	}
	return nil
}

func (f *Folder) startHost(ctx context.Context, host, hactl string) error {
	l := f.Layout(host)
	logPath := l.LogFile("supervisor")
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command(hactl, "dev", "supervise", "--root", l.Root)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // ProcessState says how
	}()
	// Told to stop, it takes its processes with it; killed, too, but unawaited.
	stop := func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(stopTimeout):
			_ = cmd.Process.Kill()
			<-ended
		}
	}

	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for {
		if up, err := f.running(ctx, host); err == nil && up {
			return nil
		}
		select {
		case <-tick.C:
		case <-ended:
			return fmt.Errorf("its supervisor ended at once (%s); see %s", cmd.ProcessState, logPath)
		case <-limit:
			stop()
			return fmt.Errorf("its supervisor did not answer within 10s; see %s", logPath)
		case <-ctx.Done():
			stop()
			return context.Cause(ctx)
		}
	}
}

// stopHosts shuts hosts down, all at once. Hosts that do not run are fine. When no
// master is left behind, the API servers go first, while etcd has its quorum.
func (f *Folder) stopHosts(ctx context.Context, hosts []string, progress io.Writer) error {
	running, unknown := f.which(ctx, hosts, true)
	others := slices.DeleteFunc(f.MasterNames(), func(m string) bool { return slices.Contains(hosts, m) })
	if left, err := f.which(ctx, others, true); err == nil && len(left) == 0 {
		f.endAPIServers(ctx, running, progress)
	}
	var g errgroup.Group
	for _, h := range running {
		g.Go(func() error {
			if err := f.client(h).Shutdown(ctx); err != nil && !errors.Is(err, child.ErrUnreachable) {
				return fmt.Errorf("stop %s: %w", h, err)
			}
			return nil
		})
	}
	return errors.Join(unknown, g.Wait())
}

// endAPIServers stops the API servers of hosts. One that is not done within lastDrain,
// since it waits for its etcd or for a watcher, is killed: it keeps no state. What
// fails is left to the hosts' own stop.
func (f *Folder) endAPIServers(ctx context.Context, hosts []string, progress io.Writer) {
	limit := cmp.Or(f.lastDrain, lastDrain)
	var g errgroup.Group
	killed := make([]bool, len(hosts))
	for i, h := range hosts {
		if h == FrontDoorHost {
			continue
		}
		g.Go(func() error {
			_ = f.client(h).Stop(ctx, master.Agent) // it would restart one that hangs
			drain, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			if err := f.client(h).Stop(drain, master.APIServer); err != nil && drain.Err() != nil && ctx.Err() == nil {
				killed[i] = f.client(h).Signal(ctx, master.APIServer, syscall.SIGKILL) == nil
			}
			return nil
		})
	}
	_ = g.Wait()
	for i, h := range hosts {
		if killed[i] {
			fmt.Fprintf(progress, "%s: %s was killed: it had not ended %v after it was told to\n", h, master.APIServer, limit)
		}
	}
}

// Supervise runs one host's units until ctx ends: the child supervisor's main,
// started by Up in the background.
func Supervise(ctx context.Context, l layout.Layout, logTo io.Writer) error {
	data, err := os.ReadFile(l.UnitsFile())
	if err != nil {
		return fmt.Errorf("read units: %w", err)
	}
	var units []workload.Unit
	if err := json.Unmarshal(data, &units); err != nil {
		return fmt.Errorf("read units: %s: %w", l.UnitsFile(), err)
	}
	logger, err := logging.New(logTo, logging.Config{})
	if err != nil {
		return err
	}
	s, err := child.New(child.Config{
		Units: units, Socket: l.SupervisorSocket(), NotifySocket: l.NotifySocket(),
		Logger: logger.With("master", filepath.Base(l.Root)),
	})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// Down stops every host. With purge it deletes the folder, too.
func Down(ctx context.Context, dir string, purge bool, progress io.Writer) error {
	if !exists(infoFile(dir)) {
		_, err := Open(dir)
		return err
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	f, err := Open(dir)
	if err != nil && !purge {
		return err
	}
	if f != nil {
		fmt.Fprintf(progress, "stopping %v\n", f.Hosts())
		ctx, cancel := context.WithTimeout(ctx, stopTimeout+lastDrain)
		defer cancel()
		if err := f.stopHosts(ctx, f.Hosts(), progress); err != nil {
			return err
		}
	} else if err := stopUnknown(ctx, dir, progress); err != nil {
		return err
	}
	if purge {
		return os.RemoveAll(dir)
	}
	return nil
}

// stopUnknown stops the supervisors of a folder whose dev.json cannot be used:
// every subfolder with a supervisor's socket.
func stopUnknown(ctx context.Context, dir string, progress io.Writer) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	f := &Folder{Dir: dir}
	var hosts []string
	for _, e := range entries {
		if e.IsDir() && exists(f.Layout(e.Name()).SupervisorSocket()) {
			hosts = append(hosts, e.Name())
		}
	}
	fmt.Fprintf(progress, "stopping %v\n", hosts)
	return f.stopHosts(ctx, hosts, progress)
}

// Stop shuts one host down cleanly, as a machine is shut down.
func (f *Folder) Stop(ctx context.Context, host string, progress io.Writer) error {
	if err := f.host(host); err != nil {
		return err
	}
	unlock, err := lock(f.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	up, err := f.running(ctx, host)
	if err != nil {
		return err
	}
	if !up {
		return exitcode.Errorf(exitcode.Failed, "%s is not running", host).WithHint("hactl dev start %s", host)
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout+lastDrain)
	defer cancel()
	return f.stopHosts(ctx, []string{host}, progress)
}

// Start starts one host that was stopped. It returns once its supervisor runs;
// the parts come up behind it.
func (f *Folder) Start(ctx context.Context, host, hactl string) error {
	if err := f.host(host); err != nil {
		return err
	}
	unlock, err := lock(f.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	up, err := f.running(ctx, host)
	if err != nil {
		return err
	}
	if up {
		return exitcode.Errorf(exitcode.Failed, "%s is running already", host).WithHint("hactl dev status")
	}
	if err := f.checkPorts([]string{host}); err != nil {
		return err
	}
	return f.startHost(ctx, host, hactl)
}
