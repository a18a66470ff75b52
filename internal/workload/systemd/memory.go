package systemd

import (
	"time"

	"github.com/hactl/hactl/internal/workload"
)

// memoryAge is how long a remembered state is believed without a signal: signals
// are lost with the message bus, which we may notice late.
const memoryAge = 10 * time.Second

// memory is what systemd's signals allow to remember of active units; others may
// be unloaded by systemd, and then send none. The zero value remembers nothing.
type memory struct {
	following bool // signals come
	units     map[string]remembered
	seen      map[string]int // unit → how often it changed
	epoch     int            // how often all of them may have
}

type remembered struct {
	state workload.State
	at    time.Time
}

// recall returns what is remembered of unit. If that is nothing, seen is for keep.
func (m *memory) recall(unit string, now time.Time) (s workload.State, seen int, ok bool) {
	r, ok := m.units[unit]
	if !m.following || !ok || now.Sub(r.at) > memoryAge {
		return s, m.epoch + m.seen[unit], false
	}
	return r.state, m.epoch + m.seen[unit], true
}

// keep remembers s, unless the unit changed since recall returned seen.
func (m *memory) keep(s workload.State, seen int, now time.Time) {
	if !m.following || s.Active != workload.Active || m.epoch+m.seen[s.Name] != seen {
		return
	}
	m.units[s.Name] = remembered{s, now}
}

// forget drops a unit that changed.
func (m *memory) forget(unit string) {
	if m.following {
		delete(m.units, unit)
		m.seen[unit]++
	}
}

// follow begins or ends remembering, with nothing.
func (m *memory) follow(on bool) {
	epoch := m.epoch + 1
	for _, n := range m.seen {
		epoch += n
	}
	*m = memory{following: on, units: map[string]remembered{}, seen: map[string]int{}, epoch: epoch}
}
