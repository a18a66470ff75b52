package rendezvous

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	alive    prometheus.Gauge
	joins    *prometheus.CounterVec
	answers  *prometheus.CounterVec
	dropped  prometheus.Counter
	troubles prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		alive: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hactl_rendezvous_peers", Help: "Other machines with the token that take part now.",
		}),
		joins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hactl_rendezvous_joins_total", Help: "Tries to reach a seed that was not met, by result.",
		}, []string{"result"}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hactl_rendezvous_answers_total", Help: "Questions answered, by question and result.",
		}, []string{"question", "result"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hactl_rendezvous_dropped_total", Help: "Messages that could not be read, or came too fast.",
		}),
		troubles: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hactl_rendezvous_troubles_total", Help: "Warnings and errors of the gossip library, such as messages with a wrong key.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(
		register(reg, &m.alive), register(reg, &m.joins), register(reg, &m.answers),
		register(reg, &m.dropped), register(reg, &m.troubles),
	)
}

// register registers *c, or puts in its place what is registered already: with
// each new token comes a new Node.
func register[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	err := reg.Register(*c)
	var again prometheus.AlreadyRegisteredError
	if !errors.As(err, &again) {
		return err
	}
	old, ok := again.ExistingCollector.(C)
	if !ok {
		return err
	}
	*c = old
	return nil
}
