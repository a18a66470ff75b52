package singleton

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hactl/hactl/internal/lease"
)

// Metrics are podmaster's counters and gauges.
type Metrics struct {
	starts, ends, unhealthy prometheus.Counter
}

// NewMetrics registers them with reg, which may be nil.
func NewMetrics(reg prometheus.Registerer, e *lease.Elector) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "hactl_singleton_" + name, Help: help})
	}
	gauge := func(name, help string, f func(lease.Status) float64) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "hactl_lease_" + name, Help: help}, func() float64 {
			s, _ := e.Status()
			return f(s)
		})
	}
	m := &Metrics{
		starts:    counter("starts_total", "Starts of the work."),
		ends:      counter("ends_total", "Ends of the work, wanted or not."),
		unhealthy: counter("health_failures_total", "Failed health probes of the work."),
	}
	if reg == nil {
		return m
	}
	is := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	reg.MustRegister(m.starts, m.ends, m.unhealthy,
		gauge("holding", "1 while this candidate holds the lock.", func(s lease.Status) float64 { return is(s.Role == lease.Holding || s.Role == lease.Stopping) }),
		gauge("token", "Fencing token of the own term; 0 without one.", func(s lease.Status) float64 { return float64(s.Token) }),
		gauge("store_up", "1 when the store's last answer was a good one.", func(s lease.Status) float64 { return is(s.Rounds > 0 && s.Err == nil) }),
		gauge("renewal_seconds", "How long the last answered renewal took.", func(s lease.Status) float64 { return s.Took.Seconds() }),
		gauge("renewed_age_seconds", "Since the last answered renewal was sent; 0 when not holding.", func(s lease.Status) float64 {
			if s.Role != lease.Holding && s.Role != lease.Stopping {
				return 0
			}
			return (e.Config().Clock.Now() - s.Renewed).Seconds()
		}),
	)
	return m
}

// Events counts what happens to the work.
func (m *Metrics) Events() Events {
	return Events{
		Started: func(int) { m.starts.Inc() },
		Ended:   func(string) { m.ends.Inc() },
		Health: func(err error) {
			if err != nil {
				m.unhealthy.Inc()
			}
		},
	}
}
