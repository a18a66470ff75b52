// Command lease measures how long a singleton is without anybody, for podmaster,
// for `etcdctl lock`, and for client-go's leader election as kube-scheduler runs it
// (kube-scheduler itself, in front of a kube-apiserver), in the same run before the
// same three stock etcd members, which sync their files. It measures what each costs
// while nothing happens, too.
//
//	go build -o /tmp/podmaster ./cmd/podmaster
//	go run ./bench/lease -podmaster /tmp/podmaster -etcd BIN/etcd -etcdctl BIN/etcdctl -kube BIN -out bench-lease
//
// `go run ./internal/kubebin/cmd/kubebin --where peers` (or kube) says where the
// programs are. -list tells the rows and how long each takes; -only and -repeats do less.
//
// Waiting is most of the time, so groups of three candidates, each with a key of its
// own, suffer side by side at moments of their own; where the processor decides
// (the planned hand-over) the contestants take turns instead. etcd's leader is
// everybody's: each loss of it is one for all groups, podmaster's and the peers'.
//
// The work is this program, which writes a line every 2 ms. Beside the table,
// -out gets an HDR percentile file for each of its lines. Everything shares one
// machine: read orders of magnitude.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/process"
)

type options struct {
	podmaster, etcd, etcdctl string
	kube                     string // folder of kube-apiserver and kube-scheduler; empty: without that peer
	repeats                  int
	only                     []string
	out                      string
	list                     bool
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == workArg {
		exit(work(os.Args[2]))
	}
	var o options
	var only string
	flag.StringVar(&o.podmaster, "podmaster", "podmaster", "the podmaster program")
	flag.StringVar(&o.etcd, "etcd", "etcd", "the etcd program")
	flag.StringVar(&o.etcdctl, "etcdctl", "etcdctl", "the etcdctl program")
	flag.StringVar(&o.kube, "kube", "", "the folder of kube-apiserver and kube-scheduler; empty: without that peer")
	flag.IntVar(&o.repeats, "repeats", 50, "repeats of each row, for each contestant")
	flag.StringVar(&only, "only", "", "names of rows, or beginnings of them, separated by commas; empty: all")
	flag.StringVar(&o.out, "out", "bench-lease", "folder for the HDR files and the table")
	flag.BoolVar(&o.list, "list", false, "tell the rows and how long they take, and measure nothing")
	flag.Parse()
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(run(ctx, o))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/lease:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// chosen are the rows that -only names.
func (o options) chosen() []row {
	var rows []row
	for _, r := range allRows() {
		named := func(only string) bool { return strings.HasPrefix(r.name, only) }
		if len(o.only) == 0 || slices.ContainsFunc(o.only, named) {
			rows = append(rows, r)
		}
	}
	return rows
}

func run(ctx context.Context, o options) error {
	rows := o.chosen()
	if len(rows) == 0 {
		return errors.New("no such row; -list tells them")
	}
	p := newProgress(o, rows)
	if o.list {
		p.list(os.Stdout)
		return nil
	}
	if o.repeats < 1 {
		return fmt.Errorf("-repeats %d: want at least 1", o.repeats)
	}
	if err := process.BecomeSubreaper(); err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-lease-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &scene{o: o, dir: dir, progress: p}
	defer s.end()
	if err := s.startEtcd(ctx); err != nil {
		return err
	}
	t, err := newTable(o)
	if err != nil {
		return err
	}
	var failed error
	for _, r := range rows {
		p.begin(r)
		began := time.Now()
		err := s.measure(ctx, r, t)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // the other rows are worth having
			err = fmt.Errorf("%s: %w", r.name, err)
			p.say("FAILED: %v", err)
			failed = errors.Join(failed, err)
			continue
		}
		p.done(r, time.Since(began))
	}
	return errors.Join(failed, t.finish())
}

// measure runs one row, and ends what it started.
func (s *scene) measure(ctx context.Context, r row, t *table) error {
	if r.kube && s.kube == nil && s.o.kube != "" {
		s.progress.say("starting kube-apiserver and %d kube-schedulers", kubeGroups*3)
		k, err := s.startKube(ctx)
		s.kube = k
		if err != nil {
			return err
		}
	}
	defer s.stopGroups()
	return r.run(ctx, s, t)
}
