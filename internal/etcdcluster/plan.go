package etcdcluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// StepKind is what a Step does.
type StepKind string

// The kinds of steps.
const (
	AddLearner StepKind = "add-learner" // tell the cluster of a new member, which does not vote yet
	Promote    StepKind = "promote"     // let a learner vote, once it has caught up
	Remove     StepKind = "remove"      // take a member out
)

// Step is one change of the membership.
type Step struct {
	Kind StepKind `json:"step"`
	Peer Peer     `json:"member"`       // whom it is about; a member never started has no name
	ID   string   `json:"id,omitempty"` // of that member; unknown before it is added
	Why  string   `json:"why"`
}

func (s Step) String() string {
	who := s.Peer.Name
	if who == "" {
		who = s.Peer.URL
	}
	if s.ID != "" {
		who += " (" + s.ID + ")"
	}
	return fmt.Sprintf("%s %s: %s", s.Kind, who, s.Why)
}

// RefusedError says why a step would put the cluster at risk. It is an
// ErrRefused.
type RefusedError struct {
	Step Step
	Why  string
	Safe string // what would be safe
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s %s: %v: %s", e.Step.Kind, e.Step.who(), ErrRefused, e.Why)
}

// Unwrap returns ErrRefused.
func (e *RefusedError) Unwrap() error { return ErrRefused }

func (s Step) who() string {
	if s.Peer.Name != "" {
		return s.Peer.Name
	}
	if s.Peer.URL != "" {
		return s.Peer.URL
	}
	return s.ID
}

// caughtUpWithin is how many log entries a learner may lag and still be
// promoted. etcd itself asks for nine tenths of the log, which can be many more;
// until a new voter has caught up, it is one that cannot agree to anything.
const caughtUpWithin = 1000

// node is a member as the rules see it.
type node struct {
	peer     Peer
	urls     []string
	id       string
	learner  bool
	leader   bool
	well     bool // it answers and follows a leader
	caughtUp bool // only asked of learners
	corrupt  bool
}

func nodes(members []MemberStatus) []node {
	var index uint64
	for _, m := range members {
		index = max(index, m.Index)
	}
	var ns []node
	for _, m := range members {
		if m.IDText == "" {
			continue // an endpoint behind which no member is known
		}
		n := node{
			peer: Peer{Name: m.Name}, urls: m.PeerURLs, id: m.IDText,
			learner: m.Role == Learner, leader: m.Role == Leader,
			well:     m.Reachable && m.LeaderID != "",
			caughtUp: m.Applied+caughtUpWithin >= index,
			corrupt:  slices.Contains(m.Alarms, "CORRUPT"),
		}
		if len(m.PeerURLs) > 0 {
			n.peer.URL = m.PeerURLs[0]
		}
		ns = append(ns, n)
	}
	return ns
}

// Guard tells whether a step may be taken now: nil, or a *RefusedError. No step
// may be taken, and none may lead to a state, in which the voters that are well
// are fewer than a quorum.
func Guard(members []MemberStatus, s Step) error { return guard(nodes(members), s) }

func guard(ns []node, s Step) error {
	refused := func(safe, format string, args ...any) error {
		return &RefusedError{Step: s, Why: fmt.Sprintf(format, args...), Safe: safe}
	}
	voters, well := count(ns)
	if well < quorum(voters) {
		return refused("bring members back until a quorum is there; if their data are lost for good, restore a snapshot",
			"%d of %d voters are well, a change needs %d to agree", well, voters, quorum(voters))
	}
	i := slices.IndexFunc(ns, s.isAbout)
	switch s.Kind {
	case AddLearner:
		return guardAdd(ns, i, refused)
	case Promote:
		switch {
		case i < 0:
			return refused("hactl etcd member list shows the members", "there is no such member")
		case !ns[i].learner:
			return refused("nothing to do", "it votes already")
		case !ns[i].well:
			return refused("start it, or remove it", "it does not answer, so nobody knows how far it is")
		case !ns[i].caughtUp:
			return refused("wait until it has caught up", "it is still fetching the data")
		}
		return nil
	case Remove:
		switch {
		case i < 0:
			return refused("hactl etcd member list shows the members", "there is no such member")
		case ns[i].learner:
			return nil
		case voters == 1:
			return refused("add another member first", "it is the last voter")
		}
		left := well
		if ns[i].well {
			left--
		}
		if left < quorum(voters-1) {
			return refused("remove the members that are down first, or bring them back",
				"then %d of %d voters would be well, and a quorum is %d", left, voters-1, quorum(voters-1))
		}
		return nil
	default:
		return refused("", "no such step")
	}
}

func guardAdd(ns []node, same int, refused func(string, string, ...any) error) error {
	if same >= 0 {
		return refused("hactl etcd member replace replaces a member whose data are lost", "a member with this peer URL exists: %s", ns[same].id)
	}
	if i := slices.IndexFunc(ns, func(n node) bool { return n.corrupt }); i >= 0 {
		return refused("hactl etcd member replace "+ns[i].peer.Name+", on that machine, first", "the data of %s are damaged; a new member might fetch them", ns[i].peer.Name)
	}
	if i := slices.IndexFunc(ns, func(n node) bool { return n.learner }); i >= 0 {
		who := ns[i].peer.Name
		if who == "" {
			who = ns[i].id
		}
		return refused("hactl etcd member promote "+who+", or remove "+who, "%s is still a learner, and only one can be at a time", who)
	}
	return nil
}

func (s Step) isAbout(n node) bool {
	if s.ID != "" {
		return n.id == s.ID
	}
	return slices.Contains(n.urls, s.Peer.URL)
}

func count(ns []node) (voters, well int) {
	for _, n := range ns {
		if !n.learner {
			voters++
			if n.well {
				well++
			}
		}
	}
	return voters, well
}

func quorum(voters int) int { return voters/2 + 1 }

// Plan returns the steps from members to exactly the wished voters, one change
// at a time: learners that nobody wants leave first, then dead voters that
// nobody wants, then new members come, each as a learner, and last go the
// voters that are well, the leader last of all. Members are told apart by their
// peer URL. A wished member that is down is left alone: it may come back.
//
// Each step keeps to Guard's rule if the learners of steps before catch up. Plan
// errs with a *RefusedError, and no steps, when that cannot be.
func Plan(members []MemberStatus, wish []Peer) ([]Step, error) {
	if err := checkWish(wish); err != nil {
		return nil, err
	}
	ns := nodes(members)
	wanted := func(n node) bool {
		return slices.ContainsFunc(wish, func(p Peer) bool { return slices.Contains(n.urls, p.URL) })
	}
	var steps []Step
	take := func(s Step) error {
		if err := guard(ns, s); err != nil {
			return err
		}
		steps = append(steps, s)
		ns = after(ns, s)
		return nil
	}
	removeAll := func(why string, which func(node) bool) error {
		for _, n := range slices.Clone(ns) {
			if wanted(n) || !which(n) {
				continue
			}
			if err := take(Step{Remove, n.peer, n.id, why}); err != nil {
				return err
			}
		}
		return nil
	}
	promoteAll := func() error {
		for i := range ns {
			if !ns[i].learner || !wanted(ns[i]) {
				continue
			}
			ns[i].well, ns[i].caughtUp = true, true // the step itself waits for it
			if err := take(Step{Promote, ns[i].peer, ns[i].id, "it shall vote"}); err != nil {
				return err
			}
		}
		return nil
	}
	addAll := func() error {
		for _, p := range wish {
			if slices.ContainsFunc(ns, func(n node) bool { return slices.Contains(n.urls, p.URL) }) {
				continue
			}
			if err := take(Step{AddLearner, p, "", "it is missing"}); err != nil {
				return err
			}
			if err := promoteAll(); err != nil {
				return err
			}
		}
		return nil
	}
	for _, do := range []func() error{
		func() error {
			return removeAll("nobody waits for this learner", func(n node) bool { return n.learner })
		},
		func() error { return removeAll("it is down and not wanted", func(n node) bool { return !n.well }) },
		promoteAll,
		addAll,
		func() error { return removeAll("it is not wanted", func(n node) bool { return !n.leader }) },
		func() error { return removeAll("it is not wanted", func(node) bool { return true }) },
	} {
		if err := do(); err != nil {
			return nil, err
		}
	}
	return steps, nil
}

func checkWish(wish []Peer) error {
	if len(wish) == 0 {
		return errors.New("plan the membership: no member is wished for")
	}
	seen := map[string]bool{}
	for _, p := range wish {
		if _, err := parseURL(p.URL); err != nil {
			return fmt.Errorf("plan the membership: member %s: %w", p.Name, err)
		}
		if seen[p.URL] {
			return fmt.Errorf("plan the membership: two members at %s", p.URL)
		}
		seen[p.URL] = true
	}
	return nil
}

// after is the membership once s was taken.
func after(ns []node, s Step) []node {
	ns = slices.Clone(ns)
	i := slices.IndexFunc(ns, s.isAbout)
	switch s.Kind {
	case AddLearner:
		return append(ns, node{peer: s.Peer, urls: []string{s.Peer.URL}, learner: true})
	case Promote:
		ns[i].learner = false
	case Remove:
		wasLeader := ns[i].leader
		ns = slices.Delete(ns, i, i+1)
		if j := slices.IndexFunc(ns, func(n node) bool { return n.well && !n.learner }); wasLeader && j >= 0 {
			ns[j].leader = true
		}
	}
	return ns
}

// Find returns the member that is called, or has the id, or the peer URL, ref;
// it errs with ErrNoMember, or when ref means several.
func Find(members []MemberStatus, ref string) (MemberStatus, error) {
	var found []MemberStatus
	if ref == "" {
		return MemberStatus{}, fmt.Errorf("%w: no name or id given", ErrNoMember)
	}
	for _, m := range members {
		if m.IDText != "" && (m.Name == ref || m.IDText == strings.TrimPrefix(ref, "0x") || slices.Contains(m.PeerURLs, ref)) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return MemberStatus{}, fmt.Errorf("%w: %q", ErrNoMember, ref)
	case 1:
		return found[0], nil
	default:
		return MemberStatus{}, fmt.Errorf("%q means several members: %s and %s; give the id", ref, found[0].IDText, found[1].IDText)
	}
}
