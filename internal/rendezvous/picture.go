package rendezvous

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// nodeName is what a process is called in the mesh. memberlist would keep the
// second of two nodes of one name out, and tell neither; so each process has a
// name of its own, and who it claims to be is part of it.
type nodeName struct {
	name    string // the master's
	machine string
	process string // random
}

func (n nodeName) String() string { return n.name + "/" + n.machine + "/" + n.process }

func parseNodeName(s string) (nodeName, bool) {
	if len(s) > maxName || !printable(s) {
		return nodeName{}, false
	}
	parts := strings.Split(s, "/")
	if len(parts) != 3 || slices.Contains(parts, "") {
		return nodeName{}, false
	}
	return nodeName{parts[0], parts[1], parts[2]}, true
}

// entry is another process as it looks from here.
type entry struct {
	node  nodeName
	from  string // IP:PORT; empty when only its card came so far
	alive bool
	at    time.Time // of the last change of alive, or card
	seq   uint64
	card  *Seen // nil before the first
}

const (
	// maxEntries bounds what others can make us remember.
	maxEntries = 256
	// conflictShown is how long a conflict is told after it was last seen.
	conflictShown = 15 * time.Second
)

// Conflict tells two machines that claim to be one.
type Conflict struct {
	What     string // "the name m2", "the address 10.0.0.2"
	One, Two string // IP:PORT of their rendezvous, and the beginning of their machine ids
}

func (c Conflict) Error() string {
	return fmt.Sprintf("%s is claimed by two machines, %s and %s", c.What, c.One, c.Two)
}

// picture is the mutable state behind Cards and Conflicts, under the node's lock.
type picture struct {
	self     entry
	others   map[string]*entry
	conflict map[Conflict]time.Time // when last seen
}

// get returns the entry of a node, or nil when it is our own, has no proper name,
// or there is no room.
func (p *picture) get(node string, now time.Time) *entry {
	if e := p.others[node]; e != nil {
		return e
	}
	name, ok := parseNodeName(node)
	if !ok || name == p.self.node {
		return nil
	}
	if len(p.others) >= maxEntries && !p.makeRoom() {
		return nil
	}
	e := &entry{node: name, at: now}
	p.others[node] = e
	return e
}

// makeRoom forgets who has been gone for longest.
func (p *picture) makeRoom() bool {
	var oldest string
	for name, e := range p.others {
		if !e.alive && (oldest == "" || e.at.Before(p.others[oldest].at)) {
			oldest = name
		}
	}
	delete(p.others, oldest)
	return oldest != ""
}

// came records that a node takes part, or no longer does, and tells whether that
// is news.
func (p *picture) came(node, from string, alive bool, now time.Time) bool {
	e := p.get(node, now)
	if e == nil || e.alive == alive && e.from == from {
		return false
	}
	e.alive, e.from, e.at = alive, from, now
	return true
}

// said records a card, and tells whether it is news.
func (p *picture) said(node string, c Card, seq uint64, now time.Time) bool {
	e := p.get(node, now)
	if e == nil || seq <= e.seq || c.Name != e.node.name || c.Machine != e.node.machine {
		return false
	}
	news := e.card == nil || !e.card.same(c)
	e.seq, e.at = seq, now
	e.card = &Seen{Card: c, SeenAt: now, Skew: c.Clock.Sub(now)}
	return news
}

// list is what Cards returns: of each name everyone that takes part, or, when
// nobody does, who did last.
func (p *picture) list() []Seen {
	byName := map[string][]*entry{}
	for _, e := range p.others {
		if e.card != nil {
			byName[e.node.name] = append(byName[e.node.name], e)
		}
	}
	var out []Seen
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		for _, e := range shown(byName[name]) {
			s := *e.card
			s.From, s.Alive = e.from, e.alive
			out = append(out, s)
		}
	}
	return out
}

// shown picks from the processes of one name: a machine's latest alive one each,
// or the last that was.
func shown(entries []*entry) []*entry {
	slices.SortFunc(entries, func(a, b *entry) int {
		return cmp.Or(cmpBool(b.alive, a.alive), b.card.SeenAt.Compare(a.card.SeenAt))
	})
	out := entries[:1]
	for _, e := range entries[1:] {
		known := slices.ContainsFunc(out, func(o *entry) bool { return o.sameMachine(e) })
		if e.alive && !known {
			out = append(out, e)
		}
	}
	return out
}

func cmpBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// sameMachine tells whether two processes are one after the other on one machine.
func (e *entry) sameMachine(o *entry) bool {
	return e.node.machine == o.node.machine && host(e.from) == host(o.from)
}

func host(from string) string {
	if ap, err := netip.ParseAddrPort(from); err == nil {
		return ap.Addr().Unmap().String()
	}
	return from
}

// review looks for conflicts among those that take part, forgets old ones, and
// tells whether anything changed.
func (p *picture) review(now time.Time) (fresh []Conflict, changed bool) {
	alive := []*entry{&p.self}
	for _, name := range slices.Sorted(maps.Keys(p.others)) {
		if e := p.others[name]; e.alive && e.from != "" {
			alive = append(alive, e)
		}
	}
	for i, a := range alive {
		for _, b := range alive[i+1:] {
			c, is := conflictOf(a, b)
			if !is {
				continue
			}
			if _, known := p.conflict[c]; !known {
				fresh = append(fresh, c)
			}
			p.conflict[c] = now
		}
	}
	before := len(p.conflict)
	maps.DeleteFunc(p.conflict, func(_ Conflict, at time.Time) bool { return now.Sub(at) > conflictShown })
	return fresh, len(fresh) > 0 || len(p.conflict) != before
}

func conflictOf(a, b *entry) (Conflict, bool) {
	var what string
	switch {
	case a.sameMachine(b):
		return Conflict{}, false
	case a.node.name == b.node.name:
		what = "the name " + a.node.name
	case host(a.from) == host(b.from):
		what = "the address " + host(a.from)
	default:
		return Conflict{}, false
	}
	one, two := a.where(), b.where()
	if two < one {
		one, two = two, one
	}
	return Conflict{what, one, two}, true
}

func (e *entry) where() string {
	return fmt.Sprintf("%s (machine %.8s)", e.from, e.node.machine)
}

// conflicts lists what Conflicts tells, in a fixed order.
func (p *picture) conflicts() []Conflict {
	return slices.SortedFunc(maps.Keys(p.conflict), func(a, b Conflict) int {
		return cmp.Or(cmp.Compare(a.What, b.What), cmp.Compare(a.One, b.One), cmp.Compare(a.Two, b.Two))
	})
}

// find returns the node name of the one process that is name now. A conflict is
// an error.
func (p *picture) find(name string) (string, error) {
	var found []*entry
	for _, e := range p.others {
		if e.node.name == name && e.alive {
			found = append(found, e)
		}
	}
	if len(found) == 0 {
		return "", ErrUnknown
	}
	latest := slices.MaxFunc(found, func(a, b *entry) int { return a.at.Compare(b.at) })
	for _, e := range found {
		if c, is := conflictOf(latest, e); is {
			return "", c
		}
	}
	return latest.node.String(), nil
}
