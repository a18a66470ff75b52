// Package link holds what the lab does to the way between two hosts: cuts as a
// firewall's rules, and slow links as frames that wait in user space.
//
//	vb-m1 ─┬─▶ bridge ── dropped by Rules if cut or slow ──▶ vb-m2
//	       └─▶ Forwarder: read frame ─ Model.Schedule ─ wait ─▶ vb-m2
//
// A way is one direction. The kernel's own delay (netem) is not needed: a packet
// socket on the first port sees every frame before the bridge drops it, and
// another writes it out of the second port when its time has come.
package link

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Shape says how a slow way treats what passes. The zero value changes nothing.
type Shape struct {
	Delay  time.Duration `json:"delay,omitempty"`  // added to every frame
	Jitter time.Duration `json:"jitter,omitempty"` // up to so much more, evenly spread; the order is kept
	Loss   float64       `json:"loss,omitempty"`   // share of frames that vanish, 0 to 1
	// Duplicate is the share of frames that arrive twice, 0 to 1.
	Duplicate float64 `json:"duplicate,omitempty"`
	// Reorder is the share of frames that overtake: they do not wait at all.
	Reorder float64 `json:"reorder,omitempty"`
	Rate    int64   `json:"rate,omitempty"` // bits a second; 0: unlimited
	// Queue is how many frames may wait; more are lost. Default 1000.
	Queue int `json:"queue,omitempty"`
	// Seed makes the same frames meet the same fate. 0 is a seed like any other.
	Seed uint64 `json:"seed,omitempty"`
}

const defaultQueue = 1000

// String names what differs from a free way, in the words of the lab command's
// flags.
func (s Shape) String() string {
	var parts []string
	add := func(is bool, format string, value any) {
		if is {
			parts = append(parts, fmt.Sprintf(format, value))
		}
	}
	add(s.Delay > 0, "delay %v", s.Delay)
	add(s.Jitter > 0, "jitter %v", s.Jitter)
	add(s.Loss > 0, "loss %v", s.Loss)
	add(s.Duplicate > 0, "duplicate %v", s.Duplicate)
	add(s.Reorder > 0, "reorder %v", s.Reorder)
	add(s.Rate > 0, "rate %v bit/s", s.Rate)
	return strings.Join(parts, ", ")
}

// Validate reports everything that is wrong with s.
func (s Shape) Validate() error {
	var errs []error
	for _, p := range []struct {
		name  string
		value float64
	}{{"loss", s.Loss}, {"duplicate", s.Duplicate}, {"reorder", s.Reorder}} {
		if !(p.value >= 0 && p.value <= 1) {
			errs = append(errs, fmt.Errorf("%s %v is not a share from 0 to 1", p.name, p.value))
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"delay", s.Delay}, {"jitter", s.Jitter}} {
		if d.value < 0 || d.value > time.Minute {
			errs = append(errs, fmt.Errorf("%s %v is not between 0 and 1m", d.name, d.value))
		}
	}
	if s.Rate < 0 {
		errs = append(errs, fmt.Errorf("rate %d is negative", s.Rate))
	}
	if s.Queue < 0 {
		errs = append(errs, fmt.Errorf("queue %d is negative", s.Queue))
	}
	return errors.Join(errs...)
}

// Model decides when each frame of one way leaves. It has no clock and does no
// I/O; it is not safe for concurrent use.
type Model struct {
	shape Shape
	rng   *rand.Rand
	idle  time.Time // when the line has sent what was given to it so far
	last  time.Time // the latest departure, which later frames do not precede
}

// NewModel returns a Model for s, whose faults it does not check.
func NewModel(s Shape) *Model {
	if s.Queue == 0 {
		s.Queue = defaultQueue
	}
	return &Model{shape: s, rng: rand.New(rand.NewPCG(s.Seed, 0x6861637463746c))}
}

// Schedule returns when a frame of size bytes that came at now leaves: no time
// (it is lost), one, or two (it is duplicated). waiting is the number of frames
// that have been scheduled and not yet left.
func (m *Model) Schedule(now time.Time, size, waiting int) []time.Time {
	// Every frame draws the same numbers, so that one fault's share does not
	// change which frames another one hits.
	lost := m.rng.Float64() < m.shape.Loss
	twice := m.rng.Float64() < m.shape.Duplicate
	overtakes := m.rng.Float64() < m.shape.Reorder
	jitter := time.Duration(m.rng.Float64() * float64(m.shape.Jitter))
	if lost || waiting >= m.shape.Queue {
		return nil
	}
	if overtakes {
		return []time.Time{now}
	}
	sent := now
	if m.shape.Rate > 0 {
		if m.idle.After(sent) {
			sent = m.idle
		}
		sent = sent.Add(time.Duration(float64(size) * 8 / float64(m.shape.Rate) * float64(time.Second)))
		m.idle = sent
	}
	leaves := sent.Add(m.shape.Delay + jitter)
	if leaves.Before(m.last) {
		leaves = m.last
	}
	m.last = leaves
	if twice {
		return []time.Time{leaves, leaves}
	}
	return []time.Time{leaves}
}
