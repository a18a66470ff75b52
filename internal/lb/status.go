package lb

import (
	"cmp"
	"os"
	"slices"
	"time"

	"github.com/hactl/hactl/internal/lb/dataplane"
	"github.com/hactl/hactl/internal/lb/pool"
	"github.com/hactl/hactl/internal/version"
)

// Status is what the admin API tells. Its JSON form is a contract.
type Status struct {
	Name     string    `json:"name"`
	Version  string    `json:"version"`
	PID      int       `json:"pid"`
	Started  time.Time `json:"started"`
	Listen   []string  `json:"listen"`
	Ready    bool      `json:"ready"`                     // at least one backend is ready
	Why      string    `json:"why,omitempty"`             // when not ready
	Stopping bool      `json:"stopping"`                  // accepts nothing more, its last connections finish
	Check    string    `json:"check"`                     // https, tcp or none
	ListFrom string    `json:"listFrom"`                  // "source", or "disk" while the source has given none yet
	ListErr  string    `json:"listError,omitempty"`       // why the source's newest list is not in force
	FilesErr string    `json:"checkFilesError,omitempty"` // which files of the checks turned bad; what they said before counts
	// Unresolved are the backends in the list whose names could not be looked up the last time.
	Unresolved []UnresolvedBackend `json:"unresolved,omitempty"`
	Backends   []BackendStatus     `json:"backends"` // by name
	Counts     dataplane.Stats     `json:"counts"`
	MaxConns   int                 `json:"maxConns"`
	Moved      int64               `json:"moved"` // connections ended by rebalancing
}

// UnresolvedBackend is a backend whose name could not be looked up.
type UnresolvedBackend struct {
	Name      string `json:"name"`
	Address   string `json:"address"`   // as in the list
	Addresses int    `json:"addresses"` // how many it has from before
	Err       string `json:"error"`
}

// BackendStatus is one backend in a Status.
type BackendStatus struct {
	Name        string     `json:"name"`
	Address     string     `json:"address"`
	Host        string     `json:"host,omitempty"` // the name that was resolved to Address
	Zone        string     `json:"zone,omitempty"`
	Weight      int        `json:"weight"`
	State       pool.State `json:"state"`      // starting, ready, draining or ejected
	Usable      bool       `json:"usable"`     // gets new connections
	Drained     bool       `json:"drained"`    // by an operator
	Removed     bool       `json:"removed"`    // no longer in the list; old connections finish
	Distrusted  bool       `json:"distrusted"` // says it is ready but fails connections
	Why         string     `json:"why"`
	Since       time.Time  `json:"since"` // of what Why tells
	Connections int64      `json:"connections"`
	Total       int64      `json:"total"`
	BytesUp     int64      `json:"bytesUp"`   // clients to backend
	BytesDown   int64      `json:"bytesDown"` // backend to clients
	Failed      int64      `json:"failed"`    // tries refused, reset or ended before the first byte
	Replayed    int64      `json:"replayed"`  // tries given up for another backend because of silence
	Probe       Probe      `json:"probe"`
}

// Probe is a backend's last probe.
type Probe struct {
	At       time.Time `json:"at"`
	Answer   string    `json:"answer"` // ok, red, gone or silent
	Why      string    `json:"why"`
	TookMS   float64   `json:"tookMs"`
	Failures int       `json:"failures"` // bad answers in a row
}

// Status says how everything stands.
func (b *Balancer) Status() Status {
	s := Status{
		Name: b.cfg.Name, Version: version.String(), PID: os.Getpid(), Started: b.started,
		Listen: b.own.texts(), Ready: true, Check: string(b.cfg.Check.Kind), ListFrom: "source",
		Counts: b.engine.Stats(), MaxConns: b.engine.MaxConns(), Moved: b.moved.Load(), Stopping: b.stopping.Load(),
	}
	if err := b.Ready(); err != nil {
		s.Ready, s.Why = false, err.Error()
	}
	if err := b.cfg.Check.Files.Err(); err != nil {
		s.FilesErr = err.Error()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kept {
		s.ListFrom = "disk"
	}
	s.ListErr, s.Unresolved = b.listErr, b.unresolved()
	now := time.Now()
	for _, m := range b.members {
		s.Backends = append(s.Backends, m.status(now))
	}
	slices.SortFunc(s.Backends, func(a, b BackendStatus) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address))
	})
	return s
}

func (m *member) status(now time.Time) BackendStatus {
	t := m.target.Stats()
	s := BackendStatus{
		Name: m.backend.Name, Address: m.backend.Address, Host: m.host, Zone: m.backend.Zone, Weight: m.backend.Weight,
		State: m.health.State, Usable: m.usable(now), Drained: m.drained, Removed: !m.removed.IsZero(),
		Distrusted: m.health.State == pool.Ready && now.Before(m.distrusted), Why: m.health.Why, Since: m.health.Since,
		Connections: t.Active, Total: t.Total, BytesUp: t.BytesUp, BytesDown: t.BytesDown,
		Failed: t.Failed, Replayed: t.Replayed,
	}
	switch {
	case s.Removed:
		s.Why, s.Since = "no longer in the list", m.removed
	case s.Drained:
		s.Why, s.Since = "drained by an operator", m.told
	case s.Distrusted:
		s.Why, s.Since = "fails connections; its last probe: "+m.last.Why, m.doubted
	}
	if !m.lastAt.IsZero() {
		s.Probe = Probe{
			At: m.lastAt, Answer: m.last.Answer.String(), Why: m.last.Why,
			TookMS: float64(m.last.Took.Microseconds()) / 1000, Failures: m.failures,
		}
	}
	return s
}
