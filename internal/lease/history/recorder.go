package history

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/logging"
)

// Config is whose calls are written down, and where.
type Config struct {
	Who    string      // the party's name
	Out    io.Writer   // each line is one Write; see Open
	Clock  lease.Clock // nil: lease.Boottime
	Logger *slog.Logger
}

// Recorder writes down the calls of one process. It is safe for concurrent use.
type Recorder struct {
	cfg  Config
	run  string
	n    atomic.Int64
	tell sync.Once
}

// New starts nothing.
func New(cfg Config) *Recorder {
	if cfg.Clock == nil {
		cfg.Clock = lease.Boottime{}
	}
	if cfg.Logger == nil {
		cfg.Logger = logging.Discard()
	}
	return &Recorder{cfg: cfg, run: rand.Text()}
}

// Open opens a file for the recorders of one or more processes of a machine.
func Open(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return f, nil
}

// Lock is l with every call written down.
func (r *Recorder) Lock(l lease.Lock) lease.Lock { return &lock{Lock: l, r: r} }

// Held is h with every call written down.
func (r *Recorder) Held(h lease.Held) lease.Held { return &held{Held: h, r: r} }

// Note writes down what was no call of a lease.Lock's: f deletes its keys by hand.
func (r *Recorder) Note(kind Kind, f func() error) error {
	op := Op{Kind: kind}
	return r.call(&op, func() error { return f() })
}

// call writes op down before f and after it.
func (r *Recorder) call(op *Op, f func() error) error {
	op.Who, op.Run, op.N = r.cfg.Who, r.run, r.n.Add(1)
	op.Call = r.cfg.Clock.Now()
	begin, _ := op.ends()
	r.write(begin)
	err := f()
	op.Return = r.cfg.Clock.Now()
	switch {
	case err == nil:
		op.Answer = OK
	case errors.Is(err, lease.ErrLost):
		op.Answer = Lost
	case errors.Is(err, lease.ErrChanged):
		op.Answer = Changed
	default:
		op.Err = err.Error()
	}
	_, end := op.ends()
	r.write(end)
	return err
}

func (r *Recorder) write(l line) {
	if _, err := r.cfg.Out.Write(l.encode()); err != nil {
		r.tell.Do(func() { r.cfg.Logger.Warn("the history cannot be written", "err", err) })
	}
}

type lock struct {
	lease.Lock
	r *Recorder
}

func (l *lock) Read(ctx context.Context) (rec lease.Record, err error) {
	op := Op{Kind: Read}
	err = l.r.call(&op, func() error {
		rec, err = l.Lock.Read(ctx)
		op.Got = stateOf(rec)
		return err
	})
	return rec, err
}

func (l *lock) Take(ctx context.Context, seen lease.Record, c lease.Claim) (h lease.Held, err error) {
	op := Op{Kind: Take, Seen: stateOf(seen), ID: c.ID}
	err = l.r.call(&op, func() error {
		if h, err = l.Lock.Take(ctx, seen, c); err == nil {
			op.Token = h.Token()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return l.r.Held(h), nil
}

type held struct {
	lease.Held
	r *Recorder
}

func (h *held) Renew(ctx context.Context) error {
	op := Op{Kind: Renew, Token: h.Token()}
	return h.r.call(&op, func() error { return h.Held.Renew(ctx) })
}

func (h *held) Release(ctx context.Context, rel lease.Release) error {
	op := Op{Kind: Release, Token: h.Token()}
	return h.r.call(&op, func() error { return h.Held.Release(ctx, rel) })
}
