package collect

import (
	"context"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/status"
)

// inside is what could be found out about one master's inside.
type inside struct {
	node    *status.Node
	from    string // "agent", "supervisor"; empty: nobody
	agent   status.Agent
	unknown map[string]string // by section
}

// fromSupervisor is status.Master.ProcessesFrom when the agent did not tell.
const (
	fromAgent      = "agent"
	fromSupervisor = "supervisor"
)

// node asks a master's agent over the network. If it does not answer and the
// master is this machine, its unix socket is tried, then what the agent would have
// asked.
func (c *Collector) node(ctx context.Context, m config.Master) inside {
	local, here := c.cfg.Locals[m.Name]
	socket := make(chan *status.Node, 1)
	if here && c.cfg.Socket != nil {
		// At the same time: two deadlines in a row would be too long.
		go func() {
			n, _ := c.within(ctx, func(ctx context.Context) (*status.Node, error) { return c.cfg.Socket(ctx, local) })
			socket <- n
		}()
	} else {
		socket <- nil
	}

	sent := time.Now()
	n, err := c.within(ctx, func(ctx context.Context) (*status.Node, error) { return c.cfg.Node(ctx, m) })
	if err == nil {
		rtt := time.Since(sent)
		return inside{
			node: n, from: fromAgent, unknown: missing(n),
			agent: status.Agent{Reachable: true, Version: n.Version, Latency: status.In(rtt), Skew: status.In(Skew(n.Time, sent, rtt))},
		}
	}
	t := inside{agent: status.Agent{Error: words(err)}, unknown: map[string]string{}}
	if n := <-socket; n != nil {
		t.node, t.from, t.unknown = n, fromAgent, missing(n)
		t.agent.Version = n.Version
		return t
	}
	if here {
		t.node = Gather(ctx, c.local(local))
		t.unknown = missing(t.node)
		if t.node.Processes != nil {
			t.from = fromSupervisor
		}
		return t
	}
	t.unknown = missing(&status.Node{Errors: map[string]string{}})
	for section := range t.unknown {
		t.unknown[section] = "its agent does not answer"
	}
	return t
}

func (c *Collector) local(l layout.Layout) Sources {
	if c.cfg.Local != nil {
		return c.cfg.Local(l)
	}
	return Local{Layout: l}.Sources()
}

// within gives f the time of one call and does not wait longer, whatever f does.
func (c *Collector) within(ctx context.Context, f func(context.Context) (*status.Node, error)) (*status.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, c.call)
	defer cancel()
	return bounded(ctx, f)
}

// Skew is how far the other clock is ahead, when it showed t at some moment
// between sent and sent+rtt by ours: at least that far.
func Skew(t, sent time.Time, rtt time.Duration) time.Duration {
	if t.IsZero() {
		return 0
	}
	// Round takes the monotonic clock off: two wall clocks are compared.
	d := t.Round(0).Sub(sent.Round(0).Add(rtt / 2))
	return max(0, d-rtt/2) + min(0, d+rtt/2)
}
