package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/health"
	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/lease/history"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/process"
	"github.com/hactl/hactl/internal/singleton"
	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/systemd"
)

// run is podmaster.
func run(c *cli.Context, e *env) error {
	o, err := parse(c)
	if err != nil {
		return err
	}
	o.log, err = logging.New(e.stderr, logging.Config{Level: c.String("log-level"), Format: c.String("log-format")})
	if err != nil {
		return usage("%w", err)
	}
	o.log = o.log.With("unit", o.key, "master", o.whoami)
	// What daemonizes comes to us when its guard was killed.
	if err := process.BecomeSubreaper(); err != nil {
		return err
	}
	p, err := build(c, e, o)
	if err != nil {
		return err
	}
	defer p.close()
	err = p.run(c.Context)
	forgetWill()
	return explain(o, err)
}

// podmaster is everything that run runs.
type podmaster struct {
	o       *options
	client  *etcdlock.Client
	elector *lease.Elector
	work    singleton.Work
	child   *singleton.Child // nil: the work is not a command
	unit    *singleton.Unit  // nil: the work is not a unit
	systemd *systemd.Manager // nil: the work is not a manifest, or we are no unit of systemd's
	gate    *singleton.Gate
	metrics net.Listener
	gather  *prometheus.Registry
	runtime *singleton.Runtime
	history *os.File // nil: none
}

func (p *podmaster) close() {
	if p.gate != nil {
		_ = p.gate.Close()
	}
	if p.metrics != nil {
		_ = p.metrics.Close()
	}
	if p.unit != nil {
		p.unit.Close()
	}
	if p.systemd != nil {
		p.systemd.Close()
	}
	if p.client != nil {
		_ = p.client.Close()
	}
	if p.history != nil {
		_ = p.history.Close()
	}
}

func build(c *cli.Context, e *env, o *options) (p *podmaster, err error) {
	p = &podmaster{o: o, gather: prometheus.NewRegistry()}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	tlsConfig, err := o.tls.Config()
	if err != nil {
		return p, usage("%w", err)
	}
	p.client, err = etcdlock.Dial(etcdlock.Config{Endpoints: o.endpoints, TLS: tlsConfig, Logger: o.log})
	if err != nil {
		return p, usage("%w", err)
	}
	lock, err := p.client.Lock(o.key)
	if err != nil {
		return p, usage("%w", err)
	}
	spread := singleton.NewSpread(p.client, lock, o.whoami)
	o.lease.Lock, o.lease.Logger, o.lease.Delay = lock, o.log, spread.Delay
	if o.history != "" {
		if p.history, err = history.Open(o.history); err != nil {
			return p, usage("--%w", err)
		}
		o.lease.Lock = history.New(history.Config{Who: o.whoami, Out: p.history, Logger: o.log}).Lock(lock)
	}
	if p.elector, err = lease.New(o.lease); err != nil {
		return p, usage("%w", err)
	}
	if err := p.makeWork(c.Context, e); err != nil {
		return p, err
	}
	if o.gateListen != "" {
		if p.gate, err = singleton.NewGate(o.gateListen, o.gateTarget, p.elector.Config().StopTime/4, o.log); err != nil {
			return p, err
		}
	}
	if addr := c.String("listen-metrics"); addr != "" {
		host, _, err := net.SplitHostPort(addr)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			return p, usage("--listen-metrics %q: want a loopback IP address and a port, such as 127.0.0.1:9450: it is plain HTTP", addr)
		}
		if p.metrics, err = net.Listen("tcp", addr); err != nil {
			return p, fmt.Errorf("metrics: %w", err)
		}
		p.gather.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	cand, err := candidate(o)
	if err != nil {
		return p, err
	}
	p.runtime, err = singleton.New(singleton.Config{
		Client: p.client, Lock: lock, Elector: p.elector, Work: p.work, Candidate: cand, Alive: alive,
		Notifier: p.notifier(), Gate: p.gate, Spread: spread, PreferAfter: o.preferAfter, StartTimeout: c.Duration("start-timeout"), Logger: o.log,
	})
	return p, err
}

// makeWork makes what runs while the lock is held.
func (p *podmaster) makeWork(ctx context.Context, e *env) error {
	o := p.o
	m := singleton.NewMetrics(p.gather, p.elector)
	var probe *singleton.Health
	if o.health.URL != "" {
		var err error
		if probe, err = singleton.NewHealth(o.health); err != nil {
			return usage("%w", err)
		}
	}
	stopTime := p.elector.Config().StopTime
	if o.source != "" {
		cfg := singleton.ManifestConfig{
			Source: o.source, Dest: o.dest, Every: o.every, Health: probe, StopTime: stopTime, StopGrace: o.stopGrace,
			Logger: o.log, Events: m.Events(),
		}
		var kubelet *singleton.Kubelet
		if o.kubelet.URL != "" {
			var err error
			if kubelet, err = singleton.NewKubelet(o.kubelet); err != nil {
				return usage("%w", err)
			}
		}
		cfg.Stopped = singleton.Confirm(probe, kubelet)
		if ownUnit() != "" {
			var err error
			if p.systemd, err = systemd.New(systemd.Config{Logger: o.log}); err != nil {
				return err
			}
			cfg.Systemd = p.systemd
		}
		manifest, err := singleton.NewManifest(cfg)
		p.work = manifest
		return err
	}
	if o.unit != "" {
		var unit *singleton.Unit
		will := func(token int64) json.RawMessage {
			target := unit.Target()
			return o.will(token, &target)
		}
		var err error
		unit, err = singleton.NewUnit(ctx, singleton.UnitConfig{
			Unit: o.unit, Key: o.key, Holder: o.whoami, StopTime: stopTime, StopGrace: o.stopGrace,
			OneShot: o.oneShot, CrashBudget: o.crashBudget, CrashWindow: o.crashWindow,
			Health: probe, Orphan: will, Logger: o.log, Events: m.Events(),
		})
		if err != nil {
			return unitError(o.unit, err)
		}
		if unit.Bound() == "" || os.Getenv("WATCHDOG_USEC") == "" {
			o.log.Warn("podmaster runs in no systemd unit with a watchdog: only its guard ends the unit when podmaster cannot",
				"hint", "deploy/systemd/podmaster@.service")
		}
		p.work, p.unit = unit, unit
		return nil
	}
	child, err := singleton.NewChild(singleton.ChildConfig{
		Command: o.command, Stdin: e.stdin, Key: o.key, Holder: o.whoami, StopTime: stopTime, StopGrace: o.stopGrace,
		OneShot: o.oneShot, CrashBudget: o.crashBudget, CrashWindow: o.crashWindow,
		Health: probe, Orphan: func(token int64) json.RawMessage { return o.will(token, nil) }, Logger: o.log, Events: m.Events(),
	})
	p.work, p.child = child, child
	return err
}

func (p *podmaster) notifier() *singleton.Notifier {
	n := &singleton.Notifier{Elector: p.elector}
	if p.child != nil {
		n.PID = p.child.PID
	}
	if p.unit != nil {
		n.PID = p.unit.PID
		// What is bound to us ends only after us: the watchdog must come earlier.
		n.Margin = p.elector.Config().StopTime * 4 / 5
	}
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return n
	}
	n.Send = func(state string) error {
		_, err := daemon.SdNotify(false, state)
		return err
	}
	if d, err := daemon.SdWatchdogEnabled(false); err == nil {
		n.Watchdog = d
	}
	return n
}

func (p *podmaster) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	defer func() { cancel(); <-done }()
	go func() {
		defer close(done)
		p.forwardSignals(ctx)
	}()
	if p.metrics != nil {
		go func() {
			err := health.Serve(ctx, p.metrics, health.Endpoints{
				Ready:    map[string]health.Check{"etcd": p.etcdReady},
				Gatherer: p.gather,
			})
			if err != nil {
				p.o.log.Error("no metrics", "err", err)
			}
		}()
	}
	go p.shrink(ctx)
	err := p.runtime.Run(ctx)
	if err == nil && p.o.oneShot && !p.runtime.Finished() {
		return errors.New("stopped before the command could run to its end")
	}
	return err
}

func (p *podmaster) etcdReady(context.Context) error {
	s, _ := p.elector.Status()
	if s.Rounds == 0 {
		return errors.New("no answer yet")
	}
	return s.Err
}

// forwardSignals passes on what is not podmaster's own.
func (p *podmaster) forwardSignals(ctx context.Context) {
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGQUIT, syscall.SIGWINCH, syscall.SIGCONT)
	defer signal.Stop(sigs)
	for {
		select {
		case s := <-sigs:
			if sig, ok := s.(syscall.Signal); ok && sig != syscall.SIGCONT && p.child != nil {
				p.child.Signal(sig)
			}
		case <-ctx.Done():
			return
		}
	}
}

// unitError says what to do about a unit that cannot be had.
func unitError(unit string, err error) error {
	switch {
	case errors.Is(err, workload.ErrNoUnit):
		return exitcode.Errorf(exitcode.Failed, "--unit: %w", err).WithHint("systemctl list-unit-files --type=service")
	case errors.Is(err, systemd.ErrEnabled):
		return exitcode.Errorf(exitcode.Refused, "--unit: %w", err).WithHint("systemctl disable --now %s", unit)
	default:
		return fmt.Errorf("--unit: %w", err)
	}
}

// explain gives an error its exit code.
func explain(o *options, err error) error {
	var (
		taken *etcdlock.NameTakenError
		exit  *singleton.ExitError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		code := exit.Exit.ShellCode()
		if code <= 0 { // it did not start, or nobody knows
			code = exitcode.Failed
		}
		return &exitcode.Error{Code: code, Err: err}
	case errors.As(err, &taken):
		return exitcode.Errorf(exitcode.Refused, "%w", err).WithHint("podmaster --whoami ANOTHER-NAME, or stop that process")
	case errors.Is(err, lease.ErrNotTaken):
		return exitcode.Errorf(exitcode.TimedOut, "--wait: %w", err)
	case errors.Is(err, lease.ErrLost), errors.Is(err, lease.ErrStuck):
		return exitcode.Errorf(exitcode.LostLease, "%w", err)
	case errors.Is(err, singleton.ErrUnreachable):
		return exitcode.Errorf(exitcode.Unreachable, "%w", err).WithHint("etcdctl --endpoints %s endpoint health", strings.Join(o.endpoints, ","))
	default:
		return err
	}
}

func candidate(o *options) (etcdlock.Candidate, error) {
	self, err := process.Self()
	if err != nil {
		return etcdlock.Candidate{}, err
	}
	return etcdlock.Candidate{
		Name: o.whoami, Address: o.lease.Address, ID: rand.Text(), Priority: o.lease.Priority, Since: time.Now().UTC(),
		Host: self.Host, PID: self.PID, Start: self.Start,
	}, nil
}

func alive(c etcdlock.Candidate) bool {
	return process.Identity{Host: c.Host, PID: c.PID, Start: c.Start}.Alive()
}
