package lease_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease"
)

var errSick = errors.New("the store is sick")

// sickStore is a lock whose calls fail at once, those that are chosen to.
type sickStore struct {
	lease.Lock
	reads, renewals atomic.Int64
	readsFail       bool
}

func (s *sickStore) Read(ctx context.Context) (lease.Record, error) {
	s.reads.Add(1)
	if s.readsFail {
		return lease.Record{}, errSick
	}
	return s.Lock.Read(ctx)
}

func (s *sickStore) Take(ctx context.Context, seen lease.Record, c lease.Claim) (lease.Held, error) {
	held, err := s.Lock.Take(ctx, seen, c)
	if err != nil {
		return nil, err
	}
	return sickTerm{held, s}, nil
}

type sickTerm struct {
	lease.Held
	s *sickStore
}

func (h sickTerm) Renew(context.Context) error {
	h.s.renewals.Add(1)
	return errSick
}

// Bug 4 of the first podmaster: its error path skipped the pause.
func TestSickStoreIsNotHammered(t *testing.T) {
	inBubble(t, func(b *bench) {
		sick := &sickStore{Lock: &b.mem, readsFail: true}
		b.run("m1", b.elector("m1", func(c *lease.Config) { c.Lock = sick }), nil)
		time.Sleep(100 * time.Second)
		if n := sick.reads.Load(); n > 300 || n < 30 {
			t.Errorf("%d reads in 100 s", n)
		}
	})
}

// Bug 8: a mere read counted as contact. Here reads and the watch work for ever, and
// no renewal does.
func TestReadsDoNotProlong(t *testing.T) {
	inBubble(t, func(b *bench) {
		sick := &sickStore{Lock: &b.mem}
		e := b.elector("m1", func(c *lease.Config) { c.Lock, c.Once = sick, true })
		began := time.Now()
		_, result := b.run("m1", e, nil)
		if err := <-result; !errors.Is(err, lease.ErrLost) {
			t.Errorf("ended with %v", err)
		}
		if took := time.Since(began); took > e.Config().TTL || took < e.Config().TTL/2 {
			t.Errorf("the term stood for %v without a renewal, of a TTL of %v", took, e.Config().TTL)
		}
		if sick.renewals.Load() < 3 {
			t.Errorf("%d renewals were tried", sick.renewals.Load())
		}
	})
}
