package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/health"
	"github.com/hactl/hactl/internal/kube"
	"github.com/hactl/hactl/internal/watchdog"
)

// handshake is a probe that wants a verified TLS handshake at address, directly or
// through a balancer.
func (p *probes) handshake(address string) health.Check { return watchdog.Handshake(p.tls, address) }

// ready asks one master's API server whether it is ready.
func (p *probes) ready(ctx context.Context, m config.Master) error {
	return watchdog.HTTP(p.apiServer, kube.APIServerHealth(p.cluster, m).Ready)(ctx)
}

// anyAPIServer is nil when some API server can be reached directly: our own, or
// when that takes long, another one.
func (p *probes) anyAPIServer(ctx context.Context) error {
	own, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if p.handshake(p.cluster.APIServerAddress(p.self))(own) == nil {
		return nil
	}
	return p.others(ctx, func(ctx context.Context, m config.Master) error {
		return p.handshake(p.cluster.APIServerAddress(m))(ctx)
	})
}

// others is nil when check is for one of the other masters, all asked at once.
func (p *probes) others(ctx context.Context, check func(context.Context, config.Master) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		good bool
		errs []error
	)
	for _, m := range p.cluster.Masters {
		if m.Name == p.self.Name {
			continue
		}
		wg.Go(func() {
			err := check(ctx, m)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				good = true
				cancel()
				return
			}
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
		})
	}
	wg.Wait()
	if good {
		return nil
	}
	if errs == nil {
		return errors.New("there is no other master")
	}
	return errors.Join(errs...)
}

// apiServerGoroutines asks our API server, when there is a limit: its metrics are
// some megabytes, so it is asked once a minute.
func (p *probes) apiServerGoroutines(l config.Limit) func(context.Context) (int, error) {
	if l.Goroutines == 0 {
		return nil
	}
	ask := watchdog.Goroutines(p.admin, "https://"+p.cluster.APIServerAddress(p.self)+"/metrics")
	var (
		mu   sync.Mutex // a call that hangs is not waited for by the next process's
		at   time.Time
		last int
	)
	return func(ctx context.Context) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(at) < time.Minute {
			return last, nil
		}
		n, err := ask(ctx)
		if err == nil {
			at, last = time.Now(), n
		}
		return n, err
	}
}
