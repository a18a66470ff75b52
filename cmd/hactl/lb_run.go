package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/health"
	"github.com/hactl/hactl/internal/lb"
	"github.com/hactl/hactl/internal/lb/dataplane"
	"github.com/hactl/hactl/internal/lb/pool"
)

// successorTimeout is how long a successor may take until it serves.
const successorTimeout = 30 * time.Second

// lbProcess is what the flags of `lb run` come to.
type lbProcess struct {
	cfg     lb.Config
	sockets []*os.File // duplicates for a successor: listeners, then metrics
	metrics net.Listener
	log     *slog.Logger
	program string // that a successor is started from
	args    []string
}

func runLB(c *cli.Context, e *env) error {
	if done, err := lb.Detached(); done {
		return err
	}
	log, err := loggerOf(c, e)
	if err != nil {
		return err
	}
	program, err := lb.Program()
	if err != nil {
		return err
	}
	p := &lbProcess{log: log, program: program, args: os.Args[1:]}
	if err := p.configure(c); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p.cfg.Registerer = registry
	b, err := lb.New(p.cfg)
	switch {
	case errors.Is(err, lb.ErrAdminTaken):
		return adminTaken(err)
	case err != nil:
		return exitcode.Errorf(exitcode.Usage, "%w", err).WithHint("hactl lb run --help")
	}
	if err = p.serve(c.Context, b, registry); errors.Is(err, lb.ErrAdminTaken) {
		return adminTaken(err)
	}
	return err
}

func adminTaken(err error) error {
	return exitcode.Errorf(exitcode.Refused, "%w", err).WithHint("a --root DIR for each instance")
}

// configure reads the flags and binds the sockets.
func (p *lbProcess) configure(c *cli.Context) error {
	if err := refuseZero(c); err != nil {
		return err
	}
	source, cluster, err := lbSource(c)
	if err != nil {
		return err
	}
	usage := func(err error) error { return exitcode.Errorf(exitcode.Usage, "%w", err) }
	p.cfg = lb.Config{
		Source: source, Zone: c.String("zone"), Algorithm: pool.Algorithm(c.String("algorithm")),
		Check: lb.Check{
			Kind: lb.CheckKind(c.String("check")), Path: c.String("check-path"), Name: c.String("check-name"),
			Every: c.Duration("check-interval"), Timeout: c.Duration("check-timeout"), Rise: c.Int("rise"), Fall: c.Int("fall"),
		},
		Data: dataplane.Config{
			HelloTimeout: c.Duration("hello-timeout"), ReplayAfter: c.Duration("replay-after"), DeadAfter: c.Duration("dead-after"),
			MaxConns: c.Int("max-conns"), MaxConnsPerClient: c.Int("max-conns-per-client"), Loops: c.Int("loops"),
		},
		ReplayPlain: c.Bool("replay-plain"), SlowStart: c.Duration("slow-start"), DrainTimeout: c.Duration("drain-timeout"),
		Logger: p.log, Name: c.String("name"), Notify: notifySystemd,
	}
	p.cfg.StateFile, p.cfg.SourceName = layoutOf(c).BackendsFile(), cmp.Or(c.String("backends-file"), "masters")
	if len(words(c, "backend")) > 0 { // what the command says is there at each start, and meant
		p.cfg.StateFile, p.cfg.SourceName, p.cfg.Fixed = layoutOf(c).DrainedFile(), "--backend", true
	}
	if rate := c.String("rebalance"); rate != "" {
		if p.cfg.Rebalance, err = lb.ParseRate(rate); err != nil {
			return exitcode.Errorf(exitcode.Usage, "--rebalance: %w", err).WithHint("--rebalance 1%%/s, or --rebalance 0 for none")
		}
	}
	if cluster != nil {
		clusterChecks(c, cluster, &p.cfg.Check)
	}
	p.cfg.Check.Files = lb.NewCheckFiles(p.log)
	if err := credentials(c, &p.cfg.Check); err != nil {
		return usage(err)
	}
	if p.cfg.Check.Kind == lb.CheckHTTPS {
		ca := c.String("ca-file")
		if ca == "" {
			ca = layoutOf(c).PKI() + "/ca.crt"
		}
		if p.cfg.Check.Roots, err = p.cfg.Check.Files.Roots(ca); err != nil {
			return exitcode.Errorf(exitcode.Usage, "%w", err).WithHint("--ca-file FILE, or --check tcp for backends that do not speak TLS")
		}
	}
	if p.cfg.AdminSocket, err = adminPath(c); err != nil {
		return err
	}
	if every, err := daemon.SdWatchdogEnabled(false); err == nil {
		p.cfg.Watchdog = every
	}
	return p.bind(c, cluster)
}

// credentials reads what the checks show of themselves.
func credentials(c *cli.Context, check *lb.Check) (err error) {
	cert, key, token := c.String("check-cert-file"), c.String("check-key-file"), c.String("check-token-file")
	if check.Kind != lb.CheckHTTPS && cert+key+token != "" {
		return fmt.Errorf("--check-cert-file, --check-key-file and --check-token-file are for --check https, not %s", check.Kind)
	}
	if (cert == "") != (key == "") {
		return errors.New("--check-cert-file and --check-key-file belong together")
	}
	if cert != "" {
		if check.Certificate, err = check.Files.Certificate(cert, key); err != nil {
			return err
		}
	}
	if token != "" {
		check.Token, err = check.Files.Token(token)
	}
	return err
}

// refuseZero refuses 0 where it would silently mean the default.
func refuseZero(c *cli.Context) error {
	for name, instead := range map[string]string{
		"check-interval": "a time, such as 500ms", "check-timeout": "a time, such as 1s",
		"hello-timeout": "a time, such as 5s", "replay-after": "a time, such as 300ms",
		"dead-after": "a time, such as 5s, or -1s for never", "slow-start": "a time, such as 10s, or -1s for none",
		"drain-timeout": "a time, such as 10s, or 1ms for none",
	} {
		if c.Duration(name) == 0 {
			return exitcode.Errorf(exitcode.Usage, "--%s 0: want %s", name, instead)
		}
	}
	for _, name := range []string{"rise", "fall"} {
		if c.Int(name) == 0 {
			return exitcode.Errorf(exitcode.Usage, "--%s 0: want 1 or more", name)
		}
	}
	return nil
}

// clusterChecks takes the checks' times from cluster.yaml where no flag is given.
func clusterChecks(c *cli.Context, cluster *config.Cluster, check *lb.Check) {
	from := cluster.LoadBalancer.Check
	for name, set := range map[string]func(){
		"check-interval": func() { check.Every = from.Every },
		"check-timeout":  func() { check.Timeout = from.Timeout },
		"rise":           func() { check.Rise = from.Rise },
		"fall":           func() { check.Fall = from.Fall },
	} {
		if !c.IsSet(name) {
			set()
		}
	}
}

// lbSource is where the backends come from; cluster is set with --from-masters.
func lbSource(c *cli.Context) (lb.Source, *config.Cluster, error) {
	backends, file, masters := words(c, "backend"), c.String("backends-file"), c.Bool("from-masters")
	given := 0
	for _, is := range []bool{len(backends) > 0, file != "", masters} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, nil, exitcode.Errorf(exitcode.Usage, "want exactly one of --backend (repeated), --backends-file and --from-masters").
			WithHint("hactl lb run --listen :6443 --backend 10.0.0.1:6444 --backend 10.0.0.2:6444 --ca-file ca.crt")
	}
	switch {
	case masters:
		l := layoutOf(c)
		load := func() ([]lb.Backend, error) {
			cluster, err := config.Load(l)
			if err != nil {
				return nil, err
			}
			return masterBackends(cluster), nil
		}
		// The list kept on disk serves without the file; then the flags must say
		// what their defaults would have taken from it.
		cluster, err := config.Load(l)
		if _, kept := os.Stat(l.BackendsFile()); err != nil && kept != nil {
			return nil, nil, err
		}
		if err != nil {
			cluster = nil
		}
		return lb.Watched([]string{l.ConfigFile(), l.ConfigDropIns()}, load), cluster, nil
	case file != "":
		return lb.File(file), nil, nil
	}
	var list []lb.Backend
	for _, s := range backends {
		b, err := lb.ParseBackend(s)
		if err != nil {
			return nil, nil, exitcode.Errorf(exitcode.Usage, "--backend %s: %w", s, err).WithHint("--backend 10.0.0.1:6443, or --backend 10.0.0.1:6443,name=m1,weight=2")
		}
		list = append(list, b)
	}
	return lb.Static(list), nil, nil
}

func masterBackends(cluster *config.Cluster) []lb.Backend {
	var list []lb.Backend
	for _, m := range cluster.Masters {
		list = append(list, lb.Backend{Name: m.Name, Address: cluster.APIServerAddress(m), Weight: 1})
	}
	return list
}

// bind gets the sockets: from a predecessor, from systemd, or new ones.
func (p *lbProcess) bind(c *cli.Context, cluster *config.Cluster) error {
	listen, metrics := words(c, "listen"), c.String("listen-metrics")
	if cluster != nil {
		if m, ok := cluster.MasterByName(c.String("name")); ok {
			if len(listen) == 0 {
				listen = []string{cluster.BalancerAddress(m)}
			}
			if metrics == "" {
				metrics = net.JoinHostPort(m.MetricsAddress(), strconv.Itoa(config.BalancerMetricsPort))
			}
		}
	}
	inherited, from, err := p.inherit()
	if err != nil {
		return err
	}
	var plain *os.File
	if metrics != "" {
		if err := mustStay(metrics); err != nil {
			return err
		}
		if plain, inherited, err = lb.TakeInherited(metrics, inherited); err != nil {
			return err
		}
	}
	if len(listen)+len(inherited) == 0 {
		return exitcode.Errorf(exitcode.Usage, "no address to listen on").WithHint("--listen IP:port, or --from-masters with --name of a master")
	}
	var unused []string
	if p.cfg.Listeners, unused, err = lb.Listen(c.Context, listen, inherited); err != nil {
		return notListening(err)
	}
	if len(inherited) > 0 {
		for _, address := range lb.IPv4Alone(listen, p.cfg.Listeners) {
			p.log.Warn("IPv6 is not served: the socket that was handed over is IPv4 alone", "listen", address, "from", from,
				"try", "ListenStream= with the port alone, or --listen 0.0.0.0:PORT if that is meant")
		}
	}
	for _, address := range unused {
		p.log.Warn("a socket is not served: it was handed over, but is not among the addresses to listen on", "address", address,
			"from", from, "listen", strings.Join(listen, " "), "try", "the same addresses in ListenStream= of the socket unit and in --listen")
	}
	if metrics != "" && plain == nil {
		files, _, err := lb.Listen(c.Context, []string{metrics}, nil)
		if err != nil {
			return notListening(err)
		}
		plain = files[0]
	}
	return p.keepForSuccessor(plain)
}

// notListening gives an address that cannot be had its exit code and way out.
func notListening(err error) error {
	switch {
	case errors.Is(err, lb.ErrListenAddress):
		return exitcode.Errorf(exitcode.Usage, "--listen: %w", err).WithHint("--listen 0.0.0.0:6443, --listen :6443 or --listen unix:/run/lb.sock")
	case errors.Is(err, syscall.EADDRINUSE):
		return exitcode.Errorf(exitcode.Failed, "%w", err).
			WithHint("ss -ltnp, which says who listens there; another port; or, to upgrade a hactl lb that does: kill -USR2 its PID")
	}
	return err
}

// inherit gets the sockets of a predecessor or else of systemd, and says whose they are.
func (p *lbProcess) inherit() (sockets []*os.File, from string, err error) {
	sockets, ready, err := lb.Inherited()
	if err != nil {
		return nil, "", err
	}
	if ready == nil {
		return activation.Files(true), "systemd", nil
	}
	p.cfg.Successor = true
	p.cfg.Drained = lb.InheritedDrains()
	p.cfg.Notify = func(state string) {
		if state == "READY=1" {
			ready()
		}
		notifySystemd(state)
	}
	return sockets, "the predecessor", nil
}

// keepForSuccessor duplicates the sockets, since the balancer closes its own.
func (p *lbProcess) keepForSuccessor(plain *os.File) error {
	for _, f := range p.cfg.Listeners {
		fd, err := syscall.Dup(int(f.Fd()))
		if err != nil {
			return fmt.Errorf("keep a socket for a successor: %w", err)
		}
		syscall.CloseOnExec(fd)
		p.sockets = append(p.sockets, os.NewFile(uintptr(fd), f.Name()))
	}
	if plain == nil {
		return nil
	}
	ln, err := net.FileListener(plain)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	p.metrics = ln
	p.sockets = append(p.sockets, plain)
	return nil
}

func (p *lbProcess) close() {
	for _, f := range p.sockets {
		_ = f.Close()
	}
}

func (p *lbProcess) serve(ctx context.Context, b *lb.Balancer, registry *prometheus.Registry) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// A socket that is still open here would collect newcomers whom nobody accepts.
	defer context.AfterFunc(ctx, p.close)()
	g, gctx := errgroup.WithContext(context.WithoutCancel(ctx))
	g.Go(func() error {
		defer stop()
		return b.Run(ctx)
	})
	g.Go(func() error { return p.signals(ctx, b, stop) })
	if p.metrics != nil {
		g.Go(func() error {
			// They end when accepting does: a successor needs the port while our
			// connections finish.
			mctx, end := context.WithCancel(gctx)
			defer end()
			done := context.AfterFunc(ctx, func() { end() })
			defer done()
			return health.Serve(mctx, p.metrics, health.Endpoints{
				Live:     map[string]health.Check{"loops": func(context.Context) error { return b.Alive() }},
				Ready:    map[string]health.Check{"backends": func(context.Context) error { return b.Ready() }},
				Gatherer: registry,
			})
		})
	}
	return g.Wait()
}

// signals obeys SIGHUP and SIGUSR2 until ctx ends.
func (p *lbProcess) signals(ctx context.Context, b *lb.Balancer, stop func()) error {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGHUP, syscall.SIGUSR2)
	defer signal.Stop(ch)
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-ch:
			if s == syscall.SIGHUP {
				b.Reload()
				continue
			}
			if err := p.handOver(ctx, b); err != nil {
				p.log.Error("no successor, this process serves on", "program", p.program, "err", err)
				continue
			}
			stop()
			return nil
		}
	}
}

// handOver starts the program on disk and gives it the sockets, and what is drained.
func (p *lbProcess) handOver(ctx context.Context, b *lb.Balancer) error {
	if err := lb.CheckProgram(p.program); err != nil {
		return err
	}
	cmd := exec.Command(p.program, p.args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	b.HandDrains(cmd)
	pid, err := lb.Succeed(ctx, cmd, p.sockets, successorTimeout)
	if err != nil {
		b.KeepDrains()
		return err
	}
	notifySystemd("MAINPID=" + strconv.Itoa(pid))
	p.log.Info("a successor serves, old connections finish here", "pid", pid, "program", p.program, "version", p.versionOf(ctx, pid))
	b.KeepConnections()
	return nil
}

// versionOf asks the successor, which serves the admin socket now.
func (p *lbProcess) versionOf(ctx context.Context, pid int) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s, err := lb.NewClient(p.cfg.AdminSocket).Status(ctx)
	if err != nil || s.PID != pid {
		return "unknown"
	}
	return s.Version
}

func notifySystemd(state string) { _, _ = daemon.SdNotify(false, state) }
