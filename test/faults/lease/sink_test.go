//go:build faults || lab

package lease

import (
	"bufio"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease"
)

// sink records which token wrote when.
type sink struct {
	ln net.Listener
	mu sync.Mutex
	in []arrival
}

type arrival struct {
	token int64
	at    time.Duration
}

func newSink(t *testing.T, ln net.Listener) *sink {
	s := &sink{ln: ln}
	var wg sync.WaitGroup
	over := make(chan struct{})
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.serve(c) })
			wg.Go(func() { <-over; _ = c.Close() }) // a gate may live on
		}
	})
	t.Cleanup(func() { close(over); _ = ln.Close(); wg.Wait() })
	return s
}

func (s *sink) addr() string { return s.ln.Addr().String() }

func (s *sink) serve(c net.Conn) {
	defer c.Close()
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		token, err := strconv.ParseInt(lines.Text(), 10, 64)
		if err != nil {
			continue // cut in the middle of a line
		}
		s.mu.Lock()
		s.in = append(s.in, arrival{token, lease.Boottime{}.Now()})
		s.mu.Unlock()
	}
}

func (s *sink) arrivals() []arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]arrival(nil), s.in...)
}
