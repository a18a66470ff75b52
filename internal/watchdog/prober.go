package watchdog

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hactl/hactl/internal/health"
)

// prober calls a check so that a call that hangs is a failed one, and is the only
// one that hangs: while it is outstanding no other is made.
type prober struct {
	mu      sync.Mutex
	running time.Time // when the outstanding call began; zero: none
}

// probe returns the check's error, or one that says that it did not return
// within timeout or has not since an earlier call. A nil check is passed.
func (p *prober) probe(ctx context.Context, timeout time.Duration, check health.Check) error {
	if check == nil {
		return nil
	}
	p.mu.Lock()
	if !p.running.IsZero() {
		since := p.running
		p.mu.Unlock()
		return fmt.Errorf("no answer since %v: %w", time.Since(since).Round(time.Millisecond), context.DeadlineExceeded)
	}
	p.running = time.Now()
	p.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		err := check(ctx)
		p.mu.Lock()
		p.running = time.Time{}
		p.mu.Unlock()
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil && ctx.Err() != nil {
			return fmt.Errorf("no answer within %v: %w", timeout, err)
		}
		return err
	case <-ctx.Done():
		return fmt.Errorf("no answer within %v: %w", timeout, ctx.Err())
	}
}
