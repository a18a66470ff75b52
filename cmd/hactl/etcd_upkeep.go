package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/etcdcluster"
)

func etcdSnapshotCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "snapshot",
		Usage: "save the cluster's data",
		Subcommands: []*cli.Command{{
			Name: "save", Usage: "write a checked snapshot to a file that does not exist yet", ArgsUsage: "FILE",
			Flags:  etcdAdminFlags(etcdOutputFlag()),
			Action: etcdAction(e, 1, etcdSnapshotSave),
		}},
	}
}

func etcdSnapshotSave(ctx context.Context, c *cli.Context, t etcdTool) error {
	last := time.Now()
	s, err := t.Save(ctx, c.Args().First(), func(done, total int64) {
		if time.Since(last) > 2*time.Second {
			last = time.Now()
			t.say("%s of %s", etcdBytes(done), etcdBytes(total))
		}
	})
	if err != nil {
		return err
	}
	if t.json {
		return t.printJSON(s)
	}
	tw := tabwriter.NewWriter(t.env.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FILE\tSIZE\tREVISION\tMEMBER\tVERSION\tSHA256")
	fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%s\t%s\n", s.File, etcdBytes(s.Size), s.Revision, s.Member, s.Version, s.SHA256)
	return tw.Flush()
}

func etcdDefragCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "defrag",
		Usage: "give free space back to the disks: followers one by one, the leader last after moving it",
		Description: "Refused (exit code 3) while an alarm, a learner or a member that does not answer is there: a member\n" +
			"that is defragmented answers nobody.",
		Flags:  etcdAdminFlags(etcdDryRunFlag()),
		Action: etcdAction(e, 0, etcdDefrag),
	}
}

func etcdDefrag(ctx context.Context, _ *cli.Context, t etcdTool) error {
	ms, err := t.Members(ctx)
	if err != nil {
		return err
	}
	order, err := etcdcluster.DefragOrder(ms)
	if err != nil {
		return err
	}
	for _, m := range order {
		t.say("%s (%s): %s, of which %s are in use", m.Name, m.Role, etcdBytes(m.DBSize), etcdBytes(m.DBInUse))
	}
	if t.dryRun {
		t.say("dry run: nothing was changed")
		return nil
	}
	return t.Defrag(ctx, t.sayDefragmented)
}

func (t etcdTool) sayDefragmented(d etcdcluster.Defragmented) {
	t.say("%s: %s became %s in %v", d.Member, etcdBytes(d.Before), etcdBytes(d.After), d.Took.Round(time.Millisecond))
}

func etcdMoveLeaderCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "move-leader", Usage: "let another member lead", ArgsUsage: "[NAME|ID]",
		Description: "Without an argument the follower that is furthest leads.",
		Flags:       etcdAdminFlags(),
		Action: func(c *cli.Context) error {
			return etcdAction(e, min(c.NArg(), 1), func(ctx context.Context, c *cli.Context, t etcdTool) error {
				m, err := t.MoveLeader(ctx, c.Args().First())
				if err != nil {
					return err
				}
				t.say("%s leads", m.Name)
				return nil
			})(c)
		},
	}
}

func etcdAlarmCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "alarm",
		Usage: "see alarms, and end them once their cause is gone",
		Subcommands: []*cli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "the alarms of all members", Flags: etcdAdminFlags(etcdOutputFlag()),
				Action: etcdAction(e, 0, etcdAlarmList),
			},
			{
				Name: "disarm", Usage: "take back the alarms whose cause is gone", Flags: etcdAdminFlags(),
				Description: "Refused (exit code 3) while a database is nearly full, or a damaged one is still a member's.",
				Action: etcdAction(e, 0, func(ctx context.Context, _ *cli.Context, t etcdTool) error {
					if err := t.Disarm(ctx); err != nil {
						return err
					}
					t.say("no alarms are left")
					return nil
				}),
			},
			{
				Name: "repair", Usage: "end NOSPACE: compact all history, defragment every member, disarm", Flags: etcdAdminFlags(etcdYesFlag()),
				Action: etcdAction(e, 0, func(ctx context.Context, c *cli.Context, t etcdTool) error {
					question := "Compact all history and defragment every member, one by one? Clients that watch old revisions begin anew."
					if on, err := t.steps(c, question, nil); !on || err != nil {
						return err
					}
					if err := t.RepairSpace(ctx, t.sayDefragmented); err != nil {
						return err
					}
					t.say("no alarms are left")
					return nil
				}),
			},
		},
	}
}

// etcdAlarmJSON is one element of alarm list -o json (docs/etcd.md).
type etcdAlarmJSON struct {
	Member string `json:"member"`
	ID     string `json:"id"`
	Alarm  string `json:"alarm"`
}

func etcdAlarmList(ctx context.Context, _ *cli.Context, t etcdTool) error {
	ms, err := t.Members(ctx)
	if err != nil {
		return err
	}
	alarms := []etcdAlarmJSON{}
	for _, m := range ms {
		for _, a := range m.Alarms {
			alarms = append(alarms, etcdAlarmJSON{m.Name, m.IDText, a})
		}
	}
	if t.json {
		return t.printJSON(alarms)
	}
	if len(alarms) == 0 {
		t.say("no alarms")
		return nil
	}
	tw := tabwriter.NewWriter(t.env.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "MEMBER\tID\tALARM\tNEXT")
	for _, a := range alarms {
		next := "hactl etcd alarm repair"
		if a.Alarm == "CORRUPT" {
			next = strings.TrimSpace("hactl etcd member replace " + a.Member + ", on that machine")
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", a.Member, a.ID, a.Alarm, next)
	}
	return tw.Flush()
}
