//go:build faults

package lb

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hactl/hactl/test/load"
)

// calmAddr is where a second balancer of ours serves, whom nobody attacks.
const calmAddr = "127.0.5.3:6443"

const (
	window = 2 * time.Second
	// mostSlower is how much slower the others' 99th percentile may become.
	mostSlower = 2.0
	// leastP99: what is below is the scheduler's on a small machine.
	leastP99 = 5 * time.Millisecond
	// leastSeen are the requests that a window needs, and leastWindows such windows.
	leastSeen    = 20
	leastWindows = 3
)

// unhurried clients give nothing up: how slow they are served is compared.
var unhurried = crowd{every: 20 * time.Millisecond, timeout: time.Minute, haste: time.Minute}

// windows is how many of them are watched.
func windows() time.Duration {
	if long() {
		return 11
	}
	return 5
}

// comparison is what the same clients see of two balancers at the same time, only
// one of which is in trouble.
//
// A time is no thing to judge on a machine that others use too; but whatever else
// takes its processors (the attackers not least) takes them from both. So the ratio
// of the two is judged, window by window, and its median: one hiccup of one process
// is in one window.
type comparison struct {
	attacked, calm *observed
	end            func() // stops the clients and waits for them
}

// compare starts clients of both.
func compare(t *testing.T, tg target, attacked, calm *balancer) *comparison {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	c := &comparison{}
	var wg sync.WaitGroup
	wg.Go(func() { c.attacked = watch(ctx, tg, attacked.addr, unhurried) })
	wg.Go(func() { c.calm = watch(ctx, tg, calm.addr, unhurried) })
	c.end = sync.OnceFunc(func() { stop(); wg.Wait() })
	t.Cleanup(c.end)
	return c
}

// judge wants the others of the attacked balancer to have been hardly slower. Of its
// new connections, `theirs` met the evildoer, and are not others: the slowest.
func (c *comparison) judge(t *testing.T, theirs int) {
	t.Helper()
	t.Logf("attacked: %v", c.attacked)
	t.Logf("calm:     %v", c.calm)
	c.attacked.mustSee(t, 60)
	c.calm.mustSee(t, 60)
	fresh := withoutSlowest(c.attacked.fresh, theirs)
	for what, ratios := range map[string][]float64{
		"new connections": ratiosOf(fresh, c.calm.fresh),
		"kept ones":       ratiosOf(c.attacked.keptResults(), c.calm.keptResults()),
	} {
		m := medianOf(ratios)
		t.Logf("p99 of %s beside the calm balancer's: %.2f times (%.2f)", what, m, ratios)
		if len(ratios) < leastWindows {
			t.Errorf("%s were seen in %d windows, want at least %d: the machine is too busy for this test", what, len(ratios), leastWindows)
		}
		if m > mostSlower {
			t.Errorf("the p99 of others' %s is %.2f times the calm balancer's, want at most %g", what, m, mostSlower)
		}
	}
}

// noneFailed wants every request of others to have been answered.
func (c *comparison) noneFailed(t *testing.T) {
	t.Helper()
	for _, o := range []*observed{c.attacked, c.calm} {
		lost := o.newFailed()
		for _, n := range o.keptFailed() {
			lost += n
		}
		if lost > 0 {
			t.Errorf("%d requests of others failed%s", lost, firstErrors(o))
		}
	}
}

func (o *observed) keptResults() (all []load.Result) {
	for _, k := range slices.Concat(o.hasty[:], o.patient[:]) {
		all = append(all, k.results...)
	}
	return all
}

// withoutSlowest leaves out the n that took longest.
func withoutSlowest(all []load.Result, n int) []load.Result {
	took := func(r load.Result) time.Duration { return r.End.Sub(r.Due) }
	bySlowness := slices.SortedFunc(slices.Values(all), func(a, b load.Result) int { return int(took(b) - took(a)) })
	return bySlowness[min(n, len(bySlowness)):]
}

// ratiosOf compares the 99th percentiles, window by window.
func ratiosOf(a, b []load.Result) (ratios []float64) {
	if len(a) == 0 || len(b) == 0 {
		return nil
	}
	begin := slices.MinFunc(b, func(x, y load.Result) int { return x.Due.Compare(y.Due) }).Due
	in := func(all []load.Result, from, to time.Time) (some []load.Result) {
		for _, r := range all {
			if !r.Due.Before(from) && r.Due.Before(to) {
				some = append(some, r)
			}
		}
		return some
	}
	for from := begin; ; from = from.Add(window) {
		x, y := in(a, from, from.Add(window)), in(b, from, from.Add(window))
		if len(x) == 0 || len(y) == 0 {
			return ratios
		}
		if min(len(x), len(y)) < leastSeen {
			continue // the last one is cut short
		}
		ratios = append(ratios, float64(max(quantile(x, .99), leastP99))/float64(max(quantile(y, .99), leastP99)))
	}
}

func medianOf(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
