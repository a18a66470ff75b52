package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/workload"
)

// Config is what Up needs.
type Config struct {
	Dir       string // the folder; made when missing
	Masters   int    // 1, 3 or 5; default 3, or what the folder has
	Network   string // default 127.0.1.0, or what the folder has
	FrontDoor string // default 127.0.0.1:6443, or what the folder has
	// DropIn is a YAML file merged over the generated configuration of every
	// master; empty: none, or what the folder has.
	DropIn   string
	Programs master.Programs
	Timeout  time.Duration // until everything serves; default 3m
	Progress io.Writer     // one line a step; nil: none
	// Report asks the whole cluster how it is.
	Report func(ctx context.Context, f *Folder) (*status.Report, error)
}

// Up makes what is missing of the cluster in cfg.Dir and waits until all of it
// serves; it returns the last report. What already runs is left alone. When it fails, or ctx ends, it stops
// whatever it started itself, so that nothing half-started stays behind.
func Up(ctx context.Context, cfg Config) (_ *Folder, _ *status.Report, err error) {
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 3 * time.Minute
	}
	if err := cfg.Programs.Find(ctx); err != nil {
		return nil, nil, err
	}
	f, unlock, err := openOrCreate(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()

	missing, err := f.which(ctx, f.Hosts(), false)
	if err != nil {
		return nil, nil, err
	}
	if err := f.checkPorts(missing); err != nil {
		return nil, nil, err
	}
	if err := f.prepare(cfg); err != nil {
		return nil, nil, err
	}
	undo := &started{hosts: missing}
	defer func() {
		if err != nil {
			stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout+lastDrain)
			defer cancel()
			err = errors.Join(err, f.undo(stopCtx, undo, cfg.Progress))
		}
	}()
	if err := f.startHosts(ctx, missing, cfg); err != nil {
		return nil, nil, err
	}
	if err := f.startStopped(ctx, undo, cfg.Progress); err != nil {
		return nil, nil, err
	}
	report, err := f.waitReady(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	return f, report, nil
}

// started is what an Up started itself.
type started struct {
	hosts []string
	units [][2]string // host, unit
}

// undo stops what an Up started, and nothing else.
func (f *Folder) undo(ctx context.Context, u *started, progress io.Writer) error {
	errs := []error{f.stopHosts(ctx, u.hosts, progress)}
	for _, hu := range u.units {
		errs = append(errs, f.client(hu[0]).Stop(ctx, hu[1]))
	}
	return errors.Join(errs...)
}

// openOrCreate returns the folder, locked. A new one is only made when its ports
// are free, so that a refusal binds nobody to its choices.
func openOrCreate(ctx context.Context, cfg Config) (_ *Folder, _ func(), err error) {
	if cfg.DropIn != "" {
		if _, err := os.Stat(cfg.DropIn); err != nil {
			return nil, nil, exitcode.Errorf(exitcode.Usage, "--drop-in: %w", err)
		}
	}
	want := Info{Format: format, Kube: cfg.Programs.KubeVersion, Masters: cfg.Masters, Network: cfg.Network, FrontDoor: cfg.FrontDoor}
	isNew := !exists(infoFile(cfg.Dir))
	if isNew {
		want = want.withDefaults()
		if err := errors.Join(want.validate(), usable(cfg.Dir)); err != nil {
			return nil, nil, err
		}
		if err := (&Folder{Dir: cfg.Dir, Info: want}).checkAllPorts(); err != nil {
			return nil, nil, err
		}
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return nil, nil, fmt.Errorf("make dev folder: %w", err)
		}
		if err := os.Chmod(cfg.Dir, 0o700); err != nil { // it may have been there
			return nil, nil, fmt.Errorf("make dev folder: %w", err)
		}
	}
	unlock, err := lock(cfg.Dir)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	if isNew && !exists(infoFile(cfg.Dir)) { // nobody was quicker
		f := &Folder{Dir: cfg.Dir, Info: want}
		return f, unlock, f.save()
	}
	f, err := Open(cfg.Dir)
	if err != nil {
		return nil, nil, err
	}
	return f, unlock, f.sameAs(want)
}

// withDefaults fills in what the user left out for a new folder.
func (i Info) withDefaults() Info {
	if i.Masters == 0 {
		i.Masters = 3
	}
	if i.Network == "" {
		i.Network = "127.0.1.0"
	}
	if i.FrontDoor == "" {
		i.FrontDoor = "127.0.0.1:6443"
	}
	return i
}

// usable refuses to make a folder out of one that holds something else. What an
// up that was killed at its first write left does not count.
func usable(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make dev folder: %w", err)
	}
	for _, e := range entries {
		if e.Name() == "lock" || strings.HasPrefix(e.Name(), ".dev.json.tmp-") {
			continue
		}
		return exitcode.Errorf(exitcode.Refused, "%s is not empty and not a dev folder (it holds %s)", dir, e.Name()).
			WithHint("hactl dev up --dir OTHER")
	}
	return nil
}

// sameAs refuses to turn an existing folder into another cluster.
func (f *Folder) sameAs(want Info) error {
	var errs []error
	differs := func(flag, have, want string) {
		if want != "" && want != have {
			errs = append(errs, fmt.Errorf("%s has %s %s, not %s", f.Dir, flag, have, want))
		}
	}
	masters := ""
	if want.Masters != 0 {
		masters = strconv.Itoa(want.Masters)
	}
	differs("--masters", strconv.Itoa(f.Info.Masters), masters)
	differs("--network", f.Info.Network, want.Network)
	differs("--front-door", f.Info.FrontDoor, want.FrontDoor)
	differs("Kubernetes", f.Info.Kube, want.Kube)
	if len(errs) == 0 {
		return nil
	}
	return exitcode.Errorf(exitcode.Refused, "%w", errors.Join(errs...)).
		WithHint("hactl dev down --purge --dir %s   (this deletes its data), or another --dir", f.Dir)
}

// which returns those hosts whose supervisor runs, or, with running false, those
// whose supervisor does not; err names those that do not say.
func (f *Folder) which(ctx context.Context, hosts []string, running bool) (found []string, err error) {
	for _, h := range hosts {
		up, unknown := f.running(ctx, h)
		err = errors.Join(err, unknown)
		if unknown == nil && up == running {
			found = append(found, h)
		}
	}
	return found, err
}

// checkPorts makes sure that nobody else has the ports of hosts that will be
// started.
func (f *Folder) checkPorts(hosts []string) error {
	c := f.clusterConfig("")
	if loaded, err := config.Load(f.Layout(f.MasterNames()[0])); err == nil {
		c = loaded // with its drop-in
	}
	var addrs []string
	for _, h := range hosts {
		if h == FrontDoorHost {
			addrs = append(addrs, f.Info.FrontDoor, f.frontDoorMetrics())
			continue
		}
		if m, ok := c.MasterByName(h); ok {
			for _, p := range c.Ports(m) {
				addrs = append(addrs, p.String())
			}
		}
	}
	return checkFree(addrs)
}

func (f *Folder) checkAllPorts() error { return f.checkPorts(f.Hosts()) }

// frontDoorMetrics is where the front door's balancer tells of itself.
func (f *Folder) frontDoorMetrics() string {
	host, _, _ := net.SplitHostPort(f.Info.FrontDoor)
	return net.JoinHostPort(host, strconv.Itoa(config.BalancerMetricsPort))
}

func (f *Folder) frontDoorPort() int {
	_, port, _ := net.SplitHostPort(f.Info.FrontDoor)
	n, _ := strconv.Atoi(port) // validated when the folder was made
	return n
}

// startStopped starts units that a command stopped in hosts that run.
func (f *Folder) startStopped(ctx context.Context, undo *started, progress io.Writer) error {
	for _, h := range f.Hosts() {
		units, err := f.client(h).Units(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", h, err)
		}
		for _, u := range units {
			if u.Active != workload.Inactive {
				continue
			}
			fmt.Fprintf(progress, "%s: starting %s, which was stopped\n", h, u.Name)
			undo.units = append(undo.units, [2]string{h, u.Name})
			if err := f.client(h).Start(ctx, u.Name); err != nil {
				return fmt.Errorf("%s: start %s: %w", h, u.Name, err)
			}
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
