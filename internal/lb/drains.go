package lb

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// What operators drain stays drained: it is kept on disk for a restart, and handed to a
// successor. Balancer.drains holds names of the list and, of a name with several
// addresses, NAME@ADDRESS.

// The errors of Drain, DrainSafely and Undrain.
var (
	ErrNoBackend   = errors.New("no such backend")
	ErrLastBackend = errors.New("no other backend would be usable")
	ErrHandingOver = errors.New("a successor is taking over, which does not know of it")
)

// Drain takes a backend (by name or address) out of service: nothing new goes
// there, old connections go on. It returns ErrNoBackend when there is none, and
// ErrHandingOver while a successor starts.
func (b *Balancer) Drain(name string) error { return b.setDrained(name, true, false) }

// DrainSafely is Drain that returns ErrLastBackend, and changes nothing, when no other
// backend would be usable then.
func (b *Balancer) DrainSafely(name string) error { return b.setDrained(name, true, true) }

// Undrain takes Drain back.
func (b *Balancer) Undrain(name string) error { return b.setDrained(name, false, false) }

func (b *Balancer) setDrained(name string, drained, safely bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	switch {
	case b.handing:
		return ErrHandingOver
	case safely && b.isLast(name, now):
		return fmt.Errorf("%w: %s", ErrLastBackend, name)
	}
	before := maps.Clone(b.drains)
	found := b.noteListed(name, drained)
	for _, m := range b.members {
		if !m.is(name) {
			continue
		}
		found = true
		if m.drained != drained {
			b.turn(m, drained, now)
		}
	}
	if !found {
		return fmt.Errorf("%w: %s", ErrNoBackend, name)
	}
	if !maps.Equal(before, b.drains) {
		b.keep()
	}
	b.refresh(now)
	return nil
}

// turn drains m, or takes that back.
func (b *Balancer) turn(m *member, drained bool, now time.Time) {
	m.drained, m.told = drained, now
	if drained {
		b.drains[m.backend.Name] = true
		b.log.Info("backend drained by an operator", "backend", m.backend.Name, "connections", m.target.Active())
		return
	}
	delete(b.drains, m.backend.Name)
	delete(b.drains, m.listed)
	m.returned, b.returned = now, now
	b.log.Info("backend no longer drained by an operator", "backend", m.backend.Name, "connections", m.target.Active())
}

// noteListed notes that the backend with that name or address in the list is drained, or
// is not, whatever addresses it has now or will have. It reports whether there is one.
func (b *Balancer) noteListed(name string, drained bool) (found bool) {
	for _, be := range b.list {
		if be.Name != name && be.Address != name {
			continue
		}
		found = true
		if drained {
			b.drains[be.Name] = true
			continue
		}
		maps.DeleteFunc(b.drains, func(d string, _ bool) bool { return belongs(d, be) })
	}
	return found
}

// belongs says whether the drained name is be's, or that of one of its addresses.
func belongs(drained string, be Backend) bool {
	return drained == be.Name || be.isName() && strings.HasPrefix(drained, be.Name+"@")
}

// isLast says whether draining name leaves nothing usable.
func (b *Balancer) isLast(name string, now time.Time) bool {
	changes := false
	for _, m := range b.members {
		switch {
		case m.is(name):
			changes = changes || !m.drained && m.removed.IsZero()
		case m.usable(now):
			return false
		}
	}
	return changes
}

// recallDrains begins with what the predecessor handed over, or else with what the disk says.
func (b *Balancer) recallDrains(saved []string) {
	if b.cfg.Drained != nil {
		saved = b.cfg.Drained
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range saved {
		b.drains[name] = true
	}
	if len(saved) > 0 {
		b.log.Info("backends drained by an operator before the start stay so if they are in the list", "drained", strings.Join(saved, " "))
	}
}

// forgetDrains drops the drains of backends that are not in list.
func (b *Balancer) forgetDrains(list []Backend) {
	maps.DeleteFunc(b.drains, func(d string, _ bool) bool {
		return !slices.ContainsFunc(list, func(be Backend) bool { return belongs(d, be) })
	})
}

// keep writes the list in force and the drains to disk.
func (b *Balancer) keep() {
	if b.cfg.StateFile == "" || b.stopping.Load() || b.handing { // it may be another one's by then
		return
	}
	s := savedList{Saved: time.Now(), Source: b.cfg.SourceName, Backends: b.list, Drained: b.drained()}
	var err error
	switch {
	case !b.cfg.Fixed:
		s.Addresses = b.addresses(b.list)
		err = saveList(b.cfg.StateFile, s)
	case len(s.Drained) > 0:
		err = saveList(b.cfg.StateFile, s)
	default:
		if err = os.Remove(b.cfg.StateFile); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		b.log.Error("list of backends, and who is drained, not kept on disk", "err", err)
	}
}

func (b *Balancer) drained() []string { return slices.Sorted(maps.Keys(b.drains)) }

// HandDrains tells cmd, a successor that Succeed will start, who is drained. Until
// KeepDrains nothing is drained here any more, nor written to the disk: the successor
// would not know, and the file is the successor's.
func (b *Balancer) HandDrains(cmd *exec.Cmd) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handing = true
	data, err := json.Marshal(append([]string{}, b.drained()...))
	if err != nil || len(data) > maxHanded {
		b.log.Warn("a successor learns from the disk alone who is drained", "drained", len(b.drains), "err", err)
		return
	}
	cmd.Env = append(cmd.Environ(), envDrained+"="+string(data))
}

// KeepDrains ends HandDrains when there is no successor.
func (b *Balancer) KeepDrains() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handing = false
	if !b.kept {
		b.keep()
	}
}

// maxHanded bounds what the environment carries; Linux takes 128 KiB a variable.
const maxHanded = 64 << 10

// InheritedDrains are the backends that a predecessor's HandDrains told of; nil when it
// told nothing, as one of an older version.
func InheritedDrains() (names []string) {
	_ = json.Unmarshal([]byte(os.Getenv(envDrained)), &names)
	_ = os.Unsetenv(envDrained)
	return names
}
