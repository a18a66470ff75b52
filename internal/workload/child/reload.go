package child

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	"github.com/hactl/hactl/internal/workload"
)

// Changes is what a Reload did, by unit name.
type Changes struct {
	Started   []string `json:"started,omitempty"`   // were not known
	Restarted []string `json:"restarted,omitempty"` // differ, and ran
	Changed   []string `json:"changed,omitempty"`   // differ, and stay stopped
	Stopped   []string `json:"stopped,omitempty"`   // are no longer wanted
}

// Reload makes units the supervisor's units: it stops those that are gone,
// restarts those that differ and run, starts those that are new, and leaves the
// rest alone, also those that were stopped by command. It returns once what must
// stop has stopped and what must start is starting; it does not wait for active.
func (s *Supervisor) Reload(ctx context.Context, units []workload.Unit) (Changes, error) {
	units = slices.Clone(units)
	if err := validateUnits(units); err != nil {
		return Changes{}, err
	}
	s.reload.Lock()
	defer s.reload.Unlock()
	s.mu.Lock()
	open := s.open
	s.mu.Unlock()
	if !open {
		return Changes{}, ErrStopping
	}

	var c Changes
	var stop, next, start []*unit
	known := map[string]*unit{}
	for _, u := range s.list() {
		known[u.name] = u
		if !slices.ContainsFunc(units, func(spec workload.Unit) bool { return spec.Name == u.name }) {
			c.Stopped = append(c.Stopped, u.name)
			stop = append(stop, u)
		}
	}
	for _, spec := range units {
		u := known[spec.Name]
		switch {
		case u == nil:
			u = newUnit(spec, s.cfg, s.unit)
			c.Started = append(c.Started, spec.Name)
			start = append(start, u)
		case !u.is(spec) && u.wanted():
			c.Restarted = append(c.Restarted, spec.Name)
			stop = append(stop, u)
			start = append(start, u)
		case !u.is(spec):
			c.Changed = append(c.Changed, spec.Name)
		}
		next = append(next, u)
	}
	// Not ended by ctx: half a reload would leave units stopped for good.
	ctx = context.WithoutCancel(ctx)
	if err := stopAll(ctx, stop); err != nil {
		return Changes{}, fmt.Errorf("reload: %w", err)
	}
	for i, u := range next {
		u.mu.Lock()
		u.spec = units[i]
		u.mu.Unlock()
	}
	s.mu.Lock()
	s.units = next
	s.mu.Unlock()
	expectAll(start)
	for _, u := range start {
		if err := u.lock(ctx); err != nil {
			return c, fmt.Errorf("reload: start %s: %w", u.name, err)
		}
		u.begin()
		u.unlock()
	}
	return c, nil
}

// is reports whether the unit already is as spec says.
func (u *unit) is(spec workload.Unit) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return reflect.DeepEqual(u.spec, spec)
}
