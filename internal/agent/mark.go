package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/event"
	"github.com/hactl/hactl/internal/lb"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/watchdog"
	"github.com/hactl/hactl/internal/workload"
)

const (
	// markPrefix has a key for each host that gave itself up. It is the host's own
	// word, in etcd and not in gossip, and goes with its lease when the host dies:
	// then the balancers' probes say all.
	markPrefix = "/hactl/watchdog/marks/"
	// rebootKey is there for rebootQuiet after a host went down for a reboot.
	rebootKey = "/hactl/watchdog/reboot"
)

const (
	markEvery   = time.Second
	markTTL     = 30 * time.Second
	markRenew   = 10 * time.Second
	markTimeout = 2 * time.Second // of one question to etcd
	// rebootAfter is how long a host must have been marked before it may reboot.
	rebootAfter = 5 * time.Minute
	// rebootQuiet is for how long no other host reboots.
	rebootQuiet = 10 * time.Minute
	// rebootAgain is the least time between two reboots of one host: what one did
	// not heal, the next does not.
	rebootAgain = 24 * time.Hour
)

// drainer is what a marker needs of this host's balancer.
type drainer interface {
	Drain(ctx context.Context, backend string) error
	Undrain(ctx context.Context, backend string) error
}

// marker gives a host up that cannot be healed, and takes note of the others that
// did: their API servers are drained, and singletons leave this host while it is
// marked.
type marker struct {
	client     *clientv3.Client
	self       string
	masters    int
	singletons []string
	file       string // what outlives the agent
	policy     watchdog.MarkPolicy
	look       func() []watchdog.TargetStatus
	manager    workload.Manager
	balancer   drainer
	events     *event.Recorder
	// reboot is called for a host that stays beyond help for rebootAfter; nil: never.
	// It errs when it is not permitted.
	reboot      func(ctx context.Context) error
	rebootAfter time.Duration // default rebootAfter

	state     markState
	marked    atomic.Pointer[watchdog.Mark] // for those who ask
	drained   time.Time                     // when the balancer was last told of all marks
	told      time.Time                     // when etcd was last told of the mark
	published bool                          // etcd knows
	refused   string                        // why etcd was not told
}

// markState is the content of the marker's file.
type markState struct {
	Mark     watchdog.Mark `json:"mark"`
	Stopped  []string      `json:"stopped,omitempty"` // podmasters that we stopped
	Drained  []string      `json:"drained,omitempty"` // backends that we drained
	Rebooted time.Time     `json:"rebooted,omitzero"` // the last time
}

// run looks and obeys until ctx ends.
func (m *marker) run(ctx context.Context) error {
	if b, err := os.ReadFile(m.file); err == nil {
		_ = json.Unmarshal(b, &m.state) // a damaged file is an empty one
	}
	for {
		m.step(ctx, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(markEvery):
		}
	}
}

func (m *marker) step(ctx context.Context, now time.Time) {
	before := m.state.Mark
	m.state.Mark = before.Next(m.policy, map[string]bool{master.Etcd: true, master.APIServer: true}, m.look(), now)
	mark := m.state.Mark
	m.marked.Store(&mark)
	if mark.On != before.On {
		m.record("mark", "unmark", m.state.Mark.On, m.state.Mark.Reason+before.Reason, nil)
		_ = m.save()
	}
	if m.state.Mark.On {
		m.publish(ctx, now)
	} else if m.published || len(m.state.Stopped) > 0 {
		m.withdraw(ctx)
	}
	m.obey(ctx, now)
	if m.published && m.reboot != nil && m.state.mayReboot(cmp.Or(m.rebootAfter, rebootAfter), now) {
		m.tryReboot(ctx, now)
	}
}

// mayReboot says whether the host is beyond help for long enough. One that is well
// again may still be published, while etcd cannot be told.
func (s markState) mayReboot(after time.Duration, now time.Time) bool {
	return s.Mark.On && !s.Mark.Since.IsZero() && now.Sub(s.Mark.Since) >= after && now.Sub(s.Rebooted) >= rebootAgain
}

// publish tells etcd of the mark, as long as most masters are without one, and
// has the singletons leave.
func (m *marker) publish(ctx context.Context, now time.Time) {
	if !m.published || now.Sub(m.told) >= markRenew {
		err := m.put(ctx)
		if err != nil {
			if !m.published && err.Error() != m.refused {
				m.refused = err.Error()
				m.record("hold", "", true, m.state.Mark.Reason, err)
			}
			m.published = m.published && now.Sub(m.told) < markTTL
			return
		}
		if !m.published {
			m.record("drain", "", true, m.state.Mark.Reason, nil)
		}
		m.published, m.told, m.refused = true, now, ""
	}
	m.leave(ctx)
}

// errTooMany is why a mark is not published.
var errTooMany = errors.New("too many masters are marked: somebody must serve")

// put writes the mark unless that would leave fewer than a majority without one.
func (m *marker) put(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	marks, err := m.client.Get(ctx, markPrefix, clientv3.WithPrefix())
	if err != nil {
		return fmt.Errorf("mark this host: %w", err)
	}
	others := 0
	for _, kv := range marks.Kvs {
		if string(kv.Key) != markPrefix+m.self {
			others++
		}
	}
	if others >= (m.masters-1)/2 {
		return errTooMany
	}
	lease, err := m.client.Grant(ctx, int64(markTTL.Seconds()))
	if err != nil {
		return fmt.Errorf("mark this host: %w", err)
	}
	// Nobody else may have marked itself since we counted.
	resp, err := m.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(markPrefix).WithPrefix(), "<", marks.Header.Revision+1)).
		Then(clientv3.OpPut(markPrefix+m.self, m.state.Mark.Reason, clientv3.WithLease(lease.ID))).Commit()
	if err != nil {
		return fmt.Errorf("mark this host: %w", err)
	}
	if !resp.Succeeded {
		return fmt.Errorf("mark this host: another one did so at the same time")
	}
	return nil
}

// leave stops this host's podmasters, each of whose work another master waits to
// take.
func (m *marker) leave(ctx context.Context) {
	for _, name := range m.singletons {
		unit := master.Podmaster + name
		if slices.Contains(m.state.Stopped, unit) || !m.running(ctx, unit) || !m.awaited(ctx, name) {
			continue
		}
		m.state.Stopped = append(m.state.Stopped, unit)
		_ = m.save() // before: so that it is started again whatever happens
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		err := m.manager.Stop(ctx, unit)
		cancel()
		m.events.Record(event.Event{Source: sourceWatchdog, Unit: unit, Action: "stop", Reason: "this host is marked", Result: result(err)})
	}
}

func (m *marker) running(ctx context.Context, unit string) bool {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	states, err := m.manager.Units(ctx)
	return err == nil && slices.ContainsFunc(states, func(s workload.State) bool { return s.Name == unit && s.MainPID != 0 })
}

// awaited reports whether another master would hold the singleton.
func (m *marker) awaited(ctx context.Context, name string) bool {
	prefix, err := etcdlock.Prefix(name)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	resp, err := m.client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return false
	}
	infos, err := etcdlock.Parse(resp.Kvs)
	if err != nil || len(infos) == 0 {
		return false
	}
	return infos[0].Holder != "" && infos[0].Holder != m.self ||
		slices.ContainsFunc(infos[0].Waiting, func(c etcdlock.Candidate) bool { return c.Name != m.self })
}

// withdraw takes the mark back, and the singletons' candidates.
func (m *marker) withdraw(ctx context.Context) {
	asked, cancel := context.WithTimeout(ctx, markTimeout)
	_, err := m.client.Delete(asked, markPrefix+m.self)
	cancel()
	if err == nil {
		m.published, m.refused = false, ""
	}
	for _, unit := range slices.Clone(m.state.Stopped) {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		err := m.manager.Start(ctx, unit)
		cancel()
		m.events.Record(event.Event{Source: sourceWatchdog, Unit: unit, Action: "start", Reason: "this host is no longer marked", Result: result(err)})
		if err == nil {
			m.state.Stopped = slices.DeleteFunc(m.state.Stopped, func(u string) bool { return u == unit })
			_ = m.save()
		}
	}
}

// obey drains this host's balancer from those that are marked, and no longer from
// those that were. While etcd cannot be asked everything stays as it is.
func (m *marker) obey(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	marks, err := m.client.Get(ctx, markPrefix, clientv3.WithPrefix())
	if err != nil {
		return
	}
	marked := map[string]bool{}
	for _, kv := range marks.Kvs {
		marked[strings.TrimPrefix(string(kv.Key), markPrefix)] = true
	}
	again, failed := now.Sub(m.drained) >= markRenew, false // somebody may have undrained it
	for name := range marked {
		if !slices.Contains(m.state.Drained, name) {
			m.state.Drained = append(m.state.Drained, name)
			_ = m.save() // before: a balancer stays drained until it is undrained
		} else if !again {
			continue
		}
		failed = m.balancer.Drain(ctx, name) != nil || failed
	}
	switch {
	case failed:
		m.drained = time.Time{} // again at the next look
	case again:
		m.drained = now
	}
	for _, name := range slices.Clone(m.state.Drained) {
		if marked[name] {
			continue
		}
		if err := m.balancer.Undrain(ctx, name); err != nil && !errors.Is(err, lb.ErrNoBackend) {
			continue
		}
		m.state.Drained = slices.DeleteFunc(m.state.Drained, func(n string) bool { return n == name })
		_ = m.save()
	}
}

// tryReboot reboots the host if nobody else does and the others do not need it.
func (m *marker) tryReboot(ctx context.Context, now time.Time) {
	before := m.state.Rebooted
	m.state.Rebooted = now
	if err := m.save(); err != nil { // or it would reboot again and again
		m.state.Rebooted = before
		return
	}
	err := m.reboot(ctx)
	if err != nil {
		// Asked again in a minute, not in a second.
		m.state.Rebooted = now.Add(time.Minute - rebootAgain)
		_ = m.save()
	}
	m.record("reboot", "", true, m.state.Mark.Reason, err)
}

func (m *marker) record(on, off string, is bool, reason string, err error) {
	e := event.Event{Source: sourceWatchdog, Unit: "host", Action: on, Reason: reason, Result: result(err)}
	if !is {
		e.Action = off
	}
	m.events.Record(e)
}

func result(err error) string {
	if err != nil {
		return err.Error()
	}
	return "ok"
}

// save writes the file. Most callers go on without it: the worst is a unit that is
// not started, or a backend not undrained, by the next agent.
func (m *marker) save() error {
	b, err := json.Marshal(m.state)
	if err == nil {
		err = atomicfile.MkdirWrite(m.file, b, 0o600, 0o700)
	}
	if err != nil {
		m.events.Record(event.Event{Source: sourceWatchdog, Unit: "host", Action: "keep the mark's state", Result: err.Error()})
	}
	return err
}
