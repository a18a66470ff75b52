package rendezvous

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/hactl/hactl/internal/pki"
)

// Phase is how far a machine has come.
type Phase string

// The phases.
const (
	Fresh   Phase = "fresh"   // nothing of a cluster here
	Holding Phase = "holding" // has the cluster's secrets, and was never an etcd member
	Member  Phase = "member"  // is or was an etcd member (intent used, or data on disk)
	Removed Phase = "removed" // its member was removed
)

// Card is what a machine says of itself.
type Card struct {
	Name       string `json:"name"`       // the master's, by its configuration
	Address    string `json:"address"`    // the master's, by its configuration: an IP address
	Machine    string `json:"machine"`    // tells machines apart that have one name; see MachineID
	Release    string `json:"release"`    // of hactl
	Kubernetes string `json:"kubernetes"` // version configured
	Config     string `json:"config"`     // HashConfig of its configuration
	Phase      Phase  `json:"phase"`
	Cluster    string `json:"cluster,omitempty"` // etcd's cluster id, when Member
	CA         string `json:"ca,omitempty"`      // Secrets.Fingerprint, once it has them: tells clusters of one name apart
	Serving    bool   `json:"serving,omitempty"` // an agent speaks, not a bootstrap that is under way
	// Without names, sorted and joined by commas, the masters of which the user said
	// that they are not there at the founding: who was told something else must know.
	Without string `json:"without,omitempty"`
	// Clock is when this was said, by the machine's own clock. The Node sets it.
	Clock time.Time `json:"clock"`
}

// Seen is another machine's latest card.
type Seen struct {
	Card
	From   string        // IP:PORT of its rendezvous, as seen from here
	SeenAt time.Time     // when the card came
	Alive  bool          // it takes part now, as far as is known
	Skew   time.Duration // its clock minus ours when the card came; off by the time of one message
}

// Secrets are the files that all masters share: content by path relative to the
// master's root, as in "etc/kubernetes/pki/ca.crt".
type Secrets map[string][]byte

// Fingerprint is a hash over the certificates among s, which are no secret: two
// machines with the same one belong to the same cluster. Empty: there are none.
func (s Secrets) Fingerprint() string {
	sum, any := sha256.New(), false
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if strings.HasSuffix(name, ".crt") {
			any = true
			fmt.Fprintf(sum, "%s %d\n%s", name, len(s[name]), s[name])
		}
	}
	if !any {
		return ""
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// HashConfig is what Card.Config says of a configuration in its canonical text
// (config.Marshal's).
func HashConfig(canonical []byte) string {
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:])
}

// Key derives the key of Config from the cluster's token (pki.ErrToken).
func Key(token, cluster string) ([]byte, error) {
	return pki.DeriveKey(token, "rendezvous of cluster "+cluster, 32)
}

// maxField is the most bytes that one field of a card may have.
const maxField = 128

// check reports what in a card cannot be.
func (c Card) check() error {
	var errs []error
	for _, f := range []struct{ name, value string }{
		{"name", c.Name}, {"address", c.Address}, {"machine", c.Machine}, {"release", c.Release},
		{"Kubernetes version", c.Kubernetes}, {"configuration's hash", c.Config}, {"cluster id", c.Cluster}, {"CA's fingerprint", c.CA}, {"without", c.Without},
	} {
		if len(f.value) > maxField || !printable(f.value) {
			errs = append(errs, fmt.Errorf("%s: not printable, or longer than %d bytes", f.name, maxField))
		}
	}
	if c.Name == "" || c.Machine == "" {
		errs = append(errs, errors.New("name or machine: empty"))
	}
	if _, err := netip.ParseAddr(c.Address); err != nil {
		errs = append(errs, errors.New("address: not an IP address"))
	}
	switch c.Phase {
	case Fresh, Holding, Member, Removed:
	default:
		errs = append(errs, fmt.Errorf("phase %.20q: not known", c.Phase))
	}
	return errors.Join(errs...)
}

func printable(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return false
		}
	}
	return true
}

// same tells whether two cards say the same, whenever.
func (c Card) same(o Card) bool {
	c.Clock, o.Clock = time.Time{}, time.Time{}
	return c == o
}
