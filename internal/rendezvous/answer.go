package rendezvous

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/hashicorp/memberlist"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/mesh"
)

// answerAll answers questions until ctx ends.
func (n *Node) answerAll(ctx context.Context, lib *memberlist.Memberlist) {
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-n.questions:
			to := n.peer(q.From)
			if to == nil {
				continue // we do not know its address yet; it asks again
			}
			text, err := n.answer(q, mesh.Address(to)).encode()
			if err == nil {
				err = lib.SendReliable(to, text)
			}
			if err != nil {
				n.cfg.Logger.Debug("rendezvous: an answer was not sent", "master", n.cfg.Name, "peer", q.From, "err", err)
			}
		}
	}
}

// answer is what is said to a question of the node at the address from.
func (n *Node) answer(q message, from string) message {
	a := message{Kind: answer, From: n.self.String(), ID: q.ID}
	if q.Kind == askConfig {
		text, err := n.cfg.Config()
		if len(text) > maxBody {
			err = fmt.Errorf("the configuration has %d bytes, at most %d are carried", len(text), maxBody)
		}
		if err != nil {
			a.Code, a.Error = codeFailed, bounded(err.Error())
		} else {
			a.Body = text
		}
	} else {
		a = n.answerSecrets(a, q, from)
	}
	result := a.Code
	if result == codeOK {
		result = "ok"
	}
	n.metrics.answers.WithLabelValues(map[string]string{askConfig: "config", askSecrets: "secrets"}[q.Kind], result).Inc()
	return a
}

func (n *Node) answerSecrets(a, q message, from string) message {
	asker, _ := parseNodeName(q.From) // checked when it was read
	text, err := n.cfg.Config()
	if err == nil {
		err = mayHave(text, asker.name, host(from), q.Config)
	}
	if err == nil {
		n.mu.Lock()
		var node string
		if node, err = n.picture.find(asker.name); err == nil && node != q.From {
			err = fmt.Errorf("another process of %s takes part, too", asker.name)
		}
		n.mu.Unlock()
	}
	if err != nil {
		a.Code, a.Error = codeRefused, bounded(err.Error())
		n.refuse(asker.name, from, err)
		return a
	}
	secrets, err := n.cfg.Secrets()
	if err != nil {
		a.Code, a.Error = codeFailed, bounded(err.Error())
		return a
	}
	if len(secrets) == 0 {
		a.Code = codeNone
		return a
	}
	if a.Public, a.Body, err = seal(secrets, q.Public, n.cfg.Key, q.ID); err != nil {
		a.Code, a.Error = codeFailed, bounded(err.Error())
		return a
	}
	n.mu.Lock()
	delete(n.refused, asker.name)
	n.mu.Unlock()
	n.cfg.Logger.Info("the cluster's secrets are given to a machine", "master", n.cfg.Name, "peer", asker.name, "address", from)
	return a
}

// mayHave says why the machine that calls itself name, at the IP address, whose
// configuration has the hash theirs, must not have the secrets, or nil. ours is
// our own configuration's text.
func mayHave(ours []byte, name, address, theirs string) error {
	c, err := config.Parse("the configuration", ours)
	if err != nil {
		return err
	}
	m, ok := c.MasterByName(name)
	if !ok {
		return fmt.Errorf("no master %s in the configuration here", name)
	}
	if want, err := netip.ParseAddr(m.Address); err != nil || want.Unmap().String() != address {
		return fmt.Errorf("the master %s has the address %s in the configuration here, and asks from %s", name, m.Address, address)
	}
	if theirs != HashConfig(ours) {
		return fmt.Errorf("%s has another configuration than this master", name)
	}
	return nil
}

// refuse logs a refusal, unless it was the last one of that machine, too.
func (n *Node) refuse(name, from string, err error) {
	n.mu.Lock()
	known := n.refused[name] == err.Error()
	if len(n.refused) > maxEntries {
		clear(n.refused)
	}
	n.refused[name] = err.Error()
	n.mu.Unlock()
	if !known {
		n.cfg.Logger.Warn("the cluster's secrets are refused to a machine", "master", n.cfg.Name, "peer", name, "address", from, "err", err)
	}
}

func bounded(s string) string {
	if len(s) > maxError {
		return s[:maxError]
	}
	return s
}
