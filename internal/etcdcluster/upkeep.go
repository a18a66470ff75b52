package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// defragTimeout is how long one member's defragmentation may take: 8 GiB on a
// slow disk.
const defragTimeout = 10 * time.Minute

// Defragmented tells what defragmenting one member did.
type Defragmented struct {
	Member        string
	Before, After int64 // bytes of its database file
	Took          time.Duration
}

// DefragOrder returns the members in the order in which they may be
// defragmented: followers, then the leader. It errs with a *RefusedError while
// an alarm, a learner or a member that does not answer is there: a member that
// is defragmented answers nobody, so the others must all be well.
func DefragOrder(ms []MemberStatus) ([]MemberStatus, error) {
	refused := func(why, safe string) error {
		return &RefusedError{Step: Step{Kind: "defrag", Peer: Peer{Name: "the cluster"}}, Why: why, Safe: safe}
	}
	var order []MemberStatus
	for _, m := range ms {
		switch {
		case len(m.Alarms) > 0:
			return nil, refused(fmt.Sprintf("%s has the alarm %s", nameOf(m), strings.Join(m.Alarms, ", ")), "hactl etcd alarm repair")
		case m.Role == Learner:
			return nil, refused(fmt.Sprintf("%s is a learner", nameOf(m)), "promote or remove it first")
		}
	}
	if err := allWell(ms); err != nil {
		return nil, refused(err.Error(), "bring it back first")
	}
	for _, m := range ms {
		if m.Role != Leader {
			order = append(order, m)
		}
	}
	for _, m := range ms {
		if m.Role == Leader {
			order = append(order, m)
		}
	}
	return order, nil
}

func allWell(ms []MemberStatus) error {
	for _, m := range ms {
		switch {
		case !m.Reachable:
			return fmt.Errorf("%s does not answer: %s", nameOf(m), m.Error)
		case m.LeaderID == "":
			return fmt.Errorf("%s sees no leader", nameOf(m))
		}
	}
	return nil
}

func nameOf(m MemberStatus) string {
	switch {
	case m.Name != "":
		return m.Name
	case m.IDText != "":
		return m.IDText
	default:
		return m.Endpoint
	}
}

// Defrag gives the members' free space back to their disks: followers one by
// one, each only when all members are well, then moves the leadership and does
// the old leader. done is told of each. It errs with a *RefusedError as
// DefragOrder does.
func (a *Admin) Defrag(ctx context.Context, done func(Defragmented)) error {
	ms, err := a.Members(ctx)
	if err != nil {
		return err
	}
	if _, err := DefragOrder(ms); err != nil {
		return err
	}
	return a.defragAll(ctx, ms, done)
}

// defragAll does so whatever alarms there are.
func (a *Admin) defragAll(ctx context.Context, ms []MemberStatus, done func(Defragmented)) error {
	left := map[uint64]bool{}
	for _, m := range ms {
		left[m.ID] = true
	}
	for len(left) > 0 {
		ms, err := a.waitWell(ctx)
		if err != nil {
			return fmt.Errorf("defragment: %w", err)
		}
		i := slices.IndexFunc(ms, func(m MemberStatus) bool { return left[m.ID] && m.Role != Leader })
		if i < 0 && len(ms) > 1 { // only the leader is left
			if _, err := a.MoveLeader(ctx, ""); err != nil {
				return fmt.Errorf("defragment the leader: %w", err)
			}
			continue
		}
		m := ms[max(i, 0)]
		if !left[m.ID] {
			return nil // the members changed meanwhile
		}
		d, err := a.defragOne(ctx, m)
		if err != nil {
			return err
		}
		delete(left, m.ID)
		done(d)
	}
	return nil
}

func (a *Admin) defragOne(ctx context.Context, m MemberStatus) (Defragmented, error) {
	d := Defragmented{Member: nameOf(m), Before: m.DBSize}
	began := time.Now()
	err := a.callFor(ctx, defragTimeout, m, func(ctx context.Context, conn *grpc.ClientConn) error {
		c := etcdserverpb.NewMaintenanceClient(conn)
		if _, err := c.Defragment(ctx, &etcdserverpb.DefragmentRequest{}); err != nil {
			return err
		}
		st, err := c.Status(ctx, &etcdserverpb.StatusRequest{})
		d.After = st.GetDbSize()
		return err
	})
	d.Took = time.Since(began)
	if err != nil {
		return d, fmt.Errorf("defragment %s: %w", d.Member, plainError(err))
	}
	a.cfg.Logger.Info("etcd member defragmented", "member", d.Member, "before", d.Before, "after", d.After, "took", d.Took)
	return d, nil
}

// waitWell waits until every member answers and follows a leader.
func (a *Admin) waitWell(ctx context.Context) ([]MemberStatus, error) {
	until := time.Now().Add(settleTime)
	for {
		ms, err := a.Members(ctx)
		if err == nil {
			err = allWell(ms)
		}
		if err == nil {
			return ms, nil
		}
		if time.Now().After(until) || ctx.Err() != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(againAfter):
		}
	}
}

// quotaShare is how full a database may be, in percent, for its alarm to be
// disarmed: fuller, it would ring again at once.
const quotaShare = 90

// Disarm takes back all alarms whose cause is gone. It errs with a
// *RefusedError for a database that is still full, and for one that is damaged
// as long as it is a member's.
func (a *Admin) Disarm(ctx context.Context) error {
	ms, err := a.Members(ctx)
	if err != nil {
		return err
	}
	if err := mayDisarm(ms); err != nil {
		return err
	}
	lead, err := leader(ms)
	if err != nil {
		return fmt.Errorf("disarm: %w", err)
	}
	err = a.call(ctx, lead, func(ctx context.Context, conn *grpc.ClientConn) error {
		c := etcdserverpb.NewMaintenanceClient(conn)
		got, err := c.Alarm(ctx, &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_GET})
		if err != nil {
			return err
		}
		for _, al := range got.GetAlarms() {
			if _, err := c.Alarm(ctx, &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_DEACTIVATE, MemberID: al.GetMemberID(), Alarm: al.GetAlarm()}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("disarm: %w", plainError(err))
	}
	return nil
}

func mayDisarm(ms []MemberStatus) error {
	for _, m := range ms {
		refused := func(why, safe string) error {
			return &RefusedError{Step: Step{Kind: "disarm", Peer: Peer{Name: nameOf(m)}}, Why: why, Safe: safe}
		}
		if slices.Contains(m.Alarms, "CORRUPT") {
			return refused("its data differ from the others'", fmt.Sprintf("hactl etcd member replace %s, on that machine, and then disarm", nameOf(m)))
		}
		// Whoever raised it: every member must have room.
		if m.Reachable && m.DBQuota > 0 && m.DBSize*100 >= m.DBQuota*quotaShare {
			return refused(fmt.Sprintf("its database has %d of %d bytes", m.DBSize, m.DBQuota), "hactl etcd alarm repair, and find what fills it; or a larger quota in the configuration")
		}
	}
	return nil
}

// RepairSpace ends the alarm NOSPACE: it compacts all history, defragments every
// member, and disarms. done is told of each member. It errs with a *RefusedError
// when a member is damaged, or still full afterwards.
func (a *Admin) RepairSpace(ctx context.Context, done func(Defragmented)) error {
	ms, err := a.Members(ctx)
	if err != nil {
		return err
	}
	for _, m := range ms {
		if slices.Contains(m.Alarms, "CORRUPT") {
			return mayDisarm(ms)
		}
	}
	lead, err := leader(ms)
	if err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	if lead.Revision > 1 {
		err = a.callFor(ctx, defragTimeout, lead, func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := etcdserverpb.NewKVClient(conn).Compact(ctx, &etcdserverpb.CompactionRequest{Revision: lead.Revision, Physical: true})
			return err
		})
		if err != nil && !strings.Contains(err.Error(), "has been compacted") {
			return fmt.Errorf("compact at revision %d: %w", lead.Revision, plainError(err))
		}
	}
	if err := a.defragAll(ctx, ms, done); err != nil {
		return err
	}
	return a.Disarm(ctx)
}
