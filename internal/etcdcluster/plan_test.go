package etcdcluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// members writes a cluster down: one word a member, as in "m1*" for the leader,
// "m2" a voter, "m3?" a learner, "m4!" one that is down, "m5?…" a learner that
// has not caught up.
func members(text string) []MemberStatus {
	var ms []MemberStatus
	for _, word := range strings.Fields(text) {
		name := strings.TrimRight(word, "*?!…#")
		m := MemberStatus{
			Name: name, IDText: strings.TrimPrefix(name, "m"), Role: Voter, Reachable: true, LeaderID: "1",
			PeerURLs: []string{peerURL(name)}, Index: 5000, Applied: 5000,
		}
		for _, mark := range strings.TrimPrefix(word, name) {
			switch mark {
			case '*':
				m.Role = Leader
			case '?':
				m.Role = Learner
			case '!':
				m.Reachable, m.LeaderID, m.Index, m.Applied = false, "", 0, 0
			case '…':
				m.Applied = 10
			case '#':
				m.Alarms = []string{"CORRUPT"}
			}
		}
		ms = append(ms, m)
	}
	return ms
}

func peerURL(name string) string {
	return "https://10.0.0." + strings.TrimPrefix(name, "m") + ":2380"
}

func wishFor(text string) []Peer {
	var ps []Peer
	for _, name := range strings.Fields(text) {
		ps = append(ps, Peer{name, peerURL(name)})
	}
	return ps
}

func TestGuard(t *testing.T) {
	for _, tt := range []struct {
		members, step, refused string
	}{
		{"m1* m2 m3", "add m4", ""},
		{"m1* m2 m3", "remove m3", ""},
		{"m1* m2 m3", "remove m1", ""},
		{"m1* m2 m3!", "remove m3", ""},
		{"m1* m2 m3!", "add m4", ""},
		{"m1* m2", "remove m2", ""},
		{"m1* m2 m3?", "promote m3", ""},
		{"m1* m2 m3 m4?", "remove m4", ""},
		{"m1* m2 m3 m4?!", "remove m4", ""},
		{"m1* m2 m3 m4! m5!", "remove m5", ""},
		{"m1*", "add m2", ""},

		{"m1* m2 m3!", "remove m2", "then 1 of 2 voters would be well, and a quorum is 2"},
		{"m1* m2 m3!", "remove m1", "then 1 of 2 voters"},
		{"m1* m2 m3 m4! m5!", "remove m3", "then 2 of 4 voters"},
		{"m1*", "remove m1", "the last voter"},
		{"m1* m2?", "remove m1", "the last voter"},
		{"m1 m2! m3!", "remove m3", "1 of 3 voters are well, a change needs 2"},
		{"m1 m2! m3!", "add m4", "1 of 3 voters are well"},
		{"m1! m2! m3!", "remove m1", "0 of 3 voters are well"},
		{"m1* m2 m3", "add m3", "a member with this peer URL exists: 3"},
		{"m1* m2 m3?", "add m4", "m3 is still a learner"},
		{"m1* m2# m3", "add m4", "the data of m2 are damaged"},
		{"m1* m2 m3?…", "promote m3", "still fetching"},
		{"m1* m2 m3?!", "promote m3", "does not answer"},
		{"m1* m2 m3", "promote m3", "votes already"},
		{"m1* m2 m3", "promote m9", "no such member"},
		{"m1* m2 m3", "remove m9", "no such member"},
	} {
		t.Run(tt.members+", "+tt.step, func(t *testing.T) {
			what, name, _ := strings.Cut(tt.step, " ")
			s := Step{Kind: map[string]StepKind{"add": AddLearner, "promote": Promote, "remove": Remove}[what], Peer: Peer{name, peerURL(name)}}
			err := Guard(members(tt.members), s)
			if tt.refused == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			var r *RefusedError
			if !errors.As(err, &r) || !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tt.refused) || r.Safe == "" {
				t.Fatalf("got %v, %+v; want a refusal with %q, and what is safe", err, r, tt.refused)
			}
		})
	}
}

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		members, wish, steps string // steps, or "refused: …"
	}{
		{"m1* m2 m3", "m1 m2 m3", ""},
		{"m1* m2 m3!", "m1 m2 m3", ""}, // it may come back
		{"m1*", "m1 m2 m3", "add-learner m2, promote m2, add-learner m3, promote m3"},
		{"m1* m2 m3!", "m1 m2 m4", "remove m3, add-learner m4, promote m4"},
		{"m1* m2 m3", "m1 m2 m4", "add-learner m4, promote m4, remove m3"},
		{"m1* m2 m3", "m2 m3 m4", "add-learner m4, promote m4, remove m1"},
		{"m1* m2 m3", "m4 m5 m6", "add-learner m4, promote m4, add-learner m5, promote m5, add-learner m6, promote m6, remove m2, remove m3, remove m1"},
		{"m1* m2 m3?", "m1 m2 m3", "promote m3"},
		{"m1* m2 m3?…", "m1 m2 m3", "promote m3"}, // the step waits
		{"m1* m2 m3?!", "m1 m2 m4", "remove m3, add-learner m4, promote m4"},
		{"m1* m2 m3?", "m1 m2", "remove m3"},
		{"m1* m2 m3 m4! m5!", "m1 m2 m3", "remove m4, remove m5"},
		{"m1* m2 m3", "m1", "remove m2, remove m3"},
		{"m1* m2 m3", "m3", "remove m2, remove m1"},
		{"m1 m2! m3!", "m1 m4 m5", "refused: 1 of 3 voters"},
		{"m1* m2 m3!", "m1 m3", "refused: then 1 of 2 voters"}, // m3 is wanted, and down
		{"m1* m2", "", "refused: no member"},
		{"m1* m2", "m1 m1", "refused: two members at"},
	} {
		t.Run(tt.members+" → "+tt.wish, func(t *testing.T) {
			steps, err := Plan(members(tt.members), wishFor(tt.wish))
			if why, ok := strings.CutPrefix(tt.steps, "refused: "); ok {
				if err == nil || !strings.Contains(err.Error(), why) || steps != nil {
					t.Fatalf("got %v, %v; want no steps and the error %q", steps, err, why)
				}
				return
			}
			var got []string
			for _, s := range steps {
				got = append(got, fmt.Sprintf("%s %s", s.Kind, s.Peer.Name))
				if s.Why == "" {
					t.Errorf("step %v has no reason", s)
				}
			}
			if err != nil || strings.Join(got, ", ") != tt.steps {
				t.Errorf("got %v, %v\nwant %s", got, err, tt.steps)
			}
		})
	}
}

// Whatever the cluster and the wish: no step ever leaves fewer well voters than
// a quorum, there is never more than one learner, and the plan ends in the wish.
func TestPlanKeepsTheQuorum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"m1", "m2", "m3", "m4", "m5", "m6", "m7"}
		var text []string
		learner := false
		for _, name := range names {
			mark := rapid.SampledFrom([]string{"-", "", "", "", "!", "?", "?!", "?…"}).Draw(t, name)
			if mark == "-" || strings.HasPrefix(mark, "?") && learner {
				continue
			}
			learner = learner || strings.HasPrefix(mark, "?")
			text = append(text, name+mark)
		}
		ms := members(strings.Join(text, " "))
		if i := slices.IndexFunc(ms, func(m MemberStatus) bool { return m.Role == Voter && m.Reachable }); i >= 0 {
			ms[i].Role = Leader
		}
		wish := wishFor(strings.Join(rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 5, rapid.ID[string]).Draw(t, "wish"), " "))
		steps, err := Plan(ms, wish)
		if err != nil {
			if steps != nil {
				t.Fatalf("an error and steps: %v, %v", err, steps)
			}
			return
		}
		ns := nodes(ms)
		for _, s := range steps {
			voters, well := count(ns)
			if well < quorum(voters) {
				t.Fatalf("%v is taken with %d of %d well", s, well, voters)
			}
			for i := range ns {
				if s.Kind == Promote && s.isAbout(ns[i]) {
					ns[i].well = true // the step waits until it is
				}
			}
			ns = after(ns, s)
			learners := 0
			for i := range ns {
				if ns[i].learner {
					learners++
				}
			}
			if learners > 1 {
				t.Fatalf("%d learners after %v", learners, s)
			}
			if voters, well = count(ns); well < quorum(voters) || voters == 0 {
				t.Fatalf("after %v %d of %d are well", s, well, voters)
			}
		}
		if len(ns) != len(wish) {
			t.Fatalf("from %v by %v it ends in %+v, want %v", text, steps, ns, wish)
		}
		for _, n := range ns {
			if n.learner || !slices.ContainsFunc(wish, func(p Peer) bool { return p.URL == n.urls[0] }) {
				t.Fatalf("it ends with %+v, want %v", n, wish)
			}
		}
	})
}

func TestFind(t *testing.T) {
	ms := members("m1* m2 m3?")
	ms = append(ms, MemberStatus{IDText: "ab", PeerURLs: []string{"https://10.0.0.9:2380"}, Role: Learner}, MemberStatus{Endpoint: "x"})
	for _, ref := range []string{"m2", "2", "0x2", "https://10.0.0.2:2380"} {
		if m, err := Find(ms, ref); err != nil || m.Name != "m2" {
			t.Errorf("%s: got %+v, %v; want m2", ref, m, err)
		}
	}
	if m, err := Find(ms, "ab"); err != nil || m.Role != Learner {
		t.Errorf("a member without a name: %+v, %v", m, err)
	}
	for _, ref := range []string{"m9", ""} {
		if _, err := Find(ms, ref); !errors.Is(err, ErrNoMember) {
			t.Errorf("%q: got %v, want ErrNoMember", ref, err)
		}
	}
	ms[2].Name = "m2"
	if _, err := Find(ms, "m2"); err == nil || !strings.Contains(err.Error(), "several") {
		t.Errorf("an ambiguous name: %v", err)
	}
}
