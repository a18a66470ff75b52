// Package keeper is PID 1 of a lab: it builds the network and the disks, boots
// the hosts as systemd-nspawn containers, and does to them what it is asked over
// its socket.
//
//	/run/lab        the lab's folder            /sys/fs/cgroup   cgroup2, whole
//	/run/tree       the base tree               lab0             the bridge
//	/run/binds/N    what every host sees        lab              the observer, 10.245.1.1
//
// It runs in mount, pid, network, ipc and uts namespaces of its own, in which
// all of that is private. It never ends by itself once the lab is up.
package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hactl/hactl/test/hosts/internal/labdir"
	"github.com/hactl/hactl/test/hosts/internal/wire"
)

// Paths in the lab's mount namespace.
const (
	labPath   = "/run/lab"
	treePath  = "/run/tree"
	bindsPath = "/run/binds"
	cgroupFS  = "/sys/fs/cgroup"
)

// bootWithin is how long a host may take to boot while the lab comes up.
const bootWithin = 2 * time.Minute

type keeper struct {
	log      *slog.Logger
	procs    *children
	network  *network
	machines []*machine
}

// Run builds the lab in dir, writes a line to ready when it is up (or why not),
// and serves requests until ctx ends.
func Run(ctx context.Context, dir string, ready io.WriteCloser, log *slog.Logger) error {
	if os.Getpid() != 1 {
		return errors.New("the keeper is started by the guard, as PID 1 of a new namespace")
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	k := &keeper{log: log, procs: newChildren()}
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, syscall.SIGCHLD)
	go k.procs.reapOrphans(ctx, sigs)

	listener, err := k.setUp(ctx, dir)
	if err != nil {
		_, _ = fmt.Fprintln(ready, err)
		_ = ready.Close()
		return err
	}
	defer listener.Close()
	_, err = fmt.Fprintln(ready, "ok")
	_ = ready.Close()
	if err != nil {
		return fmt.Errorf("tell the guard: %w", err)
	}
	k.log.Info("lab is up", "hosts", len(k.machines))
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go k.serve(ctx, conn)
	}
}

func (k *keeper) setUp(ctx context.Context, dir string) (net.Listener, error) {
	state, err := labdir.Read(dir)
	if err != nil {
		return nil, err
	}
	plan := state.Plan
	if err := mounts(dir, plan); err != nil {
		return nil, err
	}
	if k.network, err = newNetwork(ctx, plan.Hosts, k.procs, k.log); err != nil {
		return nil, err
	}
	for _, h := range plan.Hosts {
		m := &machine{
			Host: h, plan: plan, procs: k.procs, network: k.network, log: k.log.With("host", h.Name),
			dir: filepath.Join(labPath, h.Name), cgroup: labdir.Cgroup(filepath.Join(cgroupFS, plan.Cgroup, h.Name)),
		}
		if err := m.makeDisk(); err != nil {
			return nil, err
		}
		k.machines = append(k.machines, m)
	}
	ctx, cancel := context.WithTimeout(ctx, bootWithin)
	defer cancel()
	boots, bootCtx := errgroup.WithContext(ctx)
	for _, m := range k.machines {
		boots.Go(func() error { return m.powerOn(bootCtx) })
	}
	if err := boots.Wait(); err != nil {
		return nil, err
	}
	return net.Listen("unix", filepath.Join(labPath, labdir.Socket))
}

func (k *keeper) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	var answer wire.Answer
	req, err := wire.Read(conn)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, req.Within)
		answer.Status, err = k.do(ctx, req)
		cancel()
	}
	if err != nil {
		answer.Error = err.Error()
	}
	if req.Op != wire.OpStatus {
		k.log.Info("request", "op", req.Op, "host", req.Host, "ways", req.Ways, "err", err)
	}
	_ = json.NewEncoder(conn).Encode(answer)
}

func (k *keeper) do(ctx context.Context, req wire.Request) (*wire.Status, error) {
	switch req.Op {
	case wire.OpStatus:
		return k.status(), nil
	case wire.OpCut:
		return nil, k.network.cut(ctx, req.Ways)
	case wire.OpSlow:
		if req.Shape == nil {
			return nil, errors.New("slow: no shape given")
		}
		return nil, k.network.slow(ctx, req.Ways, *req.Shape)
	case wire.OpHeal:
		return nil, k.network.heal(ctx, req.Ways)
	}
	m, err := k.machine(req.Host)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", req.Op, err)
	}
	switch req.Op {
	case wire.OpPowerOn:
		return nil, m.powerOn(ctx)
	case wire.OpPowerOff:
		return nil, m.powerOff(ctx)
	case wire.OpFreeze:
		return nil, m.freeze(ctx, true)
	case wire.OpThaw:
		return nil, m.freeze(ctx, false)
	default:
		return nil, fmt.Errorf("unknown request %q", req.Op)
	}
}

func (k *keeper) machine(name string) (*machine, error) {
	for _, m := range k.machines {
		if m.Name == name {
			return m, nil
		}
	}
	return nil, fmt.Errorf("no host %q in this lab", name)
}

func (k *keeper) status() *wire.Status {
	s := &wire.Status{}
	for _, m := range k.machines {
		s.Hosts = append(s.Hosts, m.status())
	}
	s.Cuts, s.Slows = k.network.status()
	return s
}
