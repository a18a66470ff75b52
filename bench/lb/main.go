// Command lb measures load balancers on this machine, one after the other
// before the same backends, and prints each one's ratio to HAProxy's slices
// directly before and after its own, and in the end what came of our goals. It
// needs haproxy, nginx (with the stream module) and wrk in PATH, and takes about
// ten minutes.
//
//	go run ./bench/lb                     everything
//	go run ./bench/lb -only small,conn    some of it
//	go run ./bench/lb -congestion cubic   under the kernel's default, whatever the machine's is
//
// Client, balancer and backend share the machine: read ratios, not rates. What
// happens when API servers fail is measured by test/faults/lb.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

type options struct {
	hactl   string
	rounds  int
	slice   time.Duration
	only    []string
	proxies []string
	idle    int
	dir     string
	goals   *goals
}

func main() {
	var (
		o                      options
		only, proxies, control string
	)
	if len(os.Args) > 1 && os.Args[1] == naiveCommand {
		exit(naive(os.Args[2:]))
	}
	flag.StringVar(&o.hactl, "hactl", "", "the hactl program; empty: it is built")
	flag.IntVar(&o.rounds, "rounds", 6, "rounds of each workload; hactl takes part in each, the others in every second")
	flag.DurationVar(&o.slice, "time", 2*time.Second, "length of one slice")
	flag.StringVar(&only, "only", "small,conn,bulk,latency,idle,slow,probes", "workloads")
	flag.StringVar(&proxies, "proxies", "hactl,hactl-hello,haproxy-splice,nginx,naive", "balancers to compare with haproxy")
	flag.IntVar(&o.idle, "idle", 50000, "the larger number of idle connections, as far as the limit of open files goes")
	flag.StringVar(&control, "congestion", "", "TCP congestion control for all, in a network namespace of its own (needs root), such as cubic, the kernel's default; empty: the machine's")
	flag.Parse()
	if control != "" {
		if os.Getenv(inNamespace) == "" {
			exit(runInNamespace())
		}
		if err := enterNamespace(control); err != nil {
			exit(err)
		}
	}
	o.only, o.proxies = strings.Split(only, ","), strings.Split(proxies, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, o)
	stop()
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/lb:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, o options) error {
	begin := time.Now()
	for _, tool := range []string{"haproxy", "nginx", "wrk"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: apt-get install haproxy nginx libnginx-mod-stream wrk", err)
		}
	}
	dir, err := os.MkdirTemp("", "bench-lb-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	o.dir, o.goals = dir, &goals{}
	if err := o.build(ctx); err != nil {
		return err
	}
	fmt.Printf("%s, %d CPUs, Linux %s, congestion control %s, %s; load average before: %s\n", firstLine("haproxy", "-v"), runtime.NumCPU(), release(), congestion(), runtime.Version(), loadAverage())
	b, err := startBackends(ctx, dir, o.idle)
	if err != nil {
		return err
	}
	defer b.stop()
	for _, w := range o.only {
		if err := o.measure(ctx, b, w); err != nil {
			return fmt.Errorf("%s: %w", w, err)
		}
	}
	fmt.Printf("\nload average after: %s; it took %v\n", loadAverage(), time.Since(begin).Round(time.Second))
	o.goals.print()
	return nil
}

func (o options) measure(ctx context.Context, b *backends, workload string) error {
	switch workload {
	case "idle":
		return measureIdle(ctx, o, b)
	case "slow":
		return measureSlow(ctx, o, b)
	case "probes":
		return measureProbes(ctx, o, b)
	}
	return measureLoad(ctx, o, b, workload)
}

// build makes the hactl program unless one is given.
func (o *options) build(ctx context.Context) error {
	if o.hactl != "" {
		return nil
	}
	o.hactl = filepath.Join(o.dir, "hactl-program") // a balancer called hactl has its folder beside it
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", o.hactl, "github.com/hactl/hactl/cmd/hactl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build hactl: %w\n%s", err, out)
	}
	return nil
}

func firstLine(name string, args ...string) string {
	out, _ := exec.Command(name, args...).Output()
	line, _, _ := strings.Cut(string(out), " 20")
	return strings.TrimSpace(line)
}

func release() string {
	data, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(data))
}

func loadAverage() string {
	data, _ := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(data))
	return strings.Join(f[:min(3, len(f))], " ")
}
