package agent

import (
	"bytes"
	"context"
	"time"

	"github.com/hactl/hactl/internal/config"
)

// configEvery is the pause between two looks at the configuration.
const configEvery = 3 * time.Second

// followConfig ends the agent when the configuration has changed: its supervisor
// starts it again with the new one, which names other masters to gossip with, or
// other limits of the watchdog. Nothing else notices. A configuration that is wrong,
// or does not name this master any more, changes nothing.
func (a *Agent) followConfig(ctx context.Context) error {
	first, err := config.Marshal(a.cfg.Cluster)
	if err != nil {
		return err
	}
	tick := time.NewTicker(configEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if changed(first, a.cfg, a.self) {
			a.cfg.Logger.Info("the configuration changed: the agent starts again with it")
			return nil
		}
	}
}

// changed tells whether there is a good configuration that differs from the text.
func changed(text []byte, cfg Config, self config.Master) bool {
	now, err := config.Load(cfg.Layout)
	if err != nil {
		return false // half written, or wrong: hactl config validate
	}
	if m, ok := now.MasterByName(self.Name); !ok || m.Address != self.Address {
		return false
	}
	latest, err := config.Marshal(now)
	return err == nil && !bytes.Equal(latest, text)
}
