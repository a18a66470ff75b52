package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hactl/hactl/internal/api"
	"github.com/hactl/hactl/internal/collect"
	"github.com/hactl/hactl/internal/status"
)

// clocks compares this master's clock with the others'.
type clocks struct {
	mu  sync.Mutex
	off map[string]time.Duration // master → its clock minus ours, as far as that is certain
}

// The period and the deadline of asking one master for its time.
const (
	clockEvery   = 10 * time.Second
	clockTimeout = time.Second
)

// compareClocks asks the other masters for their time, again and again. One that
// does not answer is no longer compared.
func (a *Agent) compareClocks(ctx context.Context) error {
	for {
		var wg sync.WaitGroup
		for _, m := range a.cfg.Cluster.Masters {
			if m.Name == a.self.Name {
				continue
			}
			wg.Go(func() {
				d, err := a.clockOf(ctx, m.Name, a.cfg.Cluster.AgentAddress(m))
				a.clocks.set(m.Name, d, err)
			})
		}
		wg.Wait()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(clockEvery):
		}
	}
}

// clockOf is how far another master's clock is ahead of ours.
func (a *Agent) clockOf(ctx context.Context, name, address string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	conf, err := api.ClientTLS(a.cfg.Layout, name)
	if err != nil {
		return 0, err
	}
	c, err := api.NewClient(api.ClientConfig{Address: address, TLS: conf})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if _, err := c.Time(ctx); err != nil { // the connection costs most, and must not count
		return 0, err
	}
	sent := time.Now()
	t, err := c.Time(ctx)
	if err != nil {
		return 0, err
	}
	return collect.Skew(t, sent, time.Since(sent)), nil
}

func (c *clocks) set(name string, d time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off == nil {
		c.off = map[string]time.Duration{}
	}
	if err != nil {
		delete(c.off, name)
		return
	}
	c.off[name] = d
}

// check errs when a master's clock differs by more than status.SkewLimit.
func (c *clocks) check(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var far []string
	for name, d := range c.off {
		side := "ahead of"
		if d < 0 {
			side = "behind"
		}
		if d.Abs() > status.SkewLimit {
			far = append(far, fmt.Sprintf("%s is %v %s this master's clock", name, d.Abs().Round(10*time.Millisecond), side))
		}
	}
	if far == nil {
		return nil
	}
	slices.Sort(far)
	return fmt.Errorf("%s", strings.Join(far, ", "))
}
