package gossip

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/hactl/hactl/internal/mesh"
)

// State is how a peer looks from here.
type State string

// The states.
const (
	Unseen  State = "unseen"  // configured, and not heard of since the start
	Alive   State = "alive"   // it answers probes
	Suspect State = "suspect" // it counts as alive, but has not answered for some time
	Dead    State = "dead"    // it stopped answering
	Left    State = "left"    // it said goodbye
)

// Peer is one node as it looks from here.
type Peer struct {
	Name     string        `json:"name"`
	Address  string        `json:"address,omitempty"` // IP:PORT of its gossip
	Self     bool          `json:"self,omitempty"`
	State    State         `json:"state"`
	Since    time.Time     `json:"since"` // of State
	RTT      time.Duration `json:"rttNanos,omitempty"`
	Meta     Meta          `json:"meta"`
	MetaErr  string        `json:"metaError,omitempty"` // why Meta could not be read
	Conflict string        `json:"conflict,omitempty"`  // another address that claims its name
}

// peer is a Peer with what is needed to judge it. A node that is alive for
// memberlist has answered set at its joining.
type peer struct {
	Peer
	answered   time.Time // last answer to a probe, or joining
	conflictAt time.Time // when Conflict was last seen
}

// suspectAfter is how long a peer may be silent before it is suspect: three
// rounds of probes, and the time of one.
func suspectAfter(nodes int) time.Duration {
	return 3*mesh.ProbeEvery*time.Duration(max(1, nodes-1)) + mesh.ProbeTimeout
}

// picture is the mutable state behind Peers, under the node's lock.
type picture struct {
	peers map[string]*peer
}

func (p *picture) get(name string, now time.Time) *peer {
	e := p.peers[name]
	if e == nil {
		e = &peer{Peer: Peer{Name: name, State: Unseen, Since: now}}
		p.peers[name] = e
	}
	return e
}

// alive is the number of nodes that count as alive, this one included.
func (p *picture) alive() int {
	n := 0
	for _, e := range p.peers {
		if e.State == Alive || e.State == Suspect {
			n++
		}
	}
	return n
}

// review moves peers between Alive and Suspect as time passes, forgets old
// conflicts, and tells whether anything changed.
func (p *picture) review(now time.Time) bool {
	changed := false
	limit := suspectAfter(p.alive())
	for _, e := range p.peers {
		if e.Conflict != "" && now.Sub(e.conflictAt) > conflictShown {
			e.Conflict, changed = "", true
		}
		if e.Self {
			continue
		}
		silent := now.Sub(e.answered) > limit
		switch {
		case e.State == Alive && silent:
			e.State, e.Since, changed = Suspect, now, true
		case e.State == Suspect && !silent:
			e.State, e.Since, changed = Alive, now, true
		}
	}
	return changed
}

// list is a copy, ordered by name.
func (p *picture) list() []Peer {
	out := make([]Peer, 0, len(p.peers))
	for _, e := range slices.Collect(maps.Values(p.peers)) {
		out = append(out, e.Peer)
	}
	slices.SortFunc(out, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
