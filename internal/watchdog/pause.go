package watchdog

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Pause is an order to restart nothing.
type Pause struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until,omitzero"` // zero: until Resume
	By    string    `json:"by,omitempty"`   // who ordered it
}

func (p Pause) over(now time.Time) bool { return !p.Until.IsZero() && !now.Before(p.Until) }

// ErrNoTarget is returned for a unit that is not watched.
var ErrNoTarget = errors.New("the watchdog does not watch it")

// Pause keeps the watchdog from restarting unit, or anything when unit is empty,
// until Resume, or for d when that is not 0. It goes on looking. With
// Config.StateFile the pause outlives the watchdog; an error says that it holds,
// but would not.
func (w *Watchdog) Pause(unit string, d time.Duration, by string) error {
	if err := w.known(unit); err != nil {
		return err
	}
	p := Pause{Since: time.Now().Round(0), By: by}
	if d > 0 {
		p.Until = p.Since.Add(d)
	}
	w.mu.Lock()
	w.pauses[unit] = p
	w.notify()
	w.tell(Decision{At: p.Since, Unit: unit, Action: Action{PauseKind, Ordered, p.String()}})
	w.mu.Unlock()
	w.log.Info("watchdog paused", "unit", unit, "until", p.Until, "by", by)
	return w.save()
}

// String is "by NAME until TIME".
func (p Pause) String() string {
	s := ""
	if p.By != "" {
		s = "by " + p.By
	}
	if p.Until.IsZero() {
		return s
	}
	if s != "" {
		s += " "
	}
	return s + "until " + p.Until.UTC().Format(time.RFC3339)
}

// Resume ends the pause of unit, or all pauses when unit is empty. Nothing paused
// is nothing to do. An error says that the watchdog works, but would be paused
// again after its own restart.
func (w *Watchdog) Resume(unit, by string) error {
	if err := w.known(unit); err != nil {
		return err
	}
	w.mu.Lock()
	if len(w.pauses) == 0 {
		w.mu.Unlock()
		return nil
	}
	if unit == "" {
		clear(w.pauses)
	} else {
		delete(w.pauses, unit)
	}
	w.notify()
	w.tell(Decision{At: time.Now(), Unit: unit, Action: Action{ResumeKind, Ordered, Pause{By: by}.String()}})
	w.mu.Unlock()
	w.log.Info("watchdog resumed", "unit", unit, "by", by)
	return w.save()
}

func (w *Watchdog) known(unit string) error {
	if unit == "" || slices.ContainsFunc(w.targets, func(t *target) bool { return t.Unit == unit }) {
		return nil
	}
	return fmt.Errorf("%s: %w", unit, ErrNoTarget)
}

// pausedNow reports whether unit is paused. The caller holds mu.
func (w *Watchdog) pausedNow(unit string, now time.Time) bool {
	for _, key := range []string{"", unit} {
		if p, ok := w.pauses[key]; ok && !p.over(now) {
			return true
		}
	}
	return false
}

// endPauses drops those whose time is over.
func (w *Watchdog) endPauses(now time.Time) {
	w.mu.Lock()
	ended := false
	for unit, p := range w.pauses {
		if p.over(now) {
			ended = true
			delete(w.pauses, unit)
			w.notify()
			w.tell(Decision{At: now, Unit: unit, Action: Action{ResumeKind, TimeOver, p.String()}})
		}
	}
	w.mu.Unlock()
	if ended {
		w.keep()
	}
}
