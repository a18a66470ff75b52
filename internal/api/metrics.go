package api

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// newMetrics registers the package's metrics; with a nil registerer they are
// counted for nobody.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hactl_api_requests_total",
			Help: "Requests to the agent's API, by pattern (empty: none matched) and status code.",
		}, []string{"pattern", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "hactl_api_request_seconds",
			Help:    "Time to answer a request to the agent's API.",
			Buckets: []float64{.001, .005, .02, .1, .5, 1, 5},
		}, []string{"pattern"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register the API's metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) observe(pattern string, code int, took time.Duration) {
	m.requests.WithLabelValues(pattern, strconv.Itoa(code)).Inc()
	m.seconds.WithLabelValues(pattern).Observe(took.Seconds())
}
