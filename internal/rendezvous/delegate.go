package rendezvous

import (
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/hactl/hactl/internal/mesh"
)

// delegate is what memberlist calls: it must not block. memberlist's own locks
// are held in NotifyJoin and NotifyLeave.
type delegate struct{ *Node }

// NodeMeta says nothing: a card does not fit.
func (n delegate) NodeMeta(int) []byte { return nil }

// GetBroadcasts sends nothing beyond what memberlist does.
func (n delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState adds our card to a full exchange.
func (n delegate) LocalState(bool) []byte {
	text, err := n.sayCard()
	if err != nil {
		n.cfg.Logger.Error("this machine's card cannot be told", "master", n.cfg.Name, "err", err)
		return nil
	}
	return text
}

// MergeRemoteState takes the other's card.
func (n delegate) MergeRemoteState(text []byte, _ bool) { n.heard(text) }

// NotifyMsg takes a message. It comes by UDP or TCP.
func (n delegate) NotifyMsg(text []byte) { n.heard(text) }

// NotifyJoin records who came.
func (n delegate) NotifyJoin(node *memberlist.Node) { n.came(node, true) }

// NotifyUpdate is never called: there is no meta.
func (n delegate) NotifyUpdate(*memberlist.Node) {}

// NotifyLeave records who died or said goodbye.
func (n delegate) NotifyLeave(node *memberlist.Node) { n.came(node, false) }

func (n *Node) came(node *memberlist.Node, alive bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.picture.came(node.Name, mesh.Address(node), alive, time.Now()) {
		return
	}
	n.cfg.Logger.Debug("rendezvous: a process came or went", "master", n.cfg.Name, "peer", node.Name, "address", mesh.Address(node), "alive", alive)
	n.review()
	n.publish()
	if alive {
		n.poke()
	}
}

// heard reads a message and passes it on.
func (n *Node) heard(text []byte) {
	if len(text) == 0 {
		return // another version, which has no card to tell
	}
	m, err := decode(text)
	if err != nil {
		n.metrics.dropped.Inc()
		n.cfg.Logger.Debug("rendezvous: a message cannot be read", "master", n.cfg.Name, "err", err)
		return
	}
	switch m.Kind {
	case sayCard:
		n.mu.Lock()
		if n.picture.said(m.From, *m.Card, m.Seq, time.Now()) {
			n.publish()
		}
		n.mu.Unlock()
	case askConfig, askSecrets:
		select {
		case n.questions <- m:
		default: // the asker asks again
			n.metrics.dropped.Inc()
		}
	case answer:
		n.mu.Lock()
		p := n.pending[m.ID]
		n.mu.Unlock()
		if p.node == m.From {
			select {
			case p.answers <- m:
			default: // the second answer to one question
			}
		}
	}
}
