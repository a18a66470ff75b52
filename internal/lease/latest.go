package lease

import "sync"

// latest is a value with a channel that tells of its next change.
type latest[T any] struct {
	mu      sync.Mutex
	v       T
	changed chan struct{}
}

func newLatest[T any](v T) *latest[T] { return &latest[T]{v: v, changed: make(chan struct{})} }

// get returns the value and a channel that is closed when it changes.
func (l *latest[T]) get() (T, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.v, l.changed
}

// update changes the value by f.
func (l *latest[T]) update(f func(*T)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.v)
	close(l.changed)
	l.changed = make(chan struct{})
}
