package child

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// stopAll stops the units: each one after all among them that are ordered after
// it, the rest at the same time. Errors do not keep the others from stopping.
func stopAll(ctx context.Context, units []*unit) error {
	done := make(map[string]chan struct{}, len(units))
	dependents := make(map[string][]string, len(units)) // unit → who must stop before it
	for _, u := range units {
		done[u.name] = make(chan struct{})
		for _, a := range u.after() {
			dependents[a] = append(dependents[a], u.name)
		}
	}
	errs := make([]error, len(units))
	var wg sync.WaitGroup
	for i, u := range units {
		wg.Go(func() {
			defer close(done[u.name])
			for _, d := range dependents[u.name] {
				<-done[d]
			}
			if errs[i] = u.lock(ctx); errs[i] == nil {
				errs[i] = u.end(ctx, false)
				u.unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// after returns the names that the unit is ordered after.
func (u *unit) after() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.spec.After)
}
