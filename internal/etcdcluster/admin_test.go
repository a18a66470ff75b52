package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/testwait"
)

func adminOf(ms []*master) *Admin {
	var eps []string
	for _, m := range ms {
		eps = append(eps, m.cfg.ClientURL)
	}
	return NewAdmin(AdminConfig{Endpoints: eps})
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// A machine loses its data, is made a new member, joins as a learner and votes
// again; under its old id it never starts.
func TestReplaceALostMember(t *testing.T) {
	t.Parallel()
	ms := newMasters(t, 3)
	startAll(ms)
	mustPut(t, ms[0], "k", "before")
	lost := ms[2]
	admin := adminOf(ms)

	if _, err := admin.Replace(within(t), lost.cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("while it runs: %v, want ErrInUse", err)
	}
	before, err := ReadIntent(lost.cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := lost.stopNow(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(lost.cfg.DataDir, "member", "wal")); err != nil {
		t.Fatal(err)
	}
	lost.start()
	wantErr(t, lost.wait(), ErrDataLost)

	plan, err := admin.PlanReplace(within(t), lost.cfg)
	if err != nil || len(plan.Steps) != 2 || plan.Steps[0].ID != before.MemberID || plan.Aside == "" {
		t.Fatalf("the plan is %+v, %v; want to remove %s and add a learner, and keep the data", plan, err, before.MemberID)
	}
	done, err := admin.Replace(within(t), lost.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(done.Aside, "member", "snap", "db")); err != nil {
		t.Errorf("the old data are not kept: %v", err)
	}
	// Once more is the same: its place is kept.
	if again, err := admin.Replace(within(t), lost.cfg); err != nil || len(again.Steps) != 0 {
		t.Errorf("once more: %+v, %v; want nothing to do", again, err)
	}
	if _, err := admin.Do(within(t), Step{Kind: AddLearner, Peer: Peer{"m9", "https://127.9.9.9:2380"}}); !errors.Is(err, ErrRefused) {
		t.Errorf("a second learner: %v, want a refusal", err)
	}

	lost.start()
	lost.waitSaid("READY=1")
	lost.waitSaid("STATUS=learner")
	m, err := admin.Do(within(t), Step{Kind: Promote, Peer: Peer{lost.cfg.Name, lost.cfg.PeerURL}, Why: "test"})
	if err != nil || m.Role == Learner || m.Name != lost.cfg.Name {
		t.Fatalf("promoted: %+v, %v", m, err)
	}
	after, err := ReadIntent(lost.cfg.StateDir)
	if err != nil || after.MemberID == before.MemberID || after.ClusterID != before.ClusterID || after.State != Used {
		t.Errorf("the intent is %+v, %v; want another member of the same cluster than %+v", after, err, before)
	}
	got, err := lost.client().Get(within(t), "k")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "before" {
		t.Errorf("it reads %v, %v", got, err)
	}
	// Now it counts for the quorum.
	if err := ms[0].stopNow(); err != nil {
		t.Fatal(err)
	}
	mustPut(t, lost, "k", "after")
	// And it restarts as what it now is.
	if err := ms[1].stopNow(); err != nil {
		t.Fatal(err)
	}
	if err := lost.stopNow(); err != nil {
		t.Fatal(err)
	}
	ms[1].start()
	lost.start()
	lost.waitSaid("READY=1")
}

func TestMembershipStepByStep(t *testing.T) {
	t.Parallel()
	ms := newMasters(t, 4)
	startAll(ms[:3])
	admin := adminOf(ms[:3])
	observed, err := admin.Members(within(t))
	if err != nil {
		t.Fatal(err)
	}
	lead := leaderOf(t, ms[:3])
	var wish []Peer
	for _, m := range ms {
		if m != lead {
			wish = append(wish, Peer{m.cfg.Name, m.cfg.PeerURL})
		}
	}
	steps, err := Plan(observed, wish) // m4 comes, the leader goes
	if err != nil || len(steps) != 3 {
		t.Fatalf("plan %v, %v", steps, err)
	}
	for i, s := range steps {
		if _, err := admin.Do(within(t), s); err != nil {
			t.Fatalf("step %d, %v: %v", i, s, err)
		}
		if i == 0 { // the new machine takes its place
			if r, err := admin.Replace(within(t), ms[3].cfg); err != nil || len(r.Steps) != 0 || r.Aside != "" {
				t.Fatalf("%+v, %v; want to take the place that is kept", r, err)
			}
			ms[3].start()
		}
		if _, err := admin.Do(within(t), s); err != nil {
			t.Fatalf("step %d again, %v: %v", i, s, err)
		}
	}
	wantErr(t, lead.wait(), ErrRemoved)
	observed, err = adminOf(ms).Members(within(t))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range observed {
		if m.IDText != "" {
			names = append(names, m.Name)
		}
	}
	if slices.Contains(names, lead.cfg.Name) || !slices.Contains(names, "m4") || len(names) != 3 {
		t.Errorf("the members are %v, want m4 instead of %s", names, lead.cfg.Name)
	}
	if rest, err := Plan(observed, wish); err != nil || len(rest) != 0 {
		t.Errorf("the rest of the plan is %v, %v", rest, err)
	}
}

func TestMoveLeader(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 3, calm)
	admin := NewAdmin(AdminConfig{Endpoints: c.Endpoints()})
	old := c.Leader()
	got, err := admin.MoveLeader(within(t), "")
	if err != nil || got.Name == old.Name {
		t.Fatalf("moved to %+v, %v; want away from %s", got, err, old.Name)
	}
	if now := c.Leader(); now.Name != got.Name {
		t.Errorf("%s leads, want %s", now.Name, got.Name)
	}
	if got, err = admin.MoveLeader(within(t), old.Name); err != nil || c.Leader() != old {
		t.Errorf("back to %s: %+v, %v", old.Name, got, err)
	}
	if _, err = admin.MoveLeader(within(t), old.Name); err != nil {
		t.Errorf("to the leader itself: %v", err)
	}
	if _, err = admin.MoveLeader(within(t), "m9"); !errors.Is(err, ErrNoMember) {
		t.Errorf("to nobody: %v", err)
	}
	down := c.Follower()
	down.Kill()
	if _, err = admin.MoveLeader(within(t), down.Name); !errors.Is(err, ErrRefused) {
		t.Errorf("to one that is down: %v", err)
	}
	for _, m := range c.Members {
		m.Kill()
	}
	if _, err = admin.MoveLeader(within(t), ""); !errors.Is(err, ErrUnreachable) {
		t.Errorf("with all down: %v, want ErrUnreachable", err)
	}
}

func TestDefrag(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 3, calm)
	admin := NewAdmin(AdminConfig{Endpoints: c.Endpoints()})
	cl := c.Client()
	for i := range 30 {
		testwait.For(t, "a large write", patience, func() error {
			_, err := cl.Put(within(t), "big", strings.Repeat(fmt.Sprint(i%10), 1<<18))
			return err
		})
	}
	testwait.For(t, "the compaction", patience, func() error {
		got, err := cl.Get(within(t), "big")
		if err != nil {
			return err
		}
		_, err = cl.Compact(within(t), got.Header.Revision)
		return err
	})
	first := c.Leader()
	// Followers compact when they get to it, and pages get free with later writes.
	testwait.For(t, "free space in every member", patience, func() error {
		if _, err := cl.Put(within(t), "small", "x"); err != nil {
			return err
		}
		for _, m := range observe(t.Context(), c.Endpoints(), nil, patience) {
			if m.DBInUse > m.DBSize/2 {
				return fmt.Errorf("%s uses %d of %d", m.Name, m.DBInUse, m.DBSize)
			}
		}
		return nil
	})
	var order []string
	err := admin.Defrag(within(t), func(d Defragmented) {
		order = append(order, d.Member)
		if d.After >= d.Before || d.Took <= 0 {
			t.Errorf("%+v: no space was given back", d)
		}
	})
	if err != nil || len(order) != 3 || order[2] != first.Name {
		t.Errorf("defragmented %v, %v; want all three and the leader %s last", order, err, first.Name)
	}
	if now := c.Leader(); now == first {
		t.Error("the leadership was not moved")
	}
	testwait.For(t, "a read after it", patience, func() error {
		got, err := cl.Get(within(t), "big")
		if err == nil && len(got.Kvs) != 1 {
			err = fmt.Errorf("%d keys", len(got.Kvs))
		}
		return err
	})
	c.Follower().Kill()
	if err := admin.Defrag(within(t), func(Defragmented) { t.Error("defragmented with a member down") }); !errors.Is(err, ErrRefused) {
		t.Errorf("with a member down: %v, want a refusal", err)
	}
}

func TestSpaceAlarm(t *testing.T) {
	t.Parallel()
	const quota = 2 << 20
	opts := calm
	opts.Quota = quota
	c := etcdtest.Start(t, 3, opts)
	admin := NewAdmin(AdminConfig{Endpoints: c.Endpoints()})
	cl := c.Client()
	value := strings.Repeat("x", 1<<18)
	testwait.For(t, "the alarm", patience, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, _ = cl.Put(ctx, "big", value)
		for _, m := range observe(t.Context(), c.Endpoints(), nil, patience) {
			if slices.Contains(m.Alarms, "NOSPACE") {
				return nil
			}
		}
		return errors.New("no member has it")
	})
	if err := admin.Disarm(within(t)); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), fmt.Sprint(quota)) {
		t.Errorf("disarm while full: %v, want a refusal with the size", err)
	}
	if err := admin.Defrag(within(t), func(Defragmented) {}); !errors.Is(err, ErrRefused) {
		t.Errorf("defrag with the alarm: %v, want a refusal", err)
	}
	n := 0
	if err := admin.RepairSpace(within(t), func(Defragmented) { n++ }); err != nil || n != 3 {
		t.Fatalf("repaired %d members, %v", n, err)
	}
	testwait.For(t, "a write after the repair", patience, func() error {
		_, err := cl.Put(within(t), "k", "v")
		return err
	})
	for _, m := range observe(t.Context(), c.Endpoints(), nil, patience) {
		if len(m.Alarms) > 0 {
			t.Errorf("%s still has %v", m.Name, m.Alarms)
		}
	}
}

func TestPlanReplaceAndUpkeepRefuse(t *testing.T) {
	cfg := Config{Name: "m3", PeerURL: peerURL("m3"), DataDir: "/data"}
	for members3, want := range map[string]string{
		"m1* m2 m3":      "it runs and answers",
		"m1! m2! m3!":    "0 of 3 voters",
		"m1* m2! m3!":    "1 of 3 voters",
		"m1* m2 m3! m4?": "m4 is still a learner",
	} {
		if _, err := planReplace(members(members3), cfg, true); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("replace in %s: %v, want the refusal %q", members3, err, want)
		}
	}
	for ms, steps := range map[string]int{"m1* m2 m3!": 2, "m1* m2 m3?!": 2, "m1* m2": 1} {
		if r, err := planReplace(members(ms), cfg, false); err != nil || len(r.Steps) != steps || r.Aside != "" {
			t.Errorf("replace in %s: %+v, %v; want %d steps", ms, r, err, steps)
		}
	}
	kept := members("m1* m2 m3?!")
	kept[2].Name = ""
	if r, err := planReplace(kept, cfg, false); err != nil || len(r.Steps) != 0 {
		t.Errorf("with a place kept: %+v, %v; want nothing to do", r, err)
	}

	for ms, want := range map[string]string{"m1* m2# m3": "alarm CORRUPT", "m1* m2 m3?": "is a learner", "m1* m2 m3!": "does not answer"} {
		if _, err := DefragOrder(members(ms)); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("defrag in %s: %v, want the refusal %q", ms, err, want)
		}
	}
	if err := mayDisarm(members("m1* m2# m3")); !errors.Is(err, ErrRefused) {
		t.Errorf("disarm a damaged member: %v", err)
	}
}
