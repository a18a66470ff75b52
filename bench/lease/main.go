// Command lease measures how long a singleton is without anybody, for podmaster,
// for `etcdctl lock`, and for client-go's leader election as kube-scheduler runs it,
// one after the other in the same run before the same three stock etcd members, which
// sync their files. At last it measures what podmaster costs while nothing happens.
//
//	go build -o /tmp/podmaster ./cmd/podmaster
//	go run ./bench/lease -podmaster /tmp/podmaster -etcd BIN/etcd -etcdctl BIN/etcdctl -kube BIN -out bench-lease
//
// `go run ./internal/kubebin/cmd/kubebin --where peers` (or kube) says where the
// programs are.
//
// The work is this program, which writes a line every 2 ms; a gap is the time from
// the last line of one process to the first line of the next, so it has the start of
// the work in it (some 10 ms). Beside the table it leaves an HDR percentile file
// for each row in -out. Everything shares one machine: read orders of magnitude.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/hactl/hactl/internal/process"
)

type options struct {
	podmaster, etcd, etcdctl string
	kube                     string // folder of kube-apiserver and kube-scheduler; empty: without that peer
	repeats                  int
	only                     []string
	out                      string
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
	flag.IntVar(&o.repeats, "repeats", 50, "repeats of each event")
	flag.StringVar(&only, "only", "", "names of events, separated by commas; empty: all")
	flag.StringVar(&o.out, "out", "bench-lease", "folder for the HDR files")
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

// row is one line of the table.
type row struct {
	event, who string
	hist       *hdrhistogram.Histogram // microseconds
	stuck      int                     // repeats in which nobody came within a minute
	kept       int                     // repeats in which the same term went on
	overlap    int                     // repeats in which two worked at once
	worst      time.Duration           // the longest of those
}

func run(ctx context.Context, o options) error {
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
	s := &scene{o: o, dir: dir}
	defer s.end()
	if err := s.startEtcd(ctx); err != nil {
		return err
	}
	var rows []*row
	if len(o.only) == 0 || slices.Contains(o.only, startOnly) {
		r := &row{event: startOnly, who: "nobody", hist: hdrhistogram.New(1, 120_000_000, 3)}
		if err := s.starts(ctx, r); err != nil {
			return err
		}
		rows = append(rows, r)
		r.print(os.Stdout)
		if err := r.save(o.out); err != nil {
			return err
		}
	}
	for _, ev := range events() {
		if len(o.only) > 0 && !slices.Contains(o.only, ev.name) {
			continue
		}
		for _, who := range []string{"podmaster", "etcdctl lock", kubeWho} {
			if who == "etcdctl lock" && !ev.peer || who == kubeWho && (!ev.kube || o.kube == "") {
				continue
			}
			r := &row{event: ev.name, who: who, hist: hdrhistogram.New(1, 120_000_000, 3)}
			rows = append(rows, r)
			if err := s.measureOne(ctx, ev, r); err != nil {
				return fmt.Errorf("%s, %s: %w", ev.name, who, err)
			}
			r.print(os.Stdout)
			if err := r.save(o.out); err != nil {
				return err
			}
		}
	}
	if len(o.only) == 0 || slices.Contains(o.only, "standing cost") {
		return s.standing(ctx, os.Stdout)
	}
	if len(rows) == 0 {
		return errors.New("no such event")
	}
	return nil
}

func (s *scene) measureOne(ctx context.Context, ev event, r *row) error {
	if r.who != kubeWho {
		return s.measure(ctx, ev, r)
	}
	k, err := s.startKube(ctx)
	if k != nil {
		defer k.end()
	}
	if err != nil {
		return err
	}
	if err := pause(ctx, 8*time.Second); err != nil { // until all three are candidates
		return err
	}
	return k.measure(ctx, ev, r)
}

func (r *row) print(w *os.File) {
	ms := func(q float64) string { return fmt.Sprintf("%.0f", float64(r.hist.ValueAtQuantile(q))/1000) }
	fmt.Fprintf(w, "%-28s %-13s n=%-3d gap ms: p50 %6s  p99 %6s  max %6.0f   same one goes on %d   nobody came %d   overlaps %d (worst %v)\n",
		r.event, r.who, r.hist.TotalCount(), ms(50), ms(99), float64(r.hist.Max())/1000, r.kept, r.stuck, r.overlap, r.worst.Round(time.Millisecond))
}

func (r *row) save(dir string) error {
	name := strings.NewReplacer(" ", "-", ",", "").Replace(r.event + "--" + r.who + ".hgrm")
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	_, err = r.hist.PercentilesPrint(f, 5, 1000)
	return errors.Join(err, f.Close())
}
