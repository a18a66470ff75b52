// Command lb measures load balancers on this machine, one after the other
// before the same backends, and prints each one's ratio to HAProxy's slices
// directly before and after its own. It needs haproxy, nginx (with the stream
// module) and wrk in PATH.
//
//	go build -o /tmp/hactl ./cmd/hactl && go run ./bench/lb -hactl /tmp/hactl
//
// Client, balancer and backend share the machine: read ratios, not rates.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

type options struct {
	hactl      string
	rounds     int
	slice      time.Duration
	only       []string
	proxies    []string
	idle       int
	dir        string
	kube, etcd string   // for avail
	faults     []string // for avail; empty: all
	verbose    bool
}

func main() {
	var (
		o             options
		only, proxies string
		faults        string
	)
	if len(os.Args) > 1 && os.Args[1] == naiveCommand {
		exit(naive(os.Args[2:]))
	}
	flag.StringVar(&o.hactl, "hactl", "hactl", "the hactl program")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of each workload")
	flag.DurationVar(&o.slice, "time", 3*time.Second, "length of one slice")
	flag.StringVar(&only, "only", "small,conn,bulk,latency,idle,slow", "workloads")
	flag.StringVar(&proxies, "proxies", "hactl,hactl-hello,nginx,naive,haproxy-splice", "balancers to compare with haproxy")
	flag.IntVar(&o.idle, "idle", 4000, "idle connections")
	flag.StringVar(&o.kube, "kube", "", "folder with kube-apiserver, for the workload avail")
	flag.StringVar(&o.etcd, "etcd", "etcd", "the etcd program, for the workload avail")
	flag.StringVar(&faults, "faults", "", "faults of avail, separated by semicolons; empty: all")
	flag.BoolVar(&o.verbose, "v", false, "print hactl's log after avail")
	flag.Parse()
	if faults != "" {
		o.faults = strings.Split(faults, ";")
	}
	o.only, o.proxies = strings.Split(only, ","), strings.Split(proxies, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
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
	dir, err := os.MkdirTemp("", "bench-lb-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	o.dir = dir
	if i := slices.Index(o.only, "avail"); i >= 0 {
		if err := measureAvail(ctx, o); err != nil {
			return fmt.Errorf("avail: %w", err)
		}
		if o.only = slices.Delete(o.only, i, i+1); len(o.only) == 0 {
			return nil
		}
	}
	b, err := startBackends(ctx, dir)
	if err != nil {
		return err
	}
	defer b.stop()
	for _, w := range o.only {
		switch w {
		case "idle":
			err = measureIdle(ctx, o, b)
		case "slow":
			err = measureSlow(ctx, o, b)
		default:
			err = measureLoad(ctx, o, b, w)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", w, err)
		}
	}
	return nil
}
