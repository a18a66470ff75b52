package rendezvous

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// askTimeout bounds a question, askAgain is the pause after which it is put
	// again: the other side may not have seen us yet.
	askTimeout = 10 * time.Second
	askAgain   = time.Second
)

// pending is a question of ours that waits for its answer.
type pending struct {
	node    string // who was asked
	answers chan message
}

// ConfigOf asks the machine called name for its configuration, in its canonical
// text. It takes as long as ctx lasts, and 10 s at most. It errs with ErrUnknown,
// ErrRefused or ErrNoAnswer.
func (n *Node) ConfigOf(ctx context.Context, name string) ([]byte, error) {
	m, err := n.ask(ctx, name, message{Kind: askConfig})
	if err != nil {
		return nil, fmt.Errorf("the configuration of %s: %w", name, err)
	}
	return m.Body, nil
}

// SecretsOf asks the machine called name for the cluster's secrets, within the
// bounds of ConfigOf. It errs with ErrNone when that one has none, with
// ErrRefused and its reason when it does not give them to this machine, and as
// ConfigOf does.
func (n *Node) SecretsOf(ctx context.Context, name string) (Secrets, error) {
	s, err := n.secretsOf(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("the secrets of %s: %w", name, err)
	}
	return s, nil
}

func (n *Node) secretsOf(ctx context.Context, name string) (Secrets, error) {
	text, err := n.cfg.Config()
	if err != nil {
		return nil, err
	}
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	m, err := n.ask(ctx, name, message{Kind: askSecrets, Config: HashConfig(text), Public: own.PublicKey().Bytes()})
	if err != nil {
		return nil, err
	}
	return open(own, m.Public, m.Body, n.cfg.Key, m.ID)
}

// ask puts a question and waits for the answer.
func (n *Node) ask(ctx context.Context, name string, q message) (message, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, ErrNoAnswer)
	defer cancel()
	q.From, q.ID = n.self.String(), newID(idSize/2)
	text, err := q.encode()
	if err != nil {
		return message{}, err
	}
	n.mu.Lock()
	lib := n.lib
	node, err := n.picture.find(name)
	answers := make(chan message, 1)
	if err == nil {
		n.pending[q.ID] = pending{node, answers}
	}
	n.mu.Unlock()
	if err != nil {
		return message{}, err
	}
	defer func() {
		n.mu.Lock()
		delete(n.pending, q.ID)
		n.mu.Unlock()
	}()
	if lib == nil {
		return message{}, errors.New("this machine takes no part")
	}
	return n.await(ctx, lib, node, text, answers)
}

// await sends the question until its answer comes.
func (n *Node) await(ctx context.Context, lib *memberlist.Memberlist, node string, text []byte, answers <-chan message) (message, error) {
	again := time.NewTicker(askAgain)
	defer again.Stop()
	for {
		to := n.peer(node)
		if to == nil {
			return message{}, fmt.Errorf("%w: it went away", ErrNoAnswer)
		}
		if err := lib.SendReliable(to, text); err != nil {
			n.cfg.Logger.Debug("rendezvous: a question was not sent", "master", n.cfg.Name, "peer", node, "err", err)
		}
		select {
		case <-ctx.Done():
			return message{}, context.Cause(ctx)
		case m := <-answers:
			return m, m.failure()
		case <-again.C:
		}
	}
}

// failure is the error that an answer tells, or nil.
func (m message) failure() error {
	switch m.Code {
	case codeOK:
		return nil
	case codeNone:
		return ErrNone
	case codeRefused:
		return fmt.Errorf("%w: %s", ErrRefused, clean(m.Error))
	default:
		return fmt.Errorf("it failed: %s", clean(m.Error))
	}
}

// clean makes another machine's words fit for a terminal.
func clean(s string) string {
	out := []rune(s)
	for i, r := range out {
		if r != '\n' && !printable(string(r)) {
			out[i] = '?'
		}
	}
	return string(out)
}

// peer returns a node that takes part, or nil. memberlist's own Members are
// pointers into what it changes meanwhile; this is a copy.
func (n *Node) peer(node string) *memberlist.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.picture.others[node]
	if e == nil || !e.alive {
		return nil
	}
	return e.library()
}

// peers returns all other nodes that take part.
func (n *Node) peers() []*memberlist.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*memberlist.Node
	for _, e := range n.picture.others {
		if m := e.library(); e.alive && m != nil {
			out = append(out, m)
		}
	}
	return out
}

// library is what memberlist needs in order to send something.
func (e *entry) library() *memberlist.Node {
	from, err := netip.ParseAddrPort(e.from)
	if err != nil {
		return nil
	}
	return &memberlist.Node{Name: e.node.String(), Addr: from.Addr().AsSlice(), Port: from.Port()}
}
