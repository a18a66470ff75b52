package rendezvous

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/hactl/hactl/internal/mesh"
)

const (
	// pushPullEvery is the pause between two full exchanges with one peer: how
	// old a card may be whose news were lost.
	pushPullEvery = 2 * time.Second
	// joinEvery is the mean pause between two tries to reach a seed.
	joinEvery = time.Second
	// leaveTimeout bounds the goodbye.
	leaveTimeout = 2 * time.Second
	// answerers is how many questions are answered at the same time.
	answerers = 3
)

// Node is this machine's part in the rendezvous.
type Node struct {
	cfg       Config
	self      nodeName
	metrics   *metrics
	news      chan struct{} // has an element when our card must be told
	questions chan message
	seq       atomic.Uint64

	mu      sync.Mutex
	lib     *memberlist.Memberlist // while Run runs
	picture picture
	current []Seen
	changed chan struct{}
	pending map[string]pending // questions of ours, by their number
	unmet   map[string]*unmet  // seeds, by address
	refused map[string]string  // what was refused last, by the asker's name
}

// New returns a node that does not take part yet. It errs when cfg is wrong,
// naming every fault, and when cfg.Card returns what cannot be told.
func New(cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	card := cfg.Card()
	if err := card.check(); err != nil {
		return nil, fmt.Errorf("rendezvous: this machine's card: %w", err)
	}
	if card.Name != cfg.Name {
		return nil, fmt.Errorf("rendezvous: this machine's card is %s's, want %s's", card.Name, cfg.Name)
	}
	n := &Node{
		cfg: cfg, news: make(chan struct{}, 1), questions: make(chan message, 32), changed: make(chan struct{}),
		pending: map[string]pending{}, unmet: map[string]*unmet{}, refused: map[string]string{},
		self: nodeName{cfg.Name, card.Machine, newID(4)},
	}
	if _, ok := parseNodeName(n.self.String()); !ok {
		return nil, fmt.Errorf("rendezvous: Name %q or the card's machine %q cannot be used", cfg.Name, card.Machine)
	}
	n.picture = picture{
		self:   entry{node: n.self, from: cfg.Bind, alive: true},
		others: map[string]*entry{}, conflict: map[Conflict]time.Time{},
	}
	var err error
	n.metrics, err = newMetrics(cfg.Registerer)
	return n, err
}

// newID returns n random bytes in hex.
func newID(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it returns no error
	return hex.EncodeToString(b)
}

// sayCard is our card as a message.
func (n *Node) sayCard() ([]byte, error) {
	seq := n.seq.Add(1) // before the card is asked for: never an old card with a new number
	card := n.cfg.Card()
	card.Clock = time.Now()
	if card.Machine != n.self.machine || card.Name != n.self.name {
		return nil, errors.New("it changed its name or machine")
	}
	if err := card.check(); err != nil {
		return nil, err
	}
	return message{Kind: sayCard, From: n.self.String(), Card: &card, Seq: seq}.encode()
}

// Run takes part until ctx ends, then says goodbye and returns nil. It errs
// when the address cannot be listened on. It runs once.
func (n *Node) Run(ctx context.Context) error {
	lib, err := n.join()
	if err != nil {
		return fmt.Errorf("rendezvous on %s: %w", n.cfg.Bind, err)
	}
	n.cfg.Logger.Info("the rendezvous is open", "master", n.cfg.Name, "address", n.cfg.Bind)
	var parts sync.WaitGroup
	parts.Go(func() { n.tell(ctx, lib) })
	parts.Go(func() { n.watch(ctx) })
	for range answerers {
		parts.Go(func() { n.answerAll(ctx, lib) })
	}
	for _, s := range n.cfg.Seeds {
		if s != n.cfg.Bind {
			parts.Go(func() { n.seek(ctx, lib, s) })
		}
	}
	parts.Wait() // each is bounded by mesh.StreamTimeout
	n.mu.Lock()
	n.lib = nil
	n.mu.Unlock()
	if err := lib.Leave(leaveTimeout); err != nil {
		n.cfg.Logger.Debug("rendezvous: goodbye was not sent", "master", n.cfg.Name, "err", err)
	}
	if err := lib.Shutdown(); err != nil {
		return fmt.Errorf("rendezvous on %s: stop: %w", n.cfg.Bind, err)
	}
	n.cfg.Logger.Info("the rendezvous is closed", "master", n.cfg.Name, "address", n.cfg.Bind)
	return nil
}

func (n *Node) join() (*memberlist.Memberlist, error) {
	c, err := n.cfg.mesh(n.self.String(), n.metrics.troubles.Inc).Library()
	if err != nil {
		return nil, err
	}
	c.Delegate, c.Events = delegate{n}, delegate{n}
	lib, err := memberlist.Create(c)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.lib = lib
	n.mu.Unlock()
	return lib, nil
}

// Refresh tells everybody that this machine's card changed.
func (n *Node) Refresh() { n.poke() }

func (n *Node) poke() {
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// tell sends our card to everybody when it changed or somebody came.
func (n *Node) tell(ctx context.Context, lib *memberlist.Memberlist) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.news:
		}
		text, err := n.sayCard()
		if err != nil {
			n.cfg.Logger.Error("this machine's card cannot be told", "master", n.cfg.Name, "err", err)
			continue
		}
		var sends sync.WaitGroup
		for _, m := range n.peers() {
			sends.Go(func() {
				if err := lib.SendReliable(m, text); err != nil { // the next full exchange tells it
					n.cfg.Logger.Debug("rendezvous: the card was not sent", "master", n.cfg.Name, "peer", m.Name, "err", err)
				}
			})
		}
		sends.Wait()
	}
}

// watch looks for conflicts, and forgets old ones.
func (n *Node) watch(ctx context.Context) {
	tick := time.NewTicker(mesh.ProbeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			n.mu.Lock()
			if n.review() {
				n.publish()
			}
			n.mu.Unlock()
		}
	}
}

// review brings the conflicts up to date and logs new ones. The lock is held.
func (n *Node) review() (changed bool) {
	fresh, changed := n.picture.review(time.Now())
	for _, c := range fresh {
		n.cfg.Logger.Error("two machines claim to be one", "master", n.cfg.Name, "err", c)
	}
	return changed
}

// publish makes the picture the latest one. The lock is held.
func (n *Node) publish() {
	n.current = n.picture.list()
	close(n.changed)
	n.changed = make(chan struct{})
	alive := 0
	for _, e := range n.picture.others {
		if e.alive {
			alive++
		}
	}
	n.metrics.alive.Set(float64(alive))
}

// Cards returns the latest cards of all others ever seen, by name, and a channel
// that is closed when the picture is no longer the latest. A name comes twice when
// two machines have it (Conflicts). It may be called before, while and after Run
// runs.
func (n *Node) Cards() (cards []Seen, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.current), n.changed
}

// Conflicts returns, joined, every two machines that had one name or one address
// within the last 15 s, each a Conflict; nil when there are none.
func (n *Node) Conflicts() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, c := range n.picture.conflicts() {
		errs = append(errs, c)
	}
	return errors.Join(errs...)
}

// Unmet is a seed that was not met, and why as far as is known.
type Unmet struct {
	Address string
	// Stranger: somebody answers there who has another token, or whose cluster has
	// another name. A guess from how the connection ends.
	Stranger bool
	Err      error
}

type unmet struct {
	err       error
	strangely int // tries in a row that ended as with a stranger
}

// strangeTries is how many tries in a row must end as they do with another
// token: one does when the other side stops.
const strangeTries = 2

// Unmet lists the seeds that were tried and are not met.
func (n *Node) Unmet() []Unmet {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []Unmet
	for _, s := range n.cfg.Seeds {
		if u := n.unmet[s]; u != nil {
			out = append(out, Unmet{Address: s, Stranger: u.strangely >= strangeTries, Err: u.err})
		}
	}
	return out
}

// seek tries to reach one seed whenever nobody takes part from there.
func (n *Node) seek(ctx context.Context, lib *memberlist.Memberlist, seed string) {
	for {
		if n.met(seed) {
			n.note(seed, nil)
		} else {
			_, err := lib.Join([]string{seed})
			n.note(seed, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(mesh.Jitter(joinEvery)):
		}
	}
}

func (n *Node) met(seed string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.picture.others {
		if e.alive && e.from == seed {
			return true
		}
	}
	return false
}

// note records how a try to reach a seed ended.
func (n *Node) note(seed string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil {
		if n.unmet[seed] != nil {
			n.metrics.joins.WithLabelValues("ok").Inc()
		}
		delete(n.unmet, seed)
		return
	}
	n.metrics.joins.WithLabelValues("failed").Inc()
	u := n.unmet[seed]
	if u == nil {
		u = &unmet{}
		n.unmet[seed] = u
	}
	if u.err = explain(seed, err); !strange(err) {
		u.strangely = 0
		return
	}
	u.strangely++
	if u.strangely == strangeTries {
		n.cfg.Logger.Warn("somebody answers with another token or cluster name", "master", n.cfg.Name, "address", seed)
	}
}

// strange tells whether a try to join ended as it does where somebody has another
// key or label: connected, and then cut off or not understood. memberlist keeps
// only the texts of its causes.
func strange(err error) bool {
	text := err.Error()
	return !strings.Contains(text, "dial ") && !strings.Contains(text, "timeout") && !strings.Contains(text, "failed to resolve")
}

func explain(seed string, err error) error {
	if strange(err) {
		return fmt.Errorf("somebody at %s answers with another token or cluster name", seed)
	}
	text := strings.TrimSpace(err.Error())
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+2:] // "connection refused", of a list with one element
	}
	return fmt.Errorf("nobody answers at %s: %s", seed, text)
}
