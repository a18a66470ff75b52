package etcdcluster

import "github.com/prometheus/client_golang/prometheus"

// metrics are ours; etcd's own are in Prometheus' default registry.
type metrics struct {
	ready          prometheus.Gauge
	selfRead       prometheus.Gauge
	selfReadErrors prometheus.Counter
	moves          *prometheus.CounterVec
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
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.ready, m.selfRead, m.selfReadErrors, m.moves} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
