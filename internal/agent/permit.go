package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/restartlock"
	"github.com/hactl/hactl/internal/watchdog"
)

// restartLog has a key for each restart under the lock, which etcd deletes when it is
// older than the budget's window: no master's clock counts.
const restartLog = "/hactl/watchdog/restarts/"

// Errors of a permit that is refused by a rule, and not for want of an answer.
var (
	errBudget = errors.New("the cluster's budget is spent")
	errNeeded = errors.New("the cluster needs it as it is")
)

// permits is the rule that never two masters restart an API server or an etcd
// member at the same time, and all together not too often.
type permits struct {
	client *clientv3.Client
	self   string
	turns  watchdog.Turns // while etcd does not answer
	shared map[string]bool

	window time.Duration // over which budget counts
	budget int           // restarts of what is shared, by all masters
	alone  aloneBudget   // while etcd does not answer

	// spared errs when the others cannot do without this unit of ours.
	spared func(ctx context.Context, ask watchdog.Ask) error
}

// Permit implements watchdog.Permit.
func (p *permits) Permit(ctx context.Context, ask watchdog.Ask) (func(), error) {
	if !p.shared[ask.Unit] && !ask.Gentle {
		return func() {}, nil
	}
	if p.spared != nil {
		if err := p.spared(ctx, ask); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	release, err := p.lock(ctx, ask)
	switch {
	case err == nil:
		return release, nil
	case errors.Is(err, errBudget):
		return nil, err
	case errors.Is(err, restartlock.ErrTaken):
		return nil, err
	case ask.Gentle:
		return nil, fmt.Errorf("it can wait until etcd answers: %w", err)
	default:
		// Without etcd nobody can be asked; the clock is what all share.
		return p.withoutEtcd(ctx, ask)
	}
}

// withoutEtcd is the rule while nobody can be asked: the clock says whose turn it
// is, and each master has its share of the budget.
func (p *permits) withoutEtcd(ctx context.Context, ask watchdog.Ask) (func(), error) {
	release, err := p.turns.Permit(ctx, ask)
	if err != nil {
		return nil, err
	}
	share := max(1, p.budget/max(1, p.turns.Masters))
	if err := p.alone.spend(time.Now(), p.window, share); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// lock takes the lock and counts the restart.
func (p *permits) lock(ctx context.Context, ask watchdog.Ask) (func(), error) {
	lock, err := restartlock.Try(ctx, p.client)
	if err != nil {
		return nil, err
	}
	if err := p.count(ctx, lock, ask); err != nil {
		lock.Release()
		return nil, err
	}
	return lock.Release, nil
}

// restartRecord is the value of a key of restartLog.
type restartRecord struct {
	Master string          `json:"master"`
	Unit   string          `json:"unit"`
	Reason watchdog.Reason `json:"reason"`
	Time   time.Time       `json:"time"`
}

// count adds the restart to the log, if the budget has room. The caller has the
// lock: nobody else counts meanwhile.
func (p *permits) count(ctx context.Context, lock *restartlock.Lock, ask watchdog.Ask) error {
	if p.budget <= 0 {
		return nil
	}
	now := time.Now()
	for _, t := range p.alone.pending(now, p.window) { // those that etcd does not know yet
		if err := p.write(ctx, lock, restartRecord{p.self, "unknown", watchdog.NoAnswer, t}, p.window-now.Sub(t)); err != nil {
			return err
		}
		p.alone.told(t)
	}
	spent, err := p.client.Get(ctx, restartLog, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("count restarts: %w", err)
	}
	if spent.Count >= int64(p.budget) {
		return fmt.Errorf("%w: %d restarts by all masters within %v", errBudget, spent.Count, p.window)
	}
	return p.write(ctx, lock, restartRecord{p.self, ask.Unit, ask.Reason, now}, p.window)
}

func (p *permits) write(ctx context.Context, lock *restartlock.Lock, r restartRecord, ttl time.Duration) error {
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("count a restart: %w", err)
	}
	lease, err := p.client.Grant(ctx, max(1, int64(ttl.Seconds())))
	if err != nil {
		return fmt.Errorf("count a restart: %w", err)
	}
	key := fmt.Sprintf("%s%s/%d", restartLog, r.Master, r.Time.UnixNano())
	resp, err := p.client.Txn(ctx).If(lock.Held()).Then(clientv3.OpPut(key, string(value), clientv3.WithLease(lease.ID))).Commit()
	if err != nil {
		return fmt.Errorf("count a restart: %w", err)
	}
	if !resp.Succeeded {
		return fmt.Errorf("count a restart: the lock is lost: %w", restartlock.ErrTaken)
	}
	return nil
}

// aloneBudget is what one master restarted while etcd did not answer. Its file
// outlives the agent.
type aloneBudget struct {
	file string // empty: it does not

	mu     sync.Mutex
	loaded bool
	times  []aloneRestart
}

type aloneRestart struct {
	Time time.Time `json:"time"`
	Told bool      `json:"told"` // etcd knows of it
}

// spend adds a restart, unless there were share within window.
func (b *aloneBudget) spend(now time.Time, window time.Duration, share int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recent(now, window)
	if len(b.times) >= share {
		return fmt.Errorf("%w: %d restarts by this master within %v, and etcd cannot be asked", errBudget, len(b.times), window)
	}
	b.times = append(b.times, aloneRestart{Time: now.Round(0)})
	if err := b.save(); err != nil { // not written is not counted after the next start: better no restart
		b.times = b.times[:len(b.times)-1]
		return fmt.Errorf("count a restart: %w", err)
	}
	return nil
}

// pending are the restarts within window that etcd does not know.
func (b *aloneBudget) pending(now time.Time, window time.Duration) []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recent(now, window)
	var out []time.Time
	for _, r := range b.times {
		if !r.Told {
			out = append(out, r.Time)
		}
	}
	return out
}

// told says that etcd knows of the restart at t. When that cannot be written it
// is told twice, which costs one of the budget.
func (b *aloneBudget) told(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.times {
		if b.times[i].Time.Equal(t) {
			b.times[i].Told = true
		}
	}
	_ = b.save()
}

// errNeededBy wraps errNeeded with what would be lost.
func errNeededBy(what string, err error) error { return fmt.Errorf("%w: %s: %w", errNeeded, what, err) }

// sharedUnits are those of which never two are restarted at once.
func sharedUnits() map[string]bool { return map[string]bool{master.Etcd: true, master.APIServer: true} }
