package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// workload is what wrk does.
type workload struct {
	conns int
	path  string
	close bool
	bulk  bool
}

var workloads = map[string]workload{
	"small":   {conns: 64, path: "/s"},
	"conn":    {conns: 64, path: "/s", close: true},
	"bulk":    {conns: 8, path: "/bulk", bulk: true},
	"latency": {conns: 1, path: "/s"},
}

// sample is one slice's result.
type sample struct {
	rate     float64 // requests, or gigabytes, a second
	p50, p99 time.Duration
	cpu      float64 // of the balancer, seconds per 100k requests or per gigabyte
	errors   int
}

var (
	rateLine  = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	totalLine = regexp.MustCompile(`(\d+) requests in ([0-9.]+)(s|m)`)
	pctLine   = regexp.MustCompile(`(50|99)%\s+([0-9.]+)(us|ms|s)`)
	sockLine  = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	codeLine  = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
)

// slice drives p for the given time.
func slice(ctx context.Context, p *proxy, w workload, d time.Duration) (s sample, err error) {
	threads := min(2, w.conns)
	args := []string{"-t", strconv.Itoa(threads), "-c", strconv.Itoa(w.conns), "-d", fmt.Sprintf("%ds", int(d.Seconds())), "--latency"}
	if w.close {
		args = append(args, "-H", "Connection: close")
	}
	before := 0.0
	if p.proc != nil {
		before = p.cpu()
	}
	out, err := exec.CommandContext(ctx, "wrk", append(args, "http://"+p.addr+w.path)...).CombinedOutput()
	if err != nil {
		return s, fmt.Errorf("wrk: %w: %s", err, out)
	}
	text := string(out)
	rate, total := rateLine.FindStringSubmatch(text), totalLine.FindStringSubmatch(text)
	if rate == nil || total == nil {
		return s, fmt.Errorf("wrk: no rate in %q", text)
	}
	s.rate, _ = strconv.ParseFloat(rate[1], 64)
	requests, _ := strconv.ParseFloat(total[1], 64)
	unit := requests / 100_000
	if w.bulk {
		s.rate *= bulkBytes / 1e9
		unit = requests * bulkBytes / 1e9
	}
	if p.proc != nil && unit > 0 {
		s.cpu = (p.cpu() - before) / unit
	}
	for _, m := range pctLine.FindAllStringSubmatch(text, -1) {
		v, _ := time.ParseDuration(m[2] + m[3])
		if m[1] == "50" {
			s.p50 = v
		} else {
			s.p99 = v
		}
	}
	for _, re := range []*regexp.Regexp{sockLine, codeLine} {
		if m := re.FindStringSubmatch(text); m != nil {
			for _, n := range m[1:] {
				v, _ := strconv.Atoi(n)
				s.errors += v
			}
		}
	}
	return s, nil
}

// series are the ratios of one balancer.
type series struct {
	rate, cpu, p50, p99        []float64
	own, reference, ownC, refC []float64
	errors                     int
}

// measureLoad runs all balancers under workload name, HAProxy between each two.
func measureLoad(ctx context.Context, o options, b *backends, name string) error {
	w, ok := workloads[name]
	if !ok {
		return fmt.Errorf("no workload %q", name)
	}
	running := map[string]*proxy{}
	defer func() {
		for _, p := range running {
			p.stop()
		}
	}()
	for _, n := range append([]string{"haproxy"}, o.proxies...) {
		p, err := startProxy(ctx, o, n, b)
		if err != nil {
			return err
		}
		running[n] = p
	}
	// The first seconds fill caches and buffers.
	if _, err := slice(ctx, running["haproxy"], w, time.Second); err != nil {
		return err
	}
	d := o.slice
	all := map[string]*series{}
	for round := range o.rounds {
		order := slices.DeleteFunc(slices.Clone(o.proxies), func(n string) bool { return n != "hactl" && round%2 == 1 })
		if round%4 >= 2 {
			slices.Reverse(order)
		}
		last, err := slice(ctx, running["haproxy"], w, d)
		if err != nil {
			return err
		}
		for _, n := range order {
			mine, err := slice(ctx, running[n], w, d)
			if err != nil {
				return err
			}
			next, err := slice(ctx, running["haproxy"], w, d)
			if err != nil {
				return err
			}
			if all[n] == nil {
				all[n] = &series{}
			}
			all[n].add(mine, last, next)
			last = next
		}
	}
	report(name, w, o.proxies, all)
	o.goals.judge(name, all)
	return nil
}

func (s *series) add(mine, a, b sample) {
	ref := func(f func(sample) float64) float64 { return (f(a) + f(b)) / 2 }
	ratio := func(list *[]float64, f func(sample) float64) {
		if r := ref(f); r > 0 {
			*list = append(*list, f(mine)/r)
		}
	}
	rate := func(s sample) float64 { return s.rate }
	cpu := func(s sample) float64 { return s.cpu }
	ratio(&s.rate, rate)
	ratio(&s.cpu, cpu)
	ratio(&s.p50, func(s sample) float64 { return float64(s.p50) })
	ratio(&s.p99, func(s sample) float64 { return float64(s.p99) })
	s.own, s.reference = append(s.own, mine.rate), append(s.reference, ref(rate))
	s.ownC, s.refC = append(s.ownC, mine.cpu), append(s.refC, ref(cpu))
	s.errors += mine.errors
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// spread writes median [least-most].
func spread(v []float64) string {
	if len(v) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f [%.2f-%.2f]", median(v), slices.Min(v), slices.Max(v))
}

func report(name string, w workload, order []string, all map[string]*series) {
	unit, per := "requests/s", "100k requests"
	switch {
	case w.bulk:
		unit, per = "GB/s", "GB"
	case w.close:
		unit, per = "connections/s", "100k connections"
	}
	fmt.Printf("\n## %s: %d connections, ratio to HAProxy (median [min-max])\n\n", name, w.conns)
	fmt.Printf("| balancer | %s | HAProxy | rate | CPU s/%s | HAProxy | CPU | p50 | p99 | errors |\n|---|---|---|---|---|---|---|---|---|---|\n", unit, per)
	format := func(v float64) string {
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', map[bool]int{true: 2, false: 0}[v < 100], 64), ".00")
	}
	for _, n := range order {
		s := all[n]
		fmt.Printf("| %s | %s | %s | %s | %.2f | %.2f | %s | %s | %s | %d |\n", n, format(median(s.own)), format(median(s.reference)),
			spread(s.rate), median(s.ownC), median(s.refC), spread(s.cpu), spread(s.p50), spread(s.p99), s.errors)
	}
}
