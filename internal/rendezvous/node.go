package rendezvous

import (
	"context"
	"errors"
)

// Node is this machine's part in the rendezvous.
type Node struct {
	cfg     Config
	changed chan struct{}
}

// New returns a node that does not take part yet. It errs when cfg is wrong,
// naming every fault.
func New(cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Node{cfg: cfg, changed: make(chan struct{})}, nil
}

var errUnderWay = errors.New("rendezvous: being written")

// Run takes part until ctx ends, then says goodbye and returns nil. It errs
// when the address cannot be listened on. It runs once.
func (n *Node) Run(context.Context) error { return errUnderWay }

// Refresh tells everybody that this machine's card changed.
func (n *Node) Refresh() {}

// Cards returns the latest cards of all others ever seen, by name, and a channel
// that is closed when the picture is no longer the latest. It may be called
// before, while and after Run runs.
func (n *Node) Cards() ([]Seen, <-chan struct{}) { return nil, n.changed }

// ConfigOf asks the machine called name for its configuration, in its canonical
// text. It may take as long as ctx lasts, and 10 s at most.
func (n *Node) ConfigOf(_ context.Context, _ string) ([]byte, error) { return nil, errUnderWay }

// SecretsOf asks the machine called name for the cluster's secrets. It returns
// ErrNone when that one has none, and ErrRefused, wrapped with its reason, when it does not
// give them to this machine.
func (n *Node) SecretsOf(_ context.Context, _ string) (Secrets, error) { return nil, errUnderWay }

// Conflicts returns, joined, every two machines that have one name or one
// address; nil when there are none.
func (n *Node) Conflicts() error { return nil }

// Unmet is a seed that was not met, and why as far as is known.
type Unmet struct {
	Address string
	// Stranger: somebody answers there who has another token, or whose cluster has
	// another name. A guess from how the connection ends.
	Stranger bool
	Err      error
}

// Unmet lists the seeds that were tried and not met so far.
func (n *Node) Unmet() []Unmet { return nil }
