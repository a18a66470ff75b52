package lb

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hactl/hactl/internal/lb/pool"
)

// collector reads the balancer's status when metrics are scraped, so that the
// data path does nothing for them.
type collector struct{ b *Balancer }

type desc = *prometheus.Desc

func newDesc(name, help string, labels ...string) desc {
	return prometheus.NewDesc("hactl_lb_"+name, help, labels, nil)
}

// register adds the balancer's metrics to r, which may be nil.
func (b *Balancer) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	return r.Register(collector{b})
}

// Describe sends nothing: the set of metrics follows the backends.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	s := c.b.Status()
	emit := func(d desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	emit(newDesc("connections", "Connections now."), gauge, float64(s.Counts.Open))
	emit(newDesc("max_connections", "Bound of connections."), gauge, float64(s.MaxConns))
	emit(newDesc("accepted_total", "Connections accepted."), counter, float64(s.Counts.Accepted))
	refused := newDesc("refused_total", "Clients refused or dropped, by reason.", "reason")
	for reason, n := range map[string]int64{
		"full": s.Counts.Shed, "per_client": s.Counts.PerClient, "silent": s.Counts.SilentDropped,
		"hello_timeout": s.Counts.HelloTimeout, "no_backend": s.Counts.NoBackend, "no_answer": s.Counts.NoAnswer,
	} {
		emit(refused, counter, float64(n), reason)
	}
	reset := newDesc("reset_total", "Established connections reset or ended by the balancer, by reason.", "reason")
	for reason, n := range map[string]int64{"ejected": s.Counts.Cut, "dead_peer": s.Counts.DeadPeer, "rebalance": s.Moved} {
		emit(reset, counter, float64(n), reason)
	}
	emit(newDesc("retries_total", "Tries repeated at another backend after a refusal, reset or ejection."), counter, float64(s.Counts.Retries))
	emit(newDesc("replays_total", "ClientHellos replayed to another backend after silence."), counter, float64(s.Counts.Replays))
	emit(newDesc("replays_denied_total", "Replays that the budget did not allow."), counter, float64(s.Counts.ReplayDenied))
	emit(newDesc("accept_paused_total", "Times that no descriptor was left."), counter, float64(s.Counts.AcceptPaused))
	emit(newDesc("not_tls_total", "Connections passed on without replay, since they do not begin with a ClientHello."), counter, float64(s.Counts.NotTLS))
	emit(newDesc("list_error", "1 while the newest list of backends is refused."), gauge, truth(s.ListErr != ""))
	emit(newDesc("check_files_error", "1 while a file of the checks (CA, certificate, key, token) has turned bad."), gauge, truth(s.FilesErr != ""))
	c.backends(s.Backends, emit)
}

func (collector) backends(list []BackendStatus, emit func(desc, prometheus.ValueType, float64, ...string)) {
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	state := newDesc("backend_state", "1 for the backend's state.", "backend", "address", "state")
	usable := newDesc("backend_usable", "1 if the backend gets new connections.", "backend", "address")
	drained := newDesc("backend_drained", "1 if an operator has drained the backend.", "backend", "address")
	distrusted := newDesc("backend_distrusted", "1 while the backend is ready and fails connections.", "backend", "address")
	conns := newDesc("backend_connections", "Connections at the backend now.", "backend", "address")
	total := newDesc("backend_connections_total", "Connections sent to the backend, tries included.", "backend", "address")
	bytes := newDesc("backend_bytes_total", "Bytes passed on.", "backend", "address", "direction")
	failed := newDesc("backend_failed_total", "Tries that failed before the first byte, by kind.", "backend", "address", "kind")
	took := newDesc("backend_probe_seconds", "Duration of the last probe.", "backend", "address")
	for _, m := range list {
		for st := pool.Starting; st <= pool.Ejected; st++ {
			emit(state, gauge, truth(st == m.State), m.Name, m.Address, st.String())
		}
		emit(usable, gauge, truth(m.Usable), m.Name, m.Address)
		emit(drained, gauge, truth(m.Drained), m.Name, m.Address)
		emit(distrusted, gauge, truth(m.Distrusted), m.Name, m.Address)
		emit(conns, gauge, float64(m.Connections), m.Name, m.Address)
		emit(total, counter, float64(m.Total), m.Name, m.Address)
		emit(bytes, counter, float64(m.BytesUp), m.Name, m.Address, "up")
		emit(bytes, counter, float64(m.BytesDown), m.Name, m.Address, "down")
		emit(failed, counter, float64(m.Failed), m.Name, m.Address, "broken")
		emit(failed, counter, float64(m.Replayed), m.Name, m.Address, "silent")
		emit(took, gauge, m.Probe.TookMS/1000, m.Name, m.Address)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
