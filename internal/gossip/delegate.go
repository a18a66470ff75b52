package gossip

import (
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/hactl/hactl/internal/mesh"
)

// delegate is what memberlist calls, with its locks held: it must neither block
// nor call back.
type delegate struct{ *Node }

// NodeMeta is what this node says of itself.
func (n delegate) NodeMeta(limit int) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.meta) > limit {
		return nil
	}
	return n.meta
}

// NotifyMsg drops messages: none are defined.
func (n delegate) NotifyMsg([]byte) {}

// GetBroadcasts sends nothing beyond what memberlist does.
func (n delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState adds nothing to a full exchange.
func (n delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState drops what others add to a full exchange.
func (n delegate) MergeRemoteState([]byte, bool) {}

// NotifyJoin records a node that came, or came back.
func (n delegate) NotifyJoin(node *memberlist.Node) { n.saw(node, Alive, true) }

// NotifyUpdate records what a node now says of itself.
func (n delegate) NotifyUpdate(node *memberlist.Node) { n.saw(node, Alive, false) }

// NotifyLeave records a node that died or said goodbye.
func (n delegate) NotifyLeave(node *memberlist.Node) {
	if m, err := decodeMeta(node.Meta); err == nil && m.Leaving {
		n.saw(node, Left, true)
		return
	}
	n.saw(node, Dead, true)
}

func (n *Node) saw(node *memberlist.Node, state State, tell bool) {
	addr := mesh.Address(node)
	meta, err := decodeMeta(node.Meta)
	n.mu.Lock()
	now := time.Now()
	e := n.picture.get(node.Name, now)
	if e.State != state {
		e.State, e.Since = state, now
	}
	if state == Alive {
		e.answered = now
	} else {
		e.RTT = 0
	}
	e.Address, e.MetaErr = addr, ""
	if !e.Self { // of itself it knows better
		e.Meta = meta
	}
	if err != nil {
		e.MetaErr = err.Error()
	}
	self := e.Self
	n.publish()
	n.mu.Unlock()
	if tell && !self {
		n.cfg.Logger.Info("gossip sees a peer", "master", n.cfg.Name, "peer", node.Name, "address", addr, "state", string(state))
	}
	if err != nil {
		n.cfg.Logger.Warn("a peer says what cannot be read", "master", n.cfg.Name, "peer", node.Name, "err", err)
	}
}

// NotifyConflict records a second node of one name.
func (n delegate) NotifyConflict(existing, other *memberlist.Node) {
	c := Conflict{existing.Name, mesh.Address(existing), mesh.Address(other)}
	n.metrics.conflicts.Inc()
	n.mu.Lock()
	now := time.Now()
	e := n.picture.get(c.Name, now)
	first := e.Conflict != c.Other
	e.Conflict, e.conflictAt = c.Other, now
	if first {
		n.publish()
	}
	n.mu.Unlock()
	if first {
		n.cfg.Logger.Error("two machines have one name", "master", n.cfg.Name, "err", c)
	}
}

// AckPayload sends nothing with an answer to a probe.
func (n delegate) AckPayload() []byte { return nil }

// NotifyPingComplete records that a peer answered a probe.
func (n delegate) NotifyPingComplete(other *memberlist.Node, rtt time.Duration, _ []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	e := n.picture.get(other.Name, now)
	e.answered, e.RTT = now, rtt
	if e.State == Suspect {
		e.State, e.Since = Alive, now
		n.publish()
	}
}
