package lb

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/hactl/hactl/internal/backoff"
	"github.com/hactl/hactl/internal/lb/dataplane"
	"github.com/hactl/hactl/internal/lb/probe"
)

type targetHandle = *dataplane.Target

// firstList takes the source's list, or the one kept on disk.
func (b *Balancer) firstList() error {
	list, err := b.sourceList(true)
	saved, kept := loadList(b.cfg.StateFile, b.cfg.SourceName)
	if kept != nil && !errors.Is(kept, fs.ErrNotExist) {
		b.log.Warn("what was kept on disk is not known, who was drained by an operator neither", "err", kept)
	}
	b.recallDrains(saved.Drained)
	if b.cfg.Fixed && err != nil {
		return err
	}
	b.recall(saved.Addresses)
	if err == nil {
		b.resolve(context.Background(), list)
		b.adopt(list)
		return nil
	}
	if kept != nil {
		if errors.Is(kept, fs.ErrNotExist) {
			return err
		}
		return errors.Join(err, kept)
	}
	if own := b.own.among(saved.Backends); own != nil {
		return errors.Join(err, own)
	}
	b.log.Warn("no list of backends, the kept one is used", "err", err, "saved", saved.Saved)
	b.listErr, b.kept = err.Error(), true
	b.resolve(context.Background(), saved.Backends)
	b.adopt(saved.Backends)
	return nil
}

// sourceList is the source's list, checked.
func (b *Balancer) sourceList(anew bool) ([]Backend, error) {
	b.mu.Lock()
	source := b.cfg.Source
	if b.override != nil {
		source = b.override
	}
	b.mu.Unlock()
	list, err := source(anew)
	if err != nil {
		return nil, err
	}
	if list, err = checkList(list); err != nil {
		return nil, err
	}
	return list, b.own.among(list)
}

// follow adopts the source's list if it is another one. A bad one changes
// nothing and is logged once.
func (b *Balancer) follow(ctx context.Context, anew bool) {
	list, err := b.sourceList(anew)
	if err == nil {
		err = b.admit(ctx, list, anew)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		if err.Error() != b.listErr {
			b.log.Error("list of backends refused, the old one stays", "err", err)
		}
		b.listErr = err.Error()
		return
	}
	if b.listErr != "" {
		b.log.Info("list of backends is good again")
	}
	b.listErr = ""
	if slices.Equal(list, b.list) && !b.kept {
		return
	}
	b.kept = false
	b.adoptLocked(list)
}

// refusal is a list none of whose names could be looked up, and when to try again.
type refusal struct {
	list  []Backend
	err   error
	until time.Time
	pause backoff.Backoff
}

// admit looks up what is new in list. A list of names that nobody knows would hold up
// each turn of the control loop, so the same one is tried again later and later.
func (b *Balancer) admit(ctx context.Context, list []Backend, anew bool) error {
	r := &b.refused
	if !slices.Equal(list, r.list) || anew {
		*r = refusal{list: list, pause: backoff.Backoff{Base: lookUpAgain, Max: b.cfg.ResolveEvery}}
	}
	if r.err != nil && time.Now().Before(r.until) {
		return r.err
	}
	if r.err = b.resolveNew(ctx, list); r.err != nil {
		r.until = time.Now().Add(r.pause.Next())
	}
	return r.err
}

func (b *Balancer) adopt(list []Backend) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.adoptLocked(list)
}

// adoptLocked makes the members those of list. Backends that stay keep their
// state and connections; those that go take no new ones.
func (b *Balancer) adoptLocked(list []Backend) {
	b.list = list
	b.forgetNames(list)
	b.forgetDrains(list)
	b.wakeResolver()
	want := map[string]*member{}
	for _, be := range b.expand(list) {
		m := &member{backend: be.Backend, host: be.host, listed: be.listed}
		want[m.key()] = m
	}
	now := time.Now()
	for key, m := range b.members {
		if want[key] == nil && m.removed.IsZero() {
			m.removed = now
			m.stopProber()
			b.log.Info("backend removed", "backend", m.backend.Name, "address", m.backend.Address, "connections", m.target.Active())
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		m := want[key]
		if old := b.members[key]; old != nil {
			old.backend = m.backend
			if !old.removed.IsZero() {
				old.removed = time.Time{}
				b.startProber(old)
			}
			continue
		}
		var err error
		if m.target, err = newTarget(m.backend); err != nil {
			b.log.Error("backend left out", "backend", m.backend.Name, "err", err)
			continue
		}
		m.health.Since, m.health.Why = now, "not probed yet"
		m.drained, m.told = b.drains[m.backend.Name] || b.drains[m.listed], now
		b.members[key] = m
		b.newProber(m)
		b.log.Info("backend added", "backend", m.backend.Name, "address", m.backend.Address)
	}
	b.index()
	b.refresh(now)
	if !b.kept {
		b.keep()
	}
}

// index lets the data path find a member by its target without a lock.
func (b *Balancer) index() {
	byTarget := make(map[*dataplane.Target]*member, len(b.members))
	for _, m := range b.members {
		byTarget[m.target] = m
	}
	b.byTarget.Store(&byTarget)
}

func (b *Balancer) newProber(m *member) {
	check, closeCheck := b.check(m.backend)
	m.prober = probe.New(probe.Config{
		Check: check, Close: closeCheck,
		Every: b.cfg.Check.Every, Timeout: b.cfg.Check.Timeout,
		Report: func(r probe.Result) { b.observed(m, r) },
	})
	b.startProber(m)
}

// startProber runs m's prober if the balancer runs.
func (b *Balancer) startProber(m *member) {
	if b.runProbers == nil {
		return
	}
	ctx, stop := context.WithCancel(b.runProbers)
	m.stop = stop
	b.probers.Go(func() error { return m.prober.Run(ctx) })
}

func (m *member) stopProber() {
	if m.stop != nil {
		m.stop()
	}
}

func (b *Balancer) startProbers(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.runProbers = ctx
	for _, m := range b.members {
		b.startProber(m)
	}
}

// resolvedBackend is a backend at one IP address.
type resolvedBackend struct {
	Backend
	host   string
	listed string // its name in the list
}

// expand gives each address of a host name a backend of its own, named
// NAME@ADDRESS if there are several.
func (b *Balancer) expand(list []Backend) []resolvedBackend {
	var out []resolvedBackend
	for _, be := range list {
		if !be.isName() {
			out = append(out, resolvedBackend{Backend: be, listed: be.Name})
			continue
		}
		host, port, _ := net.SplitHostPort(be.Address)
		n, _ := strconv.ParseUint(port, 10, 16)
		addrs := b.addressesOf(host)
		for _, a := range addrs {
			r := resolvedBackend{Backend: be, host: be.Address, listed: be.Name}
			r.Address = netip.AddrPortFrom(a, uint16(n)).String()
			if b.own.has(r.Address) {
				b.log.Error("a backend's name leads to this balancer itself, the address is left out", "backend", be.Name, "address", r.Address)
				continue
			}
			if len(addrs) > 1 {
				r.Name = be.Name + "@" + a.String()
			}
			out = append(out, r)
		}
	}
	return out
}
