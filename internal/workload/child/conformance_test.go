package child

import (
	"context"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/workloadtest"
)

var (
	_ workload.Manager = (*Supervisor)(nil)
	_ workload.Manager = (*Client)(nil)
)

func awaitOpen(t *testing.T, socket string) {
	t.Helper()
	testwait.For(t, "the supervisor", workloadtest.Limit, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := NewClient(socket).Units(ctx)
		return err
	})
}

// The suite asks through the socket, and so the Supervisor behind it too.
func TestClientIsAManager(t *testing.T) {
	workloadtest.Run(t, func(t *testing.T, units []workload.Unit) workload.Manager {
		cfg := configFor(t, units...)
		running(t, cfg)
		return NewClient(cfg.Socket)
	})
}
