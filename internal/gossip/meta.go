package gossip

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"unicode"

	"github.com/hashicorp/memberlist"
)

// metaMax is the most bytes that a node may say of itself.
const metaMax = memberlist.MetaMaxSize

// Meta is what a node says of itself. It travels with every change, so it is
// small: at most 512 bytes as JSON.
type Meta struct {
	Version   string `json:"v,omitempty"`  // of its program
	APIServer string `json:"as,omitempty"` // IP:PORT of its kube-apiserver
	Balancer  string `json:"lb,omitempty"` // IP:PORT of its load balancer
	Agent     string `json:"ag,omitempty"` // IP:PORT of its agent's API
	Ready     bool   `json:"r,omitempty"`  // its API server was ready when it last looked
	// Leaving is set by Run before it ends: memberlist does not tell its user a
	// goodbye from a death.
	Leaving bool `json:"bye,omitempty"`
}

func (m Meta) encode() ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(text) > metaMax {
		return nil, fmt.Errorf("%d bytes, at most %d are carried", len(text), metaMax)
	}
	return text, nil
}

// decodeMeta reads what another node said. Fields of a newer version are
// passed over; whatever is not as it should be is an error.
func decodeMeta(text []byte) (Meta, error) {
	if len(text) > metaMax {
		return Meta{}, fmt.Errorf("%d bytes, at most %d are carried", len(text), metaMax)
	}
	var m Meta
	if err := json.Unmarshal(text, &m); err != nil {
		return Meta{}, err
	}
	return m, m.validate()
}

func (m Meta) validate() error {
	var errs []error
	for name, addr := range map[string]string{"API server": m.APIServer, "balancer": m.Balancer, "agent": m.Agent} {
		if addr == "" {
			continue
		}
		if ap, err := netip.ParseAddrPort(addr); err != nil || ap.Port() == 0 {
			errs = append(errs, fmt.Errorf("%s %q: want IP:PORT", name, addr))
		}
	}
	if len(m.Version) > 64 {
		errs = append(errs, errors.New("version: longer than 64 bytes"))
	}
	for _, r := range m.Version {
		if !unicode.IsPrint(r) {
			errs = append(errs, fmt.Errorf("version %q: not printable", m.Version))
			break
		}
	}
	return errors.Join(errs...)
}
