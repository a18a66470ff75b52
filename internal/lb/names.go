package lb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	lookUpTimeout = 3 * time.Second
	lookUpAgain   = time.Second // after one that failed; doubled until it is ResolveEvery
	// missedMost is how many answers in a row may leave an address out before it is
	// believed: name servers that answer in turns leave some out each time.
	missedMost = 3
)

// name is a backend's host name and what is known of it. Balancer.mu guards it.
type name struct {
	addrs []knownAddr   // by address
	err   string        // of the last look-up
	next  time.Time     // when to look it up again
	again time.Duration // the last pause after a failure; 0: it did not fail
}

// plan says when to look n up next: every so long, sooner after a failure.
func (n *name) plan(now time.Time, failed bool, every time.Duration) {
	if !failed {
		n.again, n.next = 0, now.Add(every)
		return
	}
	n.again = min(max(2*n.again, lookUpAgain), every)
	n.next = now.Add(n.again)
}

// knownAddr is an address and how many answers in a row have left it out.
type knownAddr struct {
	addr   netip.Addr
	missed int
}

// merge takes an answer: its addresses, and those that it has not left out too
// often yet. It reports whether the set changed.
func merge(have []knownAddr, answer []netip.Addr) (all []knownAddr, changed bool) {
	for _, a := range answer {
		all = append(all, knownAddr{addr: a.Unmap()})
	}
	for _, k := range have {
		k.missed++
		if k.missed < missedMost {
			all = append(all, k)
		}
	}
	// Of two entries the one that was answered comes first, and stays.
	slices.SortStableFunc(all, func(a, b knownAddr) int { return a.addr.Compare(b.addr) })
	same := func(a, b knownAddr) bool { return a.addr == b.addr }
	all = slices.CompactFunc(all, same)
	return all, !slices.EqualFunc(all, have, same)
}

// host is the name in the address, empty if it is none.
func (b Backend) host() string {
	if !b.isName() {
		return ""
	}
	host, _, _ := net.SplitHostPort(b.Address)
	return host
}

func (b *Balancer) addressesOf(host string) (addrs []netip.Addr) {
	if n := b.names[host]; n != nil {
		for _, k := range n.addrs {
			addrs = append(addrs, k.addr)
		}
	}
	return addrs
}

// unresolved are the backends in force whose last look-up failed.
func (b *Balancer) unresolved() (all []UnresolvedBackend) {
	for _, be := range b.list {
		if n := b.names[be.host()]; n != nil && n.err != "" {
			all = append(all, UnresolvedBackend{Name: be.Name, Address: be.Address, Addresses: len(n.addrs), Err: n.err})
		}
	}
	return all
}

// addresses are those of all names in list.
func (b *Balancer) addresses(list []Backend) map[string][]netip.Addr {
	all := map[string][]netip.Addr{}
	for _, be := range list {
		if addrs := b.addressesOf(be.host()); len(addrs) > 0 {
			all[be.host()] = addrs
		}
	}
	return all
}

// recall believes in addresses from before the start until there is an answer.
func (b *Balancer) recall(saved map[string][]netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for host, addrs := range saved {
		n := &name{}
		n.addrs, _ = merge(nil, addrs)
		for i := range n.addrs {
			n.addrs[i].missed = missedMost // the first answer decides
		}
		b.names[host] = n
	}
}

// resolve looks up the names in list. It reports whether an address changed; a name
// whose look-up failed keeps the addresses it had.
func (b *Balancer) resolve(ctx context.Context, list []Backend) (changed bool) {
	var (
		wg   sync.WaitGroup
		seen = map[string]bool{"": true}
		each = make([]bool, len(list))
	)
	for i, be := range list {
		host := be.host()
		if seen[host] {
			continue
		}
		seen[host] = true
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
			defer cancel()
			addrs, err := b.cfg.Resolver.LookupNetIP(ctx, "ip", host)
			if err == nil && len(addrs) == 0 {
				err = errors.New("no address")
			}
			each[i] = b.lookedUp(be.Name, host, addrs, err)
		})
	}
	wg.Wait()
	return slices.Contains(each, true)
}

// lookedUp takes the answer to a look-up. A failure is logged when it is another one
// than the last time.
func (b *Balancer) lookedUp(backend, host string, addrs []netip.Addr, err error) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.names[host]
	if n == nil {
		n = &name{}
		b.names[host] = n
	}
	n.plan(time.Now(), err != nil, b.cfg.ResolveEvery)
	if err != nil {
		if s := err.Error(); s != n.err {
			n.err = s
			if len(n.addrs) == 0 {
				b.log.Warn("backend's name not resolved, it has no address and gets no connection", "backend", backend, "err", s)
			} else {
				b.log.Warn("backend's name not resolved, the old addresses stay", "backend", backend, "addresses", len(n.addrs), "err", s)
			}
		}
		return false
	}
	if n.err != "" {
		n.err = ""
		b.log.Info("backend's name is resolved again", "backend", backend, "addresses", len(addrs))
	}
	n.addrs, changed = merge(n.addrs, addrs)
	return changed
}

// resolveNew looks up the names in list that have no address yet, so that adopting
// it does not take out what there is. It returns an error if list has no address at
// all; of a list that is adopted the resolver soon asks again for the names that have none.
func (b *Balancer) resolveNew(ctx context.Context, list []Backend) error {
	unknown := func() (out []Backend) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, be := range list {
			if host := be.host(); host != "" && len(b.addressesOf(host)) == 0 {
				out = append(out, be)
			}
		}
		return out
	}
	b.mu.Lock()
	old := slices.Equal(list, b.list)
	b.mu.Unlock()
	if old { // the resolver looks after it
		return nil
	}
	b.resolve(ctx, unknown())
	if len(unknown()) == len(list) {
		return fmt.Errorf("none of the %d names in it can be looked up", len(list))
	}
	return nil
}

// askNames has the resolver look all names up now.
func (b *Balancer) askNames() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.names {
		n.next = time.Time{}
	}
	b.wakeResolver()
}

// wakeResolver has the resolver look at the names anew: what is due may have changed.
func (b *Balancer) wakeResolver() {
	select {
	case b.lookUp <- struct{}{}:
	default:
	}
}

// forgetNames drops what is known of names that are not in list: it would be old when
// they come back.
func (b *Balancer) forgetNames(list []Backend) {
	keep := map[string]bool{}
	for _, be := range list {
		keep[be.host()] = true
	}
	maps.DeleteFunc(b.names, func(host string, _ *name) bool { return !keep[host] })
}

// startResolver looks the names of backends up, each when it is due, beside the
// control loop, until ctx ends; wait returns then.
func (b *Balancer) startResolver(ctx context.Context) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			case <-b.lookUp:
			}
			if due, _ := b.dueNames(time.Now()); b.resolve(ctx, due) {
				b.readdress()
			}
			_, pause := b.dueNames(time.Now())
			timer.Reset(pause)
		}
	}()
	return func() { <-done }
}

// dueNames are the backends in the list whose names should be looked up now, and how
// long it is until there is one.
func (b *Balancer) dueNames(now time.Time) (due []Backend, pause time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	pause = b.cfg.ResolveEvery
	for _, be := range b.list {
		host := be.host()
		if host == "" {
			continue
		}
		var left time.Duration // none for one that is new
		if n := b.names[host]; n != nil {
			left = max(0, n.next.Sub(now))
		}
		if left == 0 {
			due = append(due, be)
		}
		pause = min(pause, left)
	}
	return due, pause
}

// readdress gives the list in force its names' new addresses.
func (b *Balancer) readdress() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.adoptLocked(b.list)
}
