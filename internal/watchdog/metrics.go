package watchdog

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	probes   *prometheus.CounterVec   // unit, result
	seconds  *prometheus.HistogramVec // unit
	failures *prometheus.GaugeVec     // unit
	actions  *prometheus.CounterVec   // unit, action, reason
	restarts *prometheus.CounterVec   // unit, result
	sick     *prometheus.GaugeVec     // dependency
	usage    *prometheus.GaugeVec     // unit, resource
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hactl_watchdog_probes_total", Help: "Probes of a unit's process, by result (ok, failed).",
		}, []string{"unit", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "hactl_watchdog_probe_seconds", Help: "How long probes took, failed ones included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 5},
		}, []string{"unit"}),
		failures: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hactl_watchdog_failures", Help: "Failures of a unit's process that count towards a restart now.",
		}, []string{"unit"}),
		actions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hactl_watchdog_decisions_total", Help: "Decisions that differ from the one before, by action and reason.",
		}, []string{"unit", "action", "reason"}),
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hactl_watchdog_restarts_total", Help: "Restarts by the watchdog, by result (ok, failed).",
		}, []string{"unit", "result"}),
		sick: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hactl_watchdog_dependency_sick", Help: "1 while a dependency fails its check.",
		}, []string{"dependency"}),
	}
	m.usage = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "hactl_watchdog_usage", Help: "What a unit's process uses: memory (bytes, without mapped files), files, goroutines.",
	}, []string{"unit", "resource"})
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.probes, m.seconds, m.failures, m.actions, m.restarts, m.sick, m.usage} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func result(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}

func (m *metrics) probed(unit string, took time.Duration, err error) {
	m.probes.WithLabelValues(unit, result(err)).Inc()
	m.seconds.WithLabelValues(unit).Observe(took.Seconds())
}

func (m *metrics) used(unit string, u Usage) {
	m.usage.WithLabelValues(unit, "memory").Set(float64(u.Memory))
	m.usage.WithLabelValues(unit, "files").Set(float64(u.Files))
	if u.Goroutines > 0 {
		m.usage.WithLabelValues(unit, "goroutines").Set(float64(u.Goroutines))
	}
}

func (m *metrics) dependency(name string, sick bool) {
	v := 0.0
	if sick {
		v = 1
	}
	m.sick.WithLabelValues(name).Set(v)
}
