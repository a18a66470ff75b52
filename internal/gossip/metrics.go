package gossip

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	peers     *prometheus.GaugeVec
	health    prometheus.Gauge
	joins     *prometheus.CounterVec
	conflicts prometheus.Counter
	troubles  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		peers: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hactl_gossip_peers", Help: "Nodes by how they look from here, this one included.",
		}, []string{"state"}),
		health: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hactl_gossip_health_score", Help: "How badly this node keeps up with its own probes; 0 is well.",
		}),
		joins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hactl_gossip_joins_total", Help: "Tries to reach a configured peer that is not seen, by result.",
		}, []string{"result"}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hactl_gossip_conflicts_total", Help: "Messages of a second node under one name.",
		}),
		troubles: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hactl_gossip_troubles_total", Help: "Warnings and errors of the gossip library, such as messages with a wrong key.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.peers, m.health, m.joins, m.conflicts, m.troubles} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) count(peers []Peer) {
	n := map[State]float64{}
	for _, p := range peers {
		n[p.State]++
	}
	for _, s := range []State{Unseen, Alive, Suspect, Dead, Left} {
		m.peers.WithLabelValues(string(s)).Set(n[s])
	}
}
