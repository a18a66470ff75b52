package leasetest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/hactl/hactl/internal/lease"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	Suite(t, func(*testing.T) (lease.Lock, Orders) {
		m := &Memory{}
		return m, Orders{Pause: m.Pause, Unpause: m.Unpause, Delete: m.Delete, Move: m.Move}
	})
}
