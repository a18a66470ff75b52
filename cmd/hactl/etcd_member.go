package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/exitcode"
)

func etcdMemberCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "member",
		Usage: "see and change who is a member",
		Subcommands: []*cli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "what every member says, with or without a quorum",
				Flags:  etcdAdminFlags(etcdOutputFlag()),
				Action: etcdAction(e, 0, etcdMemberList),
			},
			{
				Name: "add", Usage: "tell the cluster of a new member, as a learner", ArgsUsage: "MASTER",
				Description: "MASTER is one of the configuration's masters. Its machine then takes the place with\n" +
					"hactl etcd member replace MASTER.",
				Flags:  etcdAdminFlags(etcdDryRunFlag()),
				Action: etcdAction(e, 1, etcdMemberAdd),
			},
			{
				Name: "promote", Usage: "let a learner vote, once it has caught up", ArgsUsage: "NAME|ID",
				Flags:  etcdAdminFlags(etcdDryRunFlag()),
				Action: etcdAction(e, 1, etcdMemberPromote),
			},
			{
				Name: "remove", Aliases: []string{"rm"}, Usage: "take a member out of the cluster, for good", ArgsUsage: "NAME|ID",
				Description: "Refused (exit code 3) when too few members would be left to agree on anything.",
				Flags:       etcdAdminFlags(etcdDryRunFlag(), etcdYesFlag()),
				Action:      etcdAction(e, 1, etcdMemberRemove),
			},
			{
				Name: "replace", Usage: "make this machine, whose data are lost or bad, a new member", ArgsUsage: "MASTER",
				Description: "Runs on the machine itself, whose member must be stopped. The old data are kept aside, the old member\n" +
					"is removed, and a new one is added, as which the machine joins when its member is started. Interrupted,\n" +
					"the same command goes on.",
				Flags:  etcdAdminFlags(etcdDryRunFlag(), etcdYesFlag()),
				Action: etcdAction(e, 1, etcdMemberReplace),
			},
		},
	}
}

// etcdMembersJSON is the shape of member list -o json (docs/etcd.md).
type etcdMembersJSON struct {
	Quorum  bool                       `json:"quorum"`           // enough voters answer and follow one leader
	Leader  string                     `json:"leader,omitempty"` // its name
	Members []etcdcluster.MemberStatus `json:"members"`
}

func etcdMemberList(ctx context.Context, _ *cli.Context, t etcdTool) error {
	ms, unreachable := t.Members(ctx)
	slices.SortStableFunc(ms, func(a, b etcdcluster.MemberStatus) int { return strings.Compare(a.Name, b.Name) })
	out := etcdMembersJSON{Members: ms}
	voters, well := 0, 0
	for _, m := range ms {
		if m.Role == etcdcluster.Leader {
			out.Leader = m.Name
		}
		if m.Role != etcdcluster.Learner {
			voters++
			if m.Reachable && m.LeaderID != "" {
				well++
			}
		}
	}
	out.Quorum = voters > 0 && well > voters/2
	if t.json {
		if err := t.printJSON(out); err != nil {
			return err
		}
		return unreachable
	}
	tw := tabwriter.NewWriter(t.env.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tID\tROLE\tTERM\tINDEX\tDB\tIN USE\tVERSION\tENDPOINT\tPROBLEM")
	for _, m := range ms {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", etcdOrDash(m.Name), etcdOrDash(m.IDText), etcdOrDash(string(m.Role)),
			etcdOrDash(etcdNumber(m.Term)), etcdOrDash(etcdNumber(m.Index)), etcdOrDash(etcdSize(m.DBSize)), etcdOrDash(etcdSize(m.DBInUse)), etcdOrDash(m.Version), etcdOrDash(m.Endpoint), etcdOrDash(memberProblem(m)))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if !out.Quorum && unreachable == nil {
		t.say("no quorum: %d of %d voters answer and see a leader", well, voters)
	}
	return unreachable
}

func memberProblem(m etcdcluster.MemberStatus) string {
	var ps []string
	if m.Error != "" {
		ps = append(ps, m.Error)
	}
	if m.Reachable && m.LeaderID == "" {
		ps = append(ps, "sees no leader")
	}
	if len(m.Alarms) > 0 {
		ps = append(ps, "alarm "+strings.Join(m.Alarms, ", "))
	}
	return strings.Join(ps, "; ")
}

func etcdOrDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func etcdNumber(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func etcdSize(n int64) string {
	if n == 0 {
		return ""
	}
	return etcdBytes(n)
}

func etcdMemberAdd(ctx context.Context, c *cli.Context, t etcdTool) error {
	name := c.Args().First()
	m, err := etcdMasterNamed(t.cluster, name)
	if err != nil {
		return err
	}
	s := etcdcluster.Step{Kind: etcdcluster.AddLearner, Peer: etcdcluster.Peer{Name: m.Name, URL: m.EtcdPeerURL()}, Why: "it becomes a member"}
	if err := t.guard(ctx, s); err != nil {
		return err
	}
	if on, err := t.steps(c, "", []etcdcluster.Step{s}); !on || err != nil {
		return err
	}
	added, err := t.Do(ctx, s)
	if err != nil {
		return err
	}
	t.say("%s is a learner now (%s). On that machine: hactl etcd member replace %s, then start its member", name, added.IDText, name)
	return nil
}

func etcdMasterNamed(cluster *config.Cluster, name string) (config.Master, error) {
	m, ok := cluster.MasterByName(name)
	if !ok {
		return m, exitcode.Errorf(exitcode.Usage, "the configuration has no master %q", name).
			WithHint("one of %s; a new one is added to the configuration first", etcdMasterNames(cluster))
	}
	return m, nil
}

// guard asks before anything is said or done.
func (t etcdTool) guard(ctx context.Context, s etcdcluster.Step) error {
	ms, err := t.Members(ctx)
	if err != nil {
		return err
	}
	return etcdcluster.Guard(ms, s)
}

// stepFor makes the step about the member that ref means.
func (t etcdTool) stepFor(ctx context.Context, kind etcdcluster.StepKind, ref, why string) (etcdcluster.Step, []etcdcluster.MemberStatus, error) {
	ms, err := t.Members(ctx)
	if err != nil {
		return etcdcluster.Step{}, ms, err
	}
	m, err := etcdcluster.Find(ms, ref)
	if err != nil {
		return etcdcluster.Step{}, ms, err
	}
	s := etcdcluster.Step{Kind: kind, Peer: etcdcluster.Peer{Name: m.Name}, ID: m.IDText, Why: why}
	if len(m.PeerURLs) > 0 {
		s.Peer.URL = m.PeerURLs[0]
	}
	return s, ms, nil
}

func etcdMemberPromote(ctx context.Context, c *cli.Context, t etcdTool) error {
	s, _, err := t.stepFor(ctx, etcdcluster.Promote, c.Args().First(), "it votes from now on")
	if err != nil {
		return err
	}
	if on, err := t.steps(c, "", []etcdcluster.Step{s}); !on || err != nil {
		return err
	}
	t.say("waiting until %s has caught up …", c.Args().First())
	m, err := t.Do(ctx, s)
	if err != nil {
		return err
	}
	t.say("%s votes", m.Name)
	return nil
}

func etcdMemberRemove(ctx context.Context, c *cli.Context, t etcdTool) error {
	s, ms, err := t.stepFor(ctx, etcdcluster.Remove, c.Args().First(), "it leaves the cluster, and its data are worth nothing to it")
	if err != nil {
		return err
	}
	if err := etcdcluster.Guard(ms, s); err != nil {
		return err
	}
	if on, err := t.steps(c, fmt.Sprintf("Remove member %s (%s) at %s?", s.Peer.Name, s.ID, s.Peer.URL), []etcdcluster.Step{s}); !on || err != nil {
		return err
	}
	if _, err := t.Do(ctx, s); err != nil {
		return err
	}
	t.say("%s is no member any more", s.Peer.Name)
	return nil
}

func etcdMemberReplace(ctx context.Context, c *cli.Context, t etcdTool) error {
	name := c.Args().First()
	if _, err := etcdMasterNamed(t.cluster, name); err != nil {
		return err
	}
	cfg, err := etcdcluster.FromConfig(t.cluster, layoutOf(c), name)
	if err != nil {
		return err
	}
	plan, err := t.PlanReplace(ctx, cfg)
	if err != nil {
		return err
	}
	if plan.Aside != "" {
		t.say("move %s to %s", cfg.DataDir, plan.Aside)
	}
	if on, err := t.steps(c, fmt.Sprintf("Make this machine a new member %s?", name), plan.Steps); !on || err != nil {
		return err
	}
	if _, err := t.Replace(ctx, cfg); err != nil {
		return err
	}
	t.say("%s will join as a learner. Next: start its member (systemctl start hactl-etcd), then hactl etcd member promote %s", name, name)
	return nil
}
