package hosts

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hactl/hactl/test/hosts/internal/guard"
	"github.com/hactl/hactl/test/hosts/internal/labdir"
	"github.com/hactl/hactl/test/hosts/internal/link"
	"github.com/hactl/hactl/test/hosts/internal/wire"
)

// ErrNoLab is returned by Open when no lab of that name is up.
var ErrNoLab = errors.New("no such lab is up")

// ErrNotSealed is returned when the lab's network has a way out.
var ErrNotSealed = errors.New("the lab's network is not sealed")

// Lab is a lab that is up. Its methods may be called concurrently.
type Lab struct {
	dir   string
	state labdir.State
	hosts []*Host
	owner io.Closer // closing it ends the lab; nil if we do not own it
}

// Up brings up a lab: all its hosts have booted when it returns. First it
// installs missing Debian packages and makes the base tree if need be, and removes
// stale labs in cfg.Dir. When ctx ends before, or anything fails, nothing is left.
func Up(ctx context.Context, cfg Config) (*Lab, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("lab: needs root; try: sudo -E")
	}
	for i, b := range cfg.Binds {
		// The keeper opens it later, in another mount namespace.
		if cfg.Binds[i].Source, err = filepath.EvalSymlinks(b.Source); err != nil {
			return nil, fmt.Errorf("lab: Binds[%d].Source: %w", i, err)
		}
	}
	if err := install(ctx, cfg); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	tree, err := baseTree(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if cfg.Program == "" {
		if cfg.Program, err = buildProgram(ctx, cfg); err != nil {
			return nil, fmt.Errorf("lab: %w", err)
		}
	}
	dir, lock, err := makeDir(ctx, cfg, tree)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	defer lock.Close() // the guard has its copy
	owner, err := startGuard(ctx, cfg, dir, lock)
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", cfg.Name, err)
	}
	lab, err := open(dir)
	if err == nil {
		err = lab.Sealed()
	}
	if err != nil {
		_ = owner.Close()
		return nil, fmt.Errorf("lab %s: %w", cfg.Name, err)
	}
	if !cfg.Detach {
		lab.owner = owner
		return lab, nil
	}
	_, err = io.WriteString(owner, guard.Disown)
	return lab, errors.Join(err, owner.Close())
}

// makeDir makes the lab's folder with its state, and returns its lock.
func makeDir(ctx context.Context, cfg Config, tree string) (dir string, lock *os.File, err error) {
	root, err := labdir.LockRoot(cfg.Dir)
	if err != nil {
		return "", nil, err
	}
	defer root.Close()
	stale, err := labdir.Sweep(ctx, cfg.Dir)
	if len(stale) > 0 {
		cfg.Logger.Info("stale labs removed", "labs", stale)
	}
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(cfg.Dir, cfg.Name)
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return "", nil, fmt.Errorf("%s: %w; try: lab --lab %s down", cfg.Name, labdir.ErrHeld, cfg.Name)
	} else if err != nil {
		return "", nil, err
	}
	if lock, err = labdir.Create(dir); err != nil {
		return "", nil, errors.Join(err, os.Remove(dir))
	}
	sum := sha256.Sum256([]byte(dir))
	plan := wire.Plan{
		Name: cfg.Name, Tree: tree, Binds: cfg.Binds, NspawnArgs: cfg.NspawnArgs,
		Cgroup: fmt.Sprintf("hactl-lab-%s-%s", cfg.Name, hex.EncodeToString(sum[:3])),
	}
	for i, name := range cfg.Names {
		plan.Hosts = append(plan.Hosts, wire.Host{Name: name, Address: wire.Address(i + 1)})
	}
	if err := labdir.Write(dir, labdir.State{Plan: plan, Created: time.Now().UTC()}); err != nil {
		return "", nil, errors.Join(err, lock.Close(), os.RemoveAll(dir))
	}
	return dir, lock, nil
}

// startGuard starts the lab's guard and waits until the lab is up.
func startGuard(ctx context.Context, cfg Config, dir string, lock *os.File) (owner io.WriteCloser, err error) {
	result, resultEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer result.Close()
	ownerEnd, ownerPipe, err := os.Pipe()
	if err != nil {
		_ = resultEnd.Close()
		return nil, err
	}
	cmd := exec.Command(cfg.Program, "guard", dir)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	cmd.ExtraFiles = []*os.File{resultEnd, ownerEnd, lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C is for us; we end the lab
	err = cmd.Start()
	_ = resultEnd.Close()
	_ = ownerEnd.Close()
	if err != nil {
		_ = ownerPipe.Close()
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	go func() { _ = cmd.Wait() }() // ends when the lab does

	stop := context.AfterFunc(ctx, func() { _ = ownerPipe.Close() }) // then the guard removes all
	said, err := io.ReadAll(result)
	if stop() && err == nil && string(said) == "ok\n" {
		return ownerPipe, nil
	}
	_ = ownerPipe.Close()
	if ctx.Err() != nil {
		return nil, errors.Join(context.Cause(ctx), awaitGone(context.WithoutCancel(ctx), dir))
	}
	if err == nil {
		err = errors.New(cmp.Or(strings.TrimSpace(string(said)), "the guard went away"))
	}
	return nil, errors.Join(err, awaitGone(ctx, dir))
}

// Open returns the lab of that name in dir (empty: the default one), which must
// be up. The error is ErrNoLab if it is not.
func Open(dir, name string) (*Lab, error) {
	return open(filepath.Join(firstOf(dir, os.Getenv("HACTL_LAB_DIR"), defaultDir), name))
}

func open(dir string) (*Lab, error) {
	state, err := labdir.Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", filepath.Base(dir), ErrNoLab)
	}
	if err != nil {
		return nil, err
	}
	if lock, err := labdir.Lock(dir); !errors.Is(err, labdir.ErrHeld) {
		if err == nil {
			_ = lock.Close()
		}
		return nil, fmt.Errorf("%s: %w; it is stale, and the next up or down removes it", state.Name, ErrNoLab)
	}
	lab := &Lab{dir: dir, state: state}
	for _, h := range state.Hosts {
		lab.hosts = append(lab.hosts, &Host{lab: lab, name: h.Name, address: h.Address})
	}
	return lab, nil
}

// Name is the lab's name.
func (l *Lab) Name() string { return l.state.Name }

// Hosts are all hosts, in the order of their addresses.
func (l *Lab) Hosts() []*Host { return slices.Clone(l.hosts) }

// Host is the host with the number i, which counts from 1 as in "m1". Like a
// slice's index, i must be in range.
func (l *Lab) Host(i int) *Host { return l.hosts[i-1] }

// Named is the host of that name.
func (l *Lab) Named(name string) (*Host, error) {
	for _, h := range l.hosts {
		if h.name == name {
			return h, nil
		}
	}
	return nil, fmt.Errorf("no host %q in lab %s", name, l.state.Name)
}

// Status is how the hosts and the ways between them are.
func (l *Lab) Status(ctx context.Context) (*Status, error) {
	return l.call(ctx, wire.Request{Op: wire.OpStatus})
}

// Down ends the lab, whoever owns it, and returns when nothing is left of it. A
// lab that is down already is no error.
func (l *Lab) Down(ctx context.Context) error {
	group, err := labdir.Group(l.state.Cgroup)
	if err == nil {
		err = group.Kill(ctx) // all at once; the guard removes the rest
	}
	if l.owner != nil {
		_ = l.owner.Close()
	}
	if err := errors.Join(err, awaitGone(ctx, l.dir)); err != nil {
		return fmt.Errorf("lab %s: %w", l.state.Name, err)
	}
	return nil
}

// Down ends the lab of that name in dir (empty: the default one), or removes
// what it left. It returns ErrNoLab if there is nothing to remove.
func Down(ctx context.Context, dir, name string) error {
	dir = filepath.Join(firstOf(dir, os.Getenv("HACTL_LAB_DIR"), defaultDir), name)
	lab, err := open(dir)
	if err == nil {
		return lab.Down(ctx)
	}
	if _, statErr := os.Lstat(dir); errors.Is(statErr, fs.ErrNotExist) {
		return err
	}
	return awaitGone(ctx, dir)
}

// awaitGone waits until the guard has gone, and removes what it could not.
func awaitGone(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		lock, err := labdir.Lock(dir)
		switch {
		case err == nil:
			return errors.Join(labdir.Remove(ctx, dir), lock.Close())
		case errors.Is(err, fs.ErrNotExist): // and so is the folder, unless the guard died at its last step
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		case !errors.Is(err, labdir.ErrHeld):
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the lab's guard: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func (l *Lab) call(ctx context.Context, req wire.Request) (*wire.Status, error) {
	status, err := wire.Call(ctx, filepath.Join(l.dir, labdir.Socket), req)
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", l.state.Name, err)
	}
	return status, nil
}

// Status is how a lab is.
type Status = wire.Status

// HostStatus is how a host is.
type HostStatus = wire.HostStatus

// SlowWay is a way that was made slow.
type SlowWay = wire.SlowStatus

// Way is one direction between two hosts.
type Way = link.Way

// The states of a host in its HostStatus.
const (
	Off     = wire.Off
	Booting = wire.Booting
	On      = wire.On
	Frozen  = wire.Frozen
)
