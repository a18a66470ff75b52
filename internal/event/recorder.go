package event

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/hactl/hactl/internal/logging"
)

// queued is how many events wait for a slow disk before the next ones are lost.
const queued = 1024

// Recorder takes events from those who must not wait for a disk, and writes them
// as fast as that allows. The nil Recorder forgets all.
type Recorder struct {
	path   string
	master string
	log    *slog.Logger

	mu    sync.Mutex
	queue []Event
	last  time.Time
	lost  int
	wake  chan struct{}
}

// NewRecorder writes to the file at path, as master. Run does the writing.
func NewRecorder(path, master string, log *slog.Logger) *Recorder {
	if log == nil {
		log = logging.Discard()
	}
	return &Recorder{path: path, master: master, log: log, wake: make(chan struct{}, 1)}
}

// Record takes an event and returns at once. Master is filled in, and Time where
// it is zero; no two events of one Recorder have the same time.
func (r *Recorder) Record(e Event) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.Round(0).UTC()
	if d := r.last.Sub(e.Time); d >= 0 && d < time.Second { // not when the clock was set back
		e.Time = r.last.Add(1)
	}
	r.last, e.Master = e.Time, r.master
	if len(r.queue) >= queued {
		r.lost++
		return
	}
	r.queue = append(r.queue, e)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends, then what is left, and returns nil. A disk that
// fails costs events, which is logged once for each trouble.
func (r *Recorder) Run(ctx context.Context) error {
	failing := false
	for {
		select {
		case <-ctx.Done():
			if err := r.flush(); err != nil {
				r.log.Error("events are lost", "err", err)
			}
			return nil
		case <-r.wake:
			err := r.flush()
			if err != nil && !failing {
				r.log.Error("events are lost", "err", err)
			}
			failing = err != nil
		}
	}
}

func (r *Recorder) flush() error {
	r.mu.Lock()
	events, lost := r.queue, r.lost
	r.queue, r.lost = nil, 0
	r.mu.Unlock()
	if lost > 0 {
		r.log.Error("events are lost: the disk is too slow", "events", lost)
	}
	if len(events) == 0 {
		return nil
	}
	return Append(r.path, events...)
}

// Read is Read of the Recorder's file.
func (r *Recorder) Read(q Query) ([]Event, error) {
	if r == nil {
		return []Event{}, nil
	}
	return Read(r.path, q)
}
