package etcdcluster

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are ours; etcd's own are in Prometheus' default registry.
type metrics struct {
	ready          prometheus.Gauge
	selfRead       prometheus.Gauge
	selfReadErrors prometheus.Counter
	moves          *prometheus.CounterVec
	held           prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		ready: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hactl_etcd_ready", Help: "1 while the member serves its clients.",
		}),
		selfRead: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hactl_etcd_self_read_seconds", Help: "How long the member's last read of its own store took, by which the watchdog is fed.",
		}),
		selfReadErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hactl_etcd_self_read_errors_total", Help: "Reads of the member's own store that failed or were late.",
		}),
		moves: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hactl_etcd_leader_hand_overs_total", Help: "Hand-overs of leadership at a stop, by result.",
		}, []string{"result"}),
		held: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "hactl_etcd_held_write_seconds", Help: "How long writes waited for a new leader, since the old one was seen dead.",
			Buckets: prometheus.ExponentialBuckets(0.05, 2, 7),
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.ready, m.selfRead, m.selfReadErrors, m.moves, m.held} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) heldWrite(d time.Duration) { m.held.Observe(d.Seconds()) }
