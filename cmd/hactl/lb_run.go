package main

import (
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

// wordsFlag collects values that may hold commas, which cli's own slices split.
type wordsFlag []string

func (w *wordsFlag) String() string { return strings.Join(*w, " ") }

// Set takes one value, or several separated by spaces (from the environment).
func (w *wordsFlag) Set(s string) error {
	*w = append(*w, strings.Fields(s)...)
	return nil
}

func words(c *cli.Context, name string) []string {
	if w, ok := c.Generic(name).(*wordsFlag); ok && w != nil {
		return *w
	}
	return nil
}

func lbRunCommand(e *env) *cli.Command {
	str := func(name, value, usage string) *cli.StringFlag {
		return &cli.StringFlag{Name: name, Value: value, Usage: usage, EnvVars: []string{flagEnv(name)}}
	}
	dur := func(name string, value time.Duration, usage string) *cli.DurationFlag {
		return &cli.DurationFlag{Name: name, Value: value, Usage: usage, EnvVars: []string{flagEnv(name)}}
	}
	num := func(name string, value int, usage string) *cli.IntFlag {
		return &cli.IntFlag{Name: name, Value: value, Usage: usage, EnvVars: []string{flagEnv(name)}}
	}
	flag := func(name, usage string) *cli.BoolFlag {
		return &cli.BoolFlag{Name: name, Usage: usage, EnvVars: []string{flagEnv(name)}}
	}
	list := func(name, usage string) *cli.GenericFlag {
		return &cli.GenericFlag{Name: name, Value: &wordsFlag{}, Usage: usage, EnvVars: []string{flagEnv(name)}}
	}
	return &cli.Command{
		Name:  "run",
		Usage: "balance connections to API servers, or to any TCP service",
		Description: "SIGTERM finishes gracefully, SIGHUP reads the list of backends anew, SIGUSR2 starts the program again\n" +
			"(an upgraded one too) and hands the listening sockets over. Sockets from systemd are used where --listen names them.",
		Flags: append([]cli.Flag{
			list("listen", "IP:port, :port or unix:/PATH; may be repeated; default with --from-masters: the master's front door"),
			list("backend", "ADDR[,name=N][,weight=N][,zone=Z]; ADDR is IP:port, name:port or unix:/PATH; may be repeated"),
			str("backends-file", "", "file with one backend on a line, followed while running"),
			flag("from-masters", "backends are the API servers of the masters in cluster.yaml, followed while running"),
			rootFlag(),
			str("name", "", "this master's name"),
			str("check", "https", "https, tcp or none"),
			str("check-path", "/readyz", "for --check https"),
			str("check-name", "kubernetes", "name that the backends' certificates must have"),
			str("ca-file", "", "CA of the backends' certificates; default: etc/kubernetes/pki/ca.crt under --root"),
			dur("check-interval", 500*time.Millisecond, "between two probes of a backend"),
			dur("check-timeout", time.Second, "a probe that takes longer has failed"),
			num("rise", 1, "good probes in a row that make a backend ready"),
			num("fall", 2, "bad probes in a row that take it out"),
			str("algorithm", "least-conn", "least-conn, round-robin, random2 or local-first"),
			str("zone", "", "the own zone, for local-first"),
			num("max-conns", 0, "bound of connections; 0: what the limit of open files carries"),
			num("max-conns-per-client", 0, "bound of connections from one IP address (IPv6: /64); 0: none"),
			dur("hello-timeout", 5*time.Second, "how long a client may take for its ClientHello"),
			dur("replay-after", 300*time.Millisecond, "a backend without a first byte for so long gets a competitor"),
			flag("replay-plain", "replay the first bytes of clients that do not speak TLS too: only for protocols where a repetition does no harm"),
			dur("dead-after", 5*time.Second, "a backend's machine that acknowledges nothing for so long is dead; negative: never"),
			str("rebalance", "1%/s", "share of connections that may be moved to a returned backend; 0: none"),
			dur("slow-start", 10*time.Second, "a returned backend gets less than its share for so long; negative: none"),
			dur("drain-timeout", 10*time.Second, "how long connections may go on when the balancer stops or hands over"),
			num("loops", 0, "threads of the data path; 0: one a CPU"),
			adminFlag(),
			str("listen-metrics", "", "loopback address of metrics and health; default with --from-masters and --name: port 9445"),
		}, logFlags()...),
		Action: func(c *cli.Context) error { return runLB(c, e) },
	}
}

func flagEnv(name string) string {
	return "HACTL_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// lbProcess is what the flags of `lb run` come to.
type lbProcess struct {
	cfg     lb.Config
	sockets []*os.File // duplicates for a successor: listeners, then metrics
	metrics net.Listener
	log     *slog.Logger
	args    []string
}

func runLB(c *cli.Context, e *env) error {
	log, err := loggerOf(c, e)
	if err != nil {
		return err
	}
	p := &lbProcess{log: log, args: os.Args[1:]}
	if err := p.configure(c); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p.cfg.Registerer = registry
	b, err := lb.New(p.cfg)
	if err != nil {
		return exitcode.Errorf(exitcode.Usage, "%w", err).WithHint("hactl lb run --help")
	}
	return p.serve(c.Context, b, registry)
}

// configure reads the flags and binds the sockets.
func (p *lbProcess) configure(c *cli.Context) error {
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
		StateFile: layoutOf(c).BackendsFile(), Logger: p.log, Name: c.String("name"), Notify: notifySystemd,
	}
	if p.cfg.Rebalance, err = lb.ParseRate(c.String("rebalance")); err != nil {
		return usage(fmt.Errorf("--rebalance: %w", err))
	}
	if cluster != nil {
		clusterChecks(c, cluster, &p.cfg.Check)
	}
	if p.cfg.Check.Kind == lb.CheckHTTPS {
		ca := c.String("ca-file")
		if ca == "" {
			ca = layoutOf(c).PKI() + "/ca.crt"
		}
		if p.cfg.Check.Roots, err = lb.Roots(ca); err != nil {
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
			return nil, nil, exitcode.Errorf(exitcode.Usage, "--backend %s: %w", s, err)
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
	inherited, ready, err := lb.Inherited()
	if err != nil {
		return err
	}
	if ready != nil {
		p.cfg.Notify = func(state string) {
			if state == "READY=1" {
				ready()
			}
			notifySystemd(state)
		}
	}
	var plain *os.File
	if n := len(inherited); n > 0 && metrics != "" {
		inherited, plain = inherited[:n-1], inherited[n-1]
	}
	if len(inherited) == 0 {
		inherited = activation.Files(true)
	}
	if len(listen)+len(inherited) == 0 {
		return exitcode.Errorf(exitcode.Usage, "no address to listen on").WithHint("--listen IP:port, or --from-masters with --name of a master")
	}
	if p.cfg.Listeners, err = lb.Listen(c.Context, listen, inherited); err != nil {
		return err
	}
	if metrics != "" && plain == nil {
		if plain, err = listenPlain(c.Context, metrics); err != nil {
			return err
		}
	}
	return p.keepForSuccessor(plain)
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
			// Metrics and health go on while connections finish.
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
				p.log.Error("hand over to a successor", "err", err)
				continue
			}
			stop()
			return nil
		}
	}
}

// handOver starts this program again and gives it the sockets.
func (p *lbProcess) handOver(ctx context.Context, b *lb.Balancer) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the own program: %w", err)
	}
	// An upgrade has replaced the file: the new one is meant.
	cmd := exec.Command(strings.TrimSuffix(self, " (deleted)"), p.args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := lb.Succeed(ctx, cmd, p.sockets, successorTimeout); err != nil {
		return err
	}
	notifySystemd("MAINPID=" + strconv.Itoa(cmd.Process.Pid))
	p.log.Info("a successor serves, old connections finish here", "pid", cmd.Process.Pid)
	b.KeepConnections()
	return errors.Join(cmd.Process.Release())
}

func notifySystemd(state string) { _, _ = daemon.SdNotify(false, state) }
