package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/rendezvous"
	"github.com/hactl/hactl/internal/version"
)

// differGrace is how long another configuration is waited for to be corrected:
// a file that is being copied, an agent that is about to read it.
const differGrace = 10 * time.Second

// phase is what the machine's card says, read from several goroutines.
type phase struct {
	mu sync.Mutex
	v  rendezvous.Phase
	ca string // fingerprint of its CA set
}

func (p *phase) get() rendezvous.Phase {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.v
}

func (p *phase) set(v rendezvous.Phase) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.v = v
}

func (p *phase) fingerprint() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ca
}

func (p *phase) setFingerprint(ca string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ca = ca
}

// meet goes to the meeting. A machine that is a member already has nothing to ask
// there, and its agent may be at it.
func (r *run) meet(ctx context.Context) (string, error) {
	if r.own.get() == rendezvous.Member || r.own.get() == rendezvous.Removed {
		return "", nil
	}
	token, err := pki.ReadToken(r.cfg.Layout.Under(r.cluster.Token.File))
	if err != nil {
		return "", err
	}
	if err := pki.TokenValid(token, time.Now()); err != nil {
		return "", err
	}
	key, err := rendezvous.Key(token, r.cluster.Name)
	if err != nil {
		return "", err
	}
	machine, err := rendezvous.MachineID(r.cfg.Layout)
	if err != nil {
		return "", err
	}
	without := slices.Clone(r.cfg.Without)
	slices.Sort(without)
	card := rendezvous.Card{
		Name: r.self.Name, Address: r.self.Address, Machine: machine, Release: version.Release,
		Kubernetes: r.cluster.Kubernetes.Version, Config: rendezvous.HashConfig(r.text), Without: strings.Join(without, ","),
	}
	cfg := rendezvous.Config{
		Name: r.self.Name, Cluster: r.cluster.Name, Bind: r.cluster.JoinAddress(r.self), Key: key,
		Card: func() rendezvous.Card {
			c := card
			c.Phase, c.CA = r.own.get(), r.own.fingerprint()
			return c
		},
		Config:  func() ([]byte, error) { return r.text, nil },
		Secrets: func() (rendezvous.Secrets, error) { return r.handOut(token) },
		Logger:  r.cfg.Logger,
	}
	for _, m := range r.cluster.Masters {
		cfg.Seeds = append(cfg.Seeds, r.cluster.JoinAddress(m))
	}
	return "", r.openMeeting(ctx, cfg)
}

// handOut gives the secrets to a machine that asks, while it is the founding that
// is under way. Once there is a cluster its agents give them: they ask etcd
// whether the token is still the good one.
func (r *run) handOut(token string) (rendezvous.Secrets, error) {
	if err := pki.TokenValid(token, time.Now()); err != nil {
		return nil, err
	}
	seen, _ := r.meeting.Cards()
	if slices.ContainsFunc(seen, func(s rendezvous.Seen) bool { return s.Phase == rendezvous.Member }) {
		return nil, nil
	}
	return master.ReadSecrets(r.cfg.Layout, r.cluster)
}

func (r *run) openMeeting(ctx context.Context, cfg rendezvous.Config) error {
	m, err := r.cfg.Meet(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	r.meeting, r.meetingEnded = m, ended
	go func() { ended <- m.Run(ctx) }()
	r.leave = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.cfg.Logger.Warn("the meeting", "err", err)
		}
	})
	return nil
}

func (r *run) endMeeting() { r.leave() }

// say tells the others what this machine has become.
func (r *run) become(p rendezvous.Phase) {
	r.own.set(p)
	if r.meeting != nil {
		r.meeting.Refresh()
	}
}

// decide asks Decide again and again until it says something else than to wait.
func (r *run) decide(ctx context.Context) (Next, error) {
	var differs time.Time
	for {
		seen, changed, err := r.look()
		if err != nil {
			return Next{}, err
		}
		n := Decide(r.situation(seen))
		switch {
		case n.Do == Refuse:
			return n, exitcode.Errorf(exitcode.Refused, "%s", n.Why).WithHint("%s", n.Hint)
		case n.Do != Wait:
			if err := r.excepted(ctx, n); err != nil {
				return n, err
			}
			return n, r.check(ctx, seen)
		}
		// What only shows together, such as another clock, is told to each machine at
		// once, not only to the one that would begin.
		if err := r.check(ctx, seen); err != nil {
			return n, err
		}
		switch {
		case len(n.Differs) == 0:
			differs = time.Time{}
		case differs.IsZero():
			differs = time.Now()
			r.showDifferences(ctx, n.Differs) // now: it may go away in a moment
		case time.Since(differs) > differGrace:
			return n, r.different(ctx, n)
		}
		why := n.Why
		if u := r.unmet(); u != "" && len(n.Differs) == 0 {
			why += "; " + u
		}
		r.waitFor(why)
		select {
		case <-ctx.Done():
			return n, timedOut(ctx, why, n.Hint)
		case err := <-r.meetingEnded:
			r.meetingEnded <- err
			return n, fmt.Errorf("the meeting ended: %w", err)
		case <-changed:
		case <-time.After(time.Second):
		}
	}
}

// excepted refuses a founding without masters that run all the same: they may be
// the cluster, and hear nothing of this meeting since its token is another one.
func (r *run) excepted(ctx context.Context, n Next) error {
	if n.Do != MakeSecrets && n.Do != Found {
		return nil
	}
	for _, name := range r.cfg.Without {
		m, ok := r.cluster.MasterByName(name)
		if !ok {
			continue
		}
		for _, port := range r.cluster.Ports(m) {
			if port.Address != m.Address {
				continue // only to be reached there
			}
			asked, cancel := context.WithTimeout(ctx, time.Second)
			c, err := (&net.Dialer{}).DialContext(asked, "tcp", port.String())
			cancel()
			if err != nil {
				continue
			}
			_ = c.Close()
			return exitcode.Errorf(exitcode.Refused, "--without %s, but %s answers at %s: it may belong to a cluster that runs", name, port.User, port).
				WithHint("hactl token rotate on it, copy its token here, then hactl bootstrap joins; if that master is nothing any more: hactl reset there")
		}
	}
	return nil
}

// look returns who is at the meeting. Two machines of one name are a mistake that
// nothing can be decided on.
func (r *run) look() ([]rendezvous.Seen, <-chan struct{}, error) {
	if r.meeting == nil {
		return nil, nil, nil
	}
	if err := r.meeting.Conflicts(); err != nil {
		return nil, nil, exitcode.Errorf(exitcode.Refused, "%w", err).
			WithHint("each machine is one master, with its own name and address: --name, and the addresses in cluster.yaml")
	}
	seen, changed := r.meeting.Cards()
	return seen, changed, nil
}

// unmet says who is there and does not understand us: another token.
func (r *run) unmet() string {
	if r.meeting == nil {
		return ""
	}
	var strangers []string
	for _, u := range r.meeting.Unmet() {
		if u.Stranger {
			strangers = append(strangers, u.Address)
		}
	}
	if len(strangers) == 0 {
		return ""
	}
	return "at " + list(strangers) + " somebody answers who has another token, or another cluster's name"
}

func (r *run) situation(seen []rendezvous.Seen) Situation {
	s := Situation{
		Self: r.self.Name, Config: rendezvous.HashConfig(r.text), CA: r.own.fingerprint(), Own: r.own.get(),
		Without: r.cfg.Without, JoinOnly: r.cfg.JoinOnly,
	}
	for _, m := range r.cluster.Masters {
		s.Masters = append(s.Masters, m.Name)
	}
	for _, c := range seen {
		o := Other{Name: c.Name, Phase: c.Phase, Config: c.Config, CA: c.CA, Alive: c.Alive}
		if c.Without != "" {
			o.Without = strings.Split(c.Without, ",")
		}
		s.Others = append(s.Others, o)
	}
	return s
}

// different is the error about another configuration, with what differs.
func (r *run) different(ctx context.Context, n Next) error {
	r.showDifferences(ctx, n.Differs)
	var b strings.Builder
	for _, name := range n.Differs {
		fmt.Fprintf(&b, "\n--- %s\n+++ %s\n%s", r.self.Name, name, r.shown[name])
	}
	return exitcode.Errorf(exitcode.Refused, "%s%s", n.Why, b.String()).WithHint("%s", n.Hint)
}

// showDifferences asks for the configurations of those whose difference was not
// shown yet.
func (r *run) showDifferences(ctx context.Context, names []string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, name := range names {
		if r.shown[name] != "" {
			continue
		}
		theirs, err := r.meeting.ConfigOf(ctx, name)
		if err != nil {
			r.cfg.Logger.Debug("another configuration is not shown", "master", name, "err", err)
			continue
		}
		r.shown[name] = diff(string(r.text), string(theirs))
		r.say("%s has another configuration:\n%s", name, r.shown[name])
	}
}

// secrets makes or fetches what all masters share.
func (r *run) secrets(ctx context.Context) (string, error) {
	if p := r.own.get(); p != rendezvous.Fresh {
		if p == rendezvous.Removed {
			_, err := r.decide(ctx)
			return "", err
		}
		return "the cluster's keys are here", nil
	}
	for {
		n, err := r.decide(ctx)
		if err != nil {
			return "", err
		}
		note := ""
		switch n.Do {
		case MakeSecrets:
			s, err := master.EnsureSecrets(r.cfg.Layout, r.cluster)
			if err != nil {
				return "", err
			}
			r.own.setFingerprint(s.Fingerprint())
			note = "the cluster's keys are made: " + n.Why
		case FetchSecrets:
			from, err := r.fetch(ctx, n.From)
			if errors.Is(err, errOtherSecrets) {
				return "", err
			}
			if err != nil {
				r.waitFor(err.Error())
				if !pause(ctx) {
					return "", timedOut(ctx, err.Error(), n.Hint)
				}
				continue
			}
			note = "the cluster's keys are fetched from " + from
		default:
			return "", fmt.Errorf("no keys, and told to %s", n.Do)
		}
		r.become(rendezvous.Holding)
		return note, nil
	}
}

// errOtherSecrets is wrapped when this machine has the keys of another cluster.
var errOtherSecrets = errors.New("this machine's keys are not the cluster's")

// fetch asks one after the other for the secrets, and keeps them. What is here
// and differs is a fault that asking others does not mend.
func (r *run) fetch(ctx context.Context, from []string) (string, error) {
	var errs []error
	for _, name := range from {
		s, err := r.meeting.SecretsOf(ctx, name)
		if err == nil {
			if err = master.WriteSecrets(r.cfg.Layout, r.cluster, s); err == nil {
				r.own.setFingerprint(s.Fingerprint())
				return name, nil
			}
			if coded := (*exitcode.Error)(nil); errors.As(err, &coded) && coded.Code == exitcode.Refused {
				return "", fmt.Errorf("%w: keys from %s: %w", errOtherSecrets, name, err)
			}
		}
		errs = append(errs, fmt.Errorf("keys from %s: %w", name, err))
	}
	return "", errors.Join(errs...)
}

// pauseTime is between two tries of something that others must make possible.
const pauseTime = 300 * time.Millisecond

// pause waits a little; false: ctx has ended.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pauseTime):
		return true
	}
}
