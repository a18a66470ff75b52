package watchdog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/hactl/hactl/internal/atomicfile"
)

// Decision is an action that differed from the one before.
type Decision struct {
	At     time.Time `json:"at"`
	Unit   string    `json:"unit"`
	Action Action    `json:"action"`
	Error  string    `json:"error,omitempty"` // of the last probe that failed; with Done of the restart
	// Done: this is not the decision, but its result, after Took.
	Done bool          `json:"done,omitempty"`
	Took time.Duration `json:"-"`
}

// TargetStatus is what the watchdog thinks of a unit.
type TargetStatus struct {
	Unit      string      `json:"unit"`
	Action    Action      `json:"action"`
	Since     time.Time   `json:"since"` // of Action
	PID       int         `json:"pid"`
	Fails     int         `json:"fails"`               // failures that count now
	LastError string      `json:"lastError,omitempty"` // of the last probe that failed
	Restarts  []time.Time `json:"restarts,omitempty"`  // by the watchdog, within the window
	Paused    bool        `json:"paused,omitempty"`
}

// Status is the latest of everything.
type Status struct {
	Paused bool             `json:"paused"`           // all of it
	Pauses map[string]Pause `json:"pauses,omitempty"` // by unit; "": all
	Units  []TargetStatus   `json:"units"`
	// Sick are the dependencies that fail their check, with the error.
	Sick map[string]string `json:"sick,omitempty"`
	// Decisions are the last ones, oldest first.
	Decisions []Decision `json:"decisions,omitempty"`
	// Notices are those that are on.
	Notices []NoticeStatus `json:"notices,omitempty"`
}

// NoticeStatus is a Notice that is on.
type NoticeStatus struct {
	Name   string    `json:"name"`
	Reason Reason    `json:"reason"`
	Detail string    `json:"detail"`
	Since  time.Time `json:"since"`
}

// maxDecisions is how many decisions Status keeps.
const maxDecisions = 100

// Status returns the latest status, and a channel that is closed when it changes.
func (w *Watchdog) Status() (Status, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	s := Status{Paused: w.pausedNow("", now), Pauses: maps.Clone(w.pauses), Sick: maps.Clone(w.sick), Decisions: slices.Clone(w.decisions)}
	for _, t := range w.targets {
		s.Units = append(s.Units, TargetStatus{
			Unit: t.Unit, Action: t.action, Since: t.since, PID: t.history.PID,
			Fails: max(t.history.Fails, t.history.Stops), LastError: t.lastErr,
			Restarts: t.history.recent(w.cfg.Policy.Window, now), Paused: w.pausedNow(t.Unit, now),
		})
	}
	for _, n := range w.notices {
		if n.action.Kind != None {
			s.Notices = append(s.Notices, NoticeStatus{Name: n.Unit, Reason: n.notice, Detail: n.action.Detail, Since: n.since})
		}
	}
	return s, w.changed
}

// announce makes a the action of t; a new kind or reason is logged and counted.
// The caller holds mu.
func (w *Watchdog) announce(t *target, a Action, now time.Time) {
	before := t.action
	t.action = a
	if before == a {
		return
	}
	w.notify()
	if before.Kind == a.Kind && before.Reason == a.Reason && a.Kind != Restart {
		return // only the count in its detail
	}
	t.since = now
	w.metrics.actions.WithLabelValues(t.Unit, string(a.Kind), string(a.Reason)).Inc()
	d := Decision{At: now, Unit: t.Unit, Action: a}
	level := slog.LevelInfo
	if a.Kind != None {
		d.Error, level = t.lastErr, slog.LevelWarn
	}
	w.decisions = append(w.decisions, d)
	if n := len(w.decisions); n > maxDecisions {
		w.decisions = slices.Clone(w.decisions[n-maxDecisions:])
	}
	w.tell(d)
	w.log.Log(context.Background(), level, "decision", "unit", t.Unit, "action", a.Kind, "reason", a.Reason, "detail", a.Detail, "err", d.Error)
}

// tell passes a decision on. The caller holds mu.
func (w *Watchdog) tell(d Decision) {
	if w.cfg.Decided != nil {
		w.cfg.Decided(d)
	}
}

// setSick takes the dependencies that failed in a round.
func (w *Watchdog) setSick(sick map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, err := range sick {
		if w.sick[name] == "" {
			w.log.Warn("dependency is sick", "dependency", name, "err", err)
			w.notify()
		}
	}
	for name := range w.sick {
		if sick[name] == "" {
			w.log.Info("dependency is well again", "dependency", name)
			w.notify()
		}
	}
	w.sick = sick
}

// notify wakes who waits for a new Status. The caller holds mu.
func (w *Watchdog) notify() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// kept is the content of Config.StateFile.
type kept struct {
	Pauses   map[string]Pause       `json:"pauses,omitempty"`
	Restarts map[string][]time.Time `json:"restarts"`
}

// keep is save for the loop: a failure is logged, and the watchdog goes on with
// what it has in memory.
func (w *Watchdog) keep() {
	if err := w.save(); err != nil {
		w.log.Error("keep the watchdog's state", "err", err)
	}
}

// save writes the state file, if there is one.
func (w *Watchdog) save() error {
	if w.cfg.StateFile == "" {
		return nil
	}
	w.saving.Lock()
	defer w.saving.Unlock()
	w.mu.Lock()
	k := kept{Pauses: maps.Clone(w.pauses), Restarts: map[string][]time.Time{}}
	for _, t := range w.targets {
		if len(t.history.Restarts) > 0 {
			k.Restarts[t.Unit] = t.history.Restarts
		}
	}
	w.mu.Unlock()
	b, err := json.Marshal(k)
	if err == nil {
		err = atomicfile.MkdirWrite(w.cfg.StateFile, b, 0o600, 0o700)
	}
	if err != nil {
		return fmt.Errorf("keep the watchdog's state: %w", err)
	}
	return nil
}

// load reads the state file. Without a good one the watchdog begins with its
// whole budget.
func (w *Watchdog) load() {
	if w.cfg.StateFile == "" {
		return
	}
	k, err := readKept(w.cfg.StateFile)
	if err != nil {
		w.log.Error("the watchdog's state is lost", "err", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.Copy(w.pauses, k.Pauses)
	for _, t := range w.targets {
		t.history.Restarts = slices.Concat(k.Restarts[t.Unit], t.history.Restarts)
	}
}

func readKept(path string) (kept, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return kept{}, nil
	}
	if err != nil {
		return kept{}, err
	}
	var k kept
	if err := json.Unmarshal(b, &k); err != nil {
		return kept{}, fmt.Errorf("%s: %w", path, err)
	}
	for _, restarts := range k.Restarts {
		slices.SortFunc(restarts, time.Time.Compare)
	}
	return k, nil
}
