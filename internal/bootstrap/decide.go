package bootstrap

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hactl/hactl/internal/rendezvous"
)

// Do is what a machine may do next on its way into a cluster.
type Do string

// What Decide may answer.
const (
	Wait         Do = "wait"          // not now; Why says for what
	Refuse       Do = "refuse"        // never as things are
	MakeSecrets  Do = "make-secrets"  // make the CA set and the keys that all share
	FetchSecrets Do = "fetch-secrets" // get them from one of From
	Found        Do = "found"         // found the etcd cluster, alone
	Join         Do = "join"          // become a learner of the cluster that there is
	Resume       Do = "resume"        // this machine is a member already
)

// Situation is all that a decision depends on.
type Situation struct {
	Self    string   // this master's name
	Masters []string // all, in the configuration's order
	Config  string   // hash of this machine's configuration
	CA      string   // fingerprint of its CA set; empty: it has none
	Own     rendezvous.Phase
	Others  []Other
	// Without names masters of which the user said that they are not there at
	// the founding.
	Without []string
	// JoinOnly: never make secrets nor found (hactl join).
	JoinOnly bool

	mutant mutant // tests break a rule with it
}

// mutant is a rule that is left out, to prove that the tests notice.
type mutant int

const (
	whole         mutant = iota
	foundUnseen          // found although a master is not seen
	foundAsAny           // found although another master is the first
	forgetGone           // a member that is gone counts for nothing
	freshMayFound        // a cluster that is known is no reason to join it
	anyKeys              // the keys of several clusters are as good as those of one
)

// Other is another machine, as it spoke at the meeting.
type Other struct {
	Name    string
	Phase   rendezvous.Phase
	Config  string   // hash of its configuration
	CA      string   // fingerprint of its CA set; empty: it has none, or does not say
	Alive   bool     // it is at the meeting now
	Without []string // what its user said
}

// Next is a decision with its reason.
type Next struct {
	Do   Do
	From []string // who has the secrets, the best first
	Why  string   // one line for people
	Hint string   // what the user can do; may be empty
	// Differs names machines with another configuration, for a diff.
	Differs []string
}

// Decide says what the machine may do next. It holds the rule that at most one
// machine founds: the first of the configuration's masters (without those that
// the user excepts), and only while it sees every one of them, with the same
// configuration, and none knows of a cluster. What was once said about a cluster
// counts also when the one who said it is gone.
func Decide(s Situation) Next {
	switch s.Own {
	case rendezvous.Removed:
		return Next{Do: Refuse, Why: s.Self + " was removed from the cluster, and stays out",
			Hint: "hactl reset on this machine, then hactl join, makes it a new master"}
	case rendezvous.Member:
		return Next{Do: Resume, Why: "this machine is a member already"}
	}
	if next, one := oneCluster(s); !one && s.mutant != anyKeys {
		return next
	}
	switch s.Own {
	case rendezvous.Holding:
		return decideMember(s)
	default:
		return decideSecrets(s)
	}
}

// oneCluster refuses where the machines that are here have keys of different
// clusters: whichever was joined or founded, the others' would be lost.
func oneCluster(s Situation) (Next, bool) {
	first, ca := s.Self, s.CA
	for _, o := range s.Others {
		switch {
		case !o.Alive || o.CA == "":
		case ca == "":
			first, ca = o.Name, o.CA
		case o.CA != ca:
			return Next{Do: Refuse, Why: fmt.Sprintf("%s and %s have the keys of two different clusters of this name", first, o.Name),
				Hint: "hactl status on each tells which one is to be kept; hactl reset on the others, then the same command again"}, false
		}
	}
	return Next{}, true
}

// decideSecrets is for a machine without the cluster's secrets.
func decideSecrets(s Situation) Next {
	var from, differs, gone []string
	for _, phase := range []rendezvous.Phase{rendezvous.Member, rendezvous.Holding} {
		for _, o := range s.Others {
			switch {
			case o.Phase != phase:
			case !o.Alive:
				gone = append(gone, o.Name)
			case o.Config != s.Config:
				differs = append(differs, o.Name)
			default:
				from = append(from, o.Name)
			}
		}
	}
	switch {
	case len(from) > 0:
		return Next{Do: FetchSecrets, From: from, Why: "the keys are fetched from " + from[0]}
	case len(differs) > 0:
		return differ(differs)
	case len(gone) > 0:
		return Next{Do: Wait, Why: list(gone) + " had the cluster's keys and cannot be reached"}
	}
	if next, may := mayFound(s); !may {
		return next
	}
	return Next{Do: MakeSecrets, Why: "all masters are here and nothing exists: the first makes the keys"}
}

// decideMember is for a machine that has the secrets and is no member.
func decideMember(s Situation) Next {
	for _, o := range s.Others {
		if s.mutant == forgetGone && !o.Alive || s.mutant == freshMayFound {
			continue
		}
		if o.Phase == rendezvous.Member && o.Alive && o.Config != s.Config {
			return differ([]string{o.Name}) // whom to take out is read from it
		}
		if o.Phase == rendezvous.Member {
			return Next{Do: Join, Why: o.Name + " belongs to a cluster, which this machine joins"}
		}
	}
	if next, may := mayFound(s); !may {
		return next
	}
	return Next{Do: Found, Why: "all masters are here and none has a cluster: the first founds it"}
}

// mayFound holds the rule of the one founder; the reason why not is the first
// return value.
func mayFound(s Situation) (Next, bool) {
	wait := func(format string, args ...any) (Next, bool) {
		return Next{Do: Wait, Why: fmt.Sprintf(format, args...)}, false
	}
	for _, o := range s.Others {
		if o.Phase == rendezvous.Removed {
			return Next{Do: Wait, Why: o.Name + " was removed from a cluster, so there is one, and none of its masters is here",
				Hint: "start the cluster's masters; if it is gone for good, hactl reset on " + o.Name}, false
		}
		if o.Phase == rendezvous.Member && s.mutant != forgetGone && s.mutant != freshMayFound { // only asked where nobody can be joined
			return wait("%s belongs to a cluster and cannot be reached", o.Name)
		}
	}
	if s.JoinOnly {
		return Next{Do: Wait, Why: "no master of a cluster is here",
			Hint: "are its agents running, and is the token valid there? hactl token rotate on a running master makes a new one"}, false
	}
	if next, agreed := agreedOnWithout(s); !agreed {
		return next, false
	}
	expected := slices.DeleteFunc(slices.Clone(s.Masters), func(m string) bool { return slices.Contains(s.Without, m) })
	var missing, differs []string
	for _, m := range expected {
		if m == s.Self {
			continue
		}
		i := slices.IndexFunc(s.Others, func(o Other) bool { return o.Name == m && o.Alive })
		switch {
		case i < 0:
			missing = append(missing, m)
		case s.Others[i].Config != s.Config:
			differs = append(differs, m)
		}
	}
	switch {
	case len(differs) > 0:
		return differ(differs), false
	case len(missing) > 0 && s.mutant != foundUnseen:
		return Next{Do: Wait, Why: list(missing) + " not here yet",
			Hint: "run the same command there; a cluster that runs already is found only while its token is valid (hactl token rotate)"}, false
	case expected[0] != s.Self && s.mutant != foundAsAny:
		return wait("%s, the first of the masters, begins", expected[0])
	}
	return Next{}, true
}

// agreedOnWithout keeps two machines from founding because their users excepted
// different masters: who was told nothing follows, others must say the same.
func agreedOnWithout(s Situation) (Next, bool) {
	for _, o := range s.Others {
		switch {
		case !o.Alive:
		case slices.Contains(s.Without, o.Name):
			return Next{Do: Refuse, Why: "--without " + o.Name + ", but " + o.Name + " is here", Hint: "the same command without --without " + o.Name}, false
		case slices.Contains(o.Without, s.Self):
			return Next{Do: Wait, Why: o.Name + " was told to begin without " + s.Self}, false
		case len(o.Without) > 0 && !sameSet(o.Without, s.Without):
			return Next{Do: Wait, Why: o.Name + " was told to begin without " + list(o.Without),
				Hint: "give the same --without everywhere, or on the first master only"}, false
		}
	}
	return Next{}, true
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

func differ(names []string) Next {
	return Next{Do: Wait, Differs: names, Why: "another configuration on " + list(names),
		Hint: "copy the right cluster.yaml to all masters; cluster.yaml.d counts too"}
}

func list(names []string) string {
	switch n := len(names); n {
	case 0:
		return ""
	case 1:
		return names[0]
	default:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
}
