package etcdlock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// presenceTTL is how long a candidate that died is still listed. etcd's own
// minimum is ceil(1.5·election timeout): 2 s at its defaults.
const presenceTTL = 10 * time.Second

// Candidate is one who campaigns for a singleton, as the others see it. It is no
// part of the lock's safety: it tells people who waits, keeps two processes from
// using one name, and lets candidates give way to a better one.
type Candidate struct {
	Name     string    `json:"name"`
	Address  string    `json:"address,omitempty"`
	ID       string    `json:"id"` // of the process' run
	Priority int       `json:"priority"`
	Held     int       `json:"held"` // singletons that its name holds, this one included; some seconds old
	Since    time.Time `json:"since"`
	// Host, PID and Start name the process, so that one on the same host can tell
	// whether it still lives.
	Host  string `json:"host,omitempty"`
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"`
}

// NameTakenError is the refusal of a candidate whose name another one uses.
type NameTakenError struct {
	Singleton string
	By        Candidate
}

func (e *NameTakenError) Error() string {
	return fmt.Sprintf("the name %q is taken for %s: by the process at %s (pid %d), since %s",
		e.By.Name, e.Singleton, e.By.Address, e.By.PID, e.By.Since.Format(time.RFC3339))
}

// Presence keeps a Candidate listed.
type Presence struct {
	l     *Lock
	c     Candidate
	alive func(Candidate) bool
	lease int64
	held  atomic.Int32
}

// SetHeld tells how many singletons the candidate's name holds. The next refresh
// writes it, if it changed: within 3.3 s.
func (p *Presence) SetHeld(n int) { p.held.Store(int32(n)) }

// entry is the candidate as it is to be listed.
func (p *Presence) entry() Candidate {
	c := p.c
	c.Held = int(p.held.Load())
	return c
}

// withdrawTimeout is how long an Enlist that failed may take to leave no key behind.
const withdrawTimeout = time.Second

// Enlist writes c beside the other candidates. A name that a dead process on
// this host left behind is taken over when alive says so; for one on another host
// Enlist waits until its entry has expired. It returns a *NameTakenError when the
// other one lives.
func (l *Lock) Enlist(ctx context.Context, c Candidate, alive func(Candidate) bool) (*Presence, error) {
	p := &Presence{l: l, c: c, alive: alive}
	deadline := time.Now().Add(presenceTTL + presenceTTL/2)
	told := false
	for {
		other, err := p.enlist(ctx)
		switch {
		case err != nil: // whether it was written or not
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawTimeout)
			defer cancel()
			_ = p.Withdraw(clean) // else it expires
			return nil, err
		case other == nil:
			return p, nil
		}
		if other.Host == c.Host && c.Host != "" || time.Now().After(deadline) {
			return nil, errors.Join(&NameTakenError{Singleton: l.name, By: *other}, p.Withdraw(ctx))
		}
		if !told {
			told = true
			l.c.log.Info("the name is taken by a process on another host; if that is dead, its entry expires within 10 s",
				"holder", c.Name, "address", other.Address, "pid", other.PID)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), &NameTakenError{Singleton: l.name, By: *other})
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// enlist tries once; it returns the candidate that is in the way.
func (p *Presence) enlist(ctx context.Context) (*Candidate, error) {
	if err := p.grant(ctx); err != nil {
		return nil, err
	}
	key := p.l.key(keyWaiting + p.c.Name)
	rev, again := int64(0), false
	for {
		write := put(key, mustJSON(p.entry()))
		write.GetRequestPut().Lease = p.lease
		resp, err := p.txn(ctx, &etcdserverpb.TxnRequest{
			Compare: []*etcdserverpb.Compare{p.l.modIs(keyWaiting+p.c.Name, rev)},
			Success: []*etcdserverpb.RequestOp{write},
			Failure: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{Key: key}}}},
		})
		if leaseLost(err) && !again {
			// Whoever is in the way was waited for until our own lease had expired.
			again, p.lease = true, 0
			if err := p.grant(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if resp.Succeeded {
			return nil, nil
		}
		kvs := p.l.keyValues(resp)
		rev = 0
		if len(kvs) == 1 {
			other, ok := parseCandidate(kvs[0])
			if ok && other.ID != p.c.ID && (other.Host != p.c.Host || p.alive == nil || p.alive(other)) {
				return &other, nil
			}
			rev = kvs[0].ModRevision // ours, a dead one's, or not readable
		}
	}
}

func parseCandidate(kv *mvccpb.KeyValue) (Candidate, bool) {
	var c Candidate
	err := json.Unmarshal(kv.Value, &c)
	return c, err == nil && c.ID != ""
}

func (p *Presence) txn(ctx context.Context, req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	resp, err := ask(ctx, p.l.c, true, func(ctx context.Context, ep *endpoint) (*etcdserverpb.TxnResponse, error) {
		return ep.kv.Txn(ctx, req)
	})
	if err != nil {
		return nil, fmt.Errorf("etcd: enlist %s: %w", p.c.Name, err)
	}
	return resp, nil
}

func (p *Presence) grant(ctx context.Context) error {
	if p.lease != 0 {
		return nil
	}
	resp, err := ask(ctx, p.l.c, false, func(ctx context.Context, ep *endpoint) (*etcdserverpb.LeaseGrantResponse, error) {
		return ep.lease.LeaseGrant(ctx, &etcdserverpb.LeaseGrantRequest{TTL: int64(presenceTTL / time.Second)})
	})
	if err != nil {
		return fmt.Errorf("etcd: lease for %s: %w", p.c.Name, err)
	}
	p.lease = resp.ID
	return nil
}

// Run keeps the entry alive until ctx ends, and writes it again when it was lost or changed.
// It returns a *NameTakenError when another process took the name meanwhile.
func (p *Presence) Run(ctx context.Context) error {
	tick := time.NewTicker(presenceTTL / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		call, cancel := context.WithTimeout(ctx, presenceTTL/3)
		err := p.refresh(call)
		cancel()
		var taken *NameTakenError
		switch {
		case errors.As(err, &taken):
			return err
		case err != nil && ctx.Err() == nil:
			p.l.c.log.Debug("the candidate's entry could not be refreshed", "unit", p.l.name, "err", err)
		}
	}
}

func (p *Presence) refresh(ctx context.Context) error {
	ttl, err := ask(ctx, p.l.c, false, func(ctx context.Context, ep *endpoint) (int64, error) {
		stream, err := ep.lease.LeaseKeepAlive(ctx)
		if err != nil {
			return 0, err
		}
		if err := stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: p.lease}); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		resp, err := stream.Recv()
		if err != nil {
			return 0, err
		}
		return resp.TTL, nil
	})
	if err != nil {
		return err
	}
	if ttl > 0 {
		there, err := p.listed(ctx)
		if err != nil || there {
			return err
		}
	} else {
		p.lease = 0 // it expired, or somebody revoked it
	}
	other, err := p.enlist(ctx)
	if err == nil && other != nil {
		return &NameTakenError{Singleton: p.l.name, By: *other}
	}
	return err
}

// listed reports whether the entry is there, ours, and up to date: a key can be
// deleted while its lease lives on.
func (p *Presence) listed(ctx context.Context) (bool, error) {
	resp, err := ask(ctx, p.l.c, false, func(ctx context.Context, ep *endpoint) (*etcdserverpb.RangeResponse, error) {
		return ep.kv.Range(ctx, &etcdserverpb.RangeRequest{Key: p.l.key(keyWaiting + p.c.Name)})
	})
	if err != nil {
		return false, fmt.Errorf("etcd: look for %s: %w", p.c.Name, err)
	}
	if len(resp.Kvs) == 0 {
		return false, nil
	}
	c, ok := parseCandidate(resp.Kvs[0])
	return ok && c.ID == p.c.ID && c.Held == p.entry().Held, nil
}

// Withdraw takes the entry away.
func (p *Presence) Withdraw(ctx context.Context) error {
	if p.lease == 0 {
		return nil
	}
	_, err := ask(ctx, p.l.c, false, func(ctx context.Context, ep *endpoint) (*etcdserverpb.LeaseRevokeResponse, error) {
		return ep.lease.LeaseRevoke(ctx, &etcdserverpb.LeaseRevokeRequest{ID: p.lease})
	})
	if err != nil {
		return fmt.Errorf("etcd: withdraw %s: %w", p.c.Name, err)
	}
	p.lease = 0
	return nil
}
