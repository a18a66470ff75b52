package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/workload/systemd"
)

// The steps of leave, in their order.
const (
	StepCheck      = "check"      // the others stay a quorum
	StepAgent      = "agent"      // the watchdog is quiet
	StepSingletons = "singletons" // handed over
	StepDrain      = "drain"      // the API server finishes what it has and ends
	StepLeader     = "leader"     // another member leads
	StepRemove     = "remove"     // the others remove the member
	StepStopEtcd   = "stop-etcd"
	StepDisable    = "disable"  // nothing starts at the next boot
	StepBalancer   = "balancer" // the last, so that clients have time to go
)

// LeaveSteps lists the steps of leave in their order.
func LeaveSteps() []string {
	return []string{StepCheck, StepAgent, StepSingletons, StepDrain, StepLeader, StepRemove, StepStopEtcd, StepDisable, StepBalancer}
}

// Leave takes this master out of its cluster. The data and keys stay on it. It
// errs with an *etcdcluster.RefusedError, before anything is stopped, when the
// others would not be a safe quorum; begun again it goes on where it was cut.
func Leave(ctx context.Context, cfg Config) (*Result, error) {
	r := newRun(cfg)
	if err := r.identifyMaster(); err != nil {
		return nil, err
	}
	r.result = Result{Cluster: r.cluster.Name, Master: r.self.Name, DryRun: cfg.DryRun, Steps: []StepResult{}}
	if cfg.DryRun {
		return &r.result, r.planLeave(ctx)
	}
	j, last, err := openJournal(cfg.Layout, CommandLeave)
	if err != nil {
		return nil, err
	}
	defer j.close()
	r.journal, j.Master, j.told = j, r.self.Name, cfg.Journaled
	if cut := last.Cut(); cut != "" && last.Command == CommandLeave {
		r.say("going on: the run before was cut at the step %s", cut)
	}
	for _, s := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{StepCheck, r.mayLeave},
		{StepAgent, r.stopping("the agent is stopped", systemd.FileName(master.Agent))},
		{StepSingletons, r.stopping("singletons are handed over", r.podmasters()...)},
		{StepDrain, r.stopping("the API server has finished its requests and ended", systemd.FileName(master.APIServer))},
		{StepLeader, r.handLeadership},
		{StepRemove, r.removeMember},
		{StepStopEtcd, r.stopEtcd},
		{StepDisable, r.disable},
		{StepBalancer, r.stopping("the balancer is stopped", Socket, systemd.FileName(master.Balancer))},
	} {
		if err := r.step(ctx, s.name, s.do); err != nil {
			return &r.result, errors.Join(err, r.stay(ctx, s.name))
		}
	}
	return &r.result, j.finish()
}

// stayTimeout is how long starting everything again may take.
const stayTimeout = 2 * time.Minute

// stay makes a whole master again of one that may not leave after all, as long as
// its member is one of the cluster. A command that was cut is not undone: it goes
// on when it is run again.
func (r *run) stay(ctx context.Context, step string) error {
	if ctx.Err() != nil || !slices.Contains([]string{StepAgent, StepSingletons, StepDrain, StepLeader, StepRemove}, step) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stayTimeout)
	defer cancel()
	if _, _, listed, err := r.myRemoval(ctx); err != nil || !listed {
		return nil //nolint:nilerr // it may be out: hactl leave goes on from here
	}
	r.say("this machine stays a master: what was stopped is started again")
	units := append([]string{systemd.FileName(master.APIServer)}, r.podmasters()...)
	for _, name := range append(units, systemd.FileName(master.Agent)) {
		if err := r.cfg.Systemd.Start(ctx, name); err != nil {
			return fmt.Errorf("start %s again: %w", name, err)
		}
	}
	r.journal.GivenUp = step
	return r.journal.finish()
}

// identifyMaster finds out which member this machine is, by its own record: the
// configuration may not name it any more. A machine that never was one cannot
// leave.
func (r *run) identifyMaster() error {
	var err error
	if r.cluster, err = config.Load(r.cfg.Layout); err != nil {
		return err
	}
	own, err := ReadOwn(r.cfg.Layout, r.cluster)
	if err != nil {
		return err
	}
	if !own.HasIntent {
		return exitcode.Errorf(exitcode.Usage, "this machine is no master: it never was a member of a cluster").WithHint("hactl reset removes what else is here")
	}
	r.memberID = own.Intent.MemberID
	if m, ok := r.cluster.MasterByName(own.Intent.Member); ok {
		r.self = m
		return nil
	}
	r.self = config.Master{Name: own.Intent.Member}
	return nil
}

func (r *run) podmasters() []string {
	var names []string
	for _, s := range r.cluster.Singletons {
		names = append(names, systemd.FileName(master.Podmaster+s.Name))
	}
	return names
}

// myRemoval is the step that takes this member out; false: it is out already.
func (r *run) myRemoval(ctx context.Context) (etcdcluster.Step, []etcdcluster.MemberStatus, bool, error) {
	admin, err := r.admin()
	if err != nil {
		return etcdcluster.Step{}, nil, false, err
	}
	ms, err := admin.Members(ctx)
	if err != nil {
		return etcdcluster.Step{}, nil, false, err
	}
	s := etcdcluster.Step{
		Kind: etcdcluster.Remove, Peer: etcdcluster.Peer{Name: r.self.Name},
		ID: r.memberID, Why: "its master leaves",
	}
	listed := slices.ContainsFunc(ms, func(m etcdcluster.MemberStatus) bool { return m.IDText == r.memberID })
	return s, ms, listed, nil
}

func (r *run) mayLeave(ctx context.Context) (string, error) {
	s, ms, listed, err := r.myRemoval(ctx)
	if err != nil {
		return "", err
	}
	if !listed {
		return "the member is out already", nil
	}
	return spare(ms), leaveGuard(ms, s)
}

// leaveGuard is etcdcluster.Guard, in the words of who leaves.
func leaveGuard(ms []etcdcluster.MemberStatus, s etcdcluster.Step) error {
	err := etcdcluster.Guard(ms, s)
	var refused *etcdcluster.RefusedError
	if errors.As(err, &refused) && strings.Contains(refused.Why, "last voter") {
		return &etcdcluster.RefusedError{Step: refused.Step, Why: "this is the last master, and the cluster would be gone", Safe: "add another master first; to end the cluster: hactl reset --force"}
	}
	return err
}

// spare says how many masters may be lost afterwards.
func spare(ms []etcdcluster.MemberStatus) string {
	voters := 0
	for _, m := range ms {
		if m.IDText != "" && m.Role != etcdcluster.Learner {
			voters++
		}
	}
	left := voters - 1
	return fmt.Sprintf("%d of %d voters will be left, of which %d may be lost", left, voters, max(left-1, 0)/2)
}

// stopping is a step that stops units.
func (r *run) stopping(note string, names ...string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		for _, name := range names {
			if err := r.cfg.Systemd.Stop(ctx, name); err != nil {
				return "", err
			}
		}
		return note, nil
	}
}

func (r *run) handLeadership(ctx context.Context) (string, error) {
	_, ms, listed, err := r.myRemoval(ctx)
	if err != nil || !listed {
		return "", err
	}
	i := slices.IndexFunc(ms, func(m etcdcluster.MemberStatus) bool { return m.IDText == r.memberID })
	if ms[i].Role != etcdcluster.Leader {
		return "", nil
	}
	admin, err := r.admin()
	if err != nil {
		return "", err
	}
	next, err := admin.MoveLeader(ctx, "")
	if err != nil {
		return "", err
	}
	return next.Name + " leads etcd now", nil
}

func (r *run) removeMember(ctx context.Context) (string, error) {
	s, ms, listed, err := r.myRemoval(ctx)
	if err != nil || !listed {
		return "", err
	}
	if err := leaveGuard(ms, s); err != nil {
		return "", err
	}
	admin, err := r.admin()
	if err != nil {
		return "", err
	}
	if _, err := admin.Do(ctx, s); err != nil {
		return "", err
	}
	return fmt.Sprintf("member %s is removed", r.memberID), nil
}

func (r *run) stopEtcd(ctx context.Context) (string, error) {
	if err := r.cfg.Systemd.Stop(ctx, systemd.FileName(master.Etcd)); err != nil {
		return "", err
	}
	return "etcd is stopped, its data are kept", etcdcluster.MarkRemoved(r.cfg.Layout.State())
}

// disable keeps everything from starting at the next boot.
func (r *run) disable(ctx context.Context) (string, error) {
	names, err := r.cfg.Systemd.Rendered()
	if err != nil || len(names) == 0 {
		return "", err
	}
	if err := r.cfg.Systemd.Stop(ctx, Target); err != nil {
		return "", err
	}
	return "nothing starts at the next boot", r.cfg.Systemd.Disable(ctx, names...)
}

func (r *run) planLeave(ctx context.Context) error {
	note, err := r.mayLeave(ctx)
	if err != nil {
		return err
	}
	for _, s := range append([]StepResult{{Name: StepCheck, Note: note}},
		StepResult{Name: StepAgent, Note: "stop the agent"},
		StepResult{Name: StepSingletons, Note: "hand singletons over: stop " + list(r.podmasters())},
		StepResult{Name: StepDrain, Note: "let the API server finish its requests, and end"},
		StepResult{Name: StepRemove, Note: "remove member " + r.memberID},
		StepResult{Name: StepDisable, Note: "stop and disable everything, the balancer last; data and keys stay"},
	) {
		r.result.Steps = append(r.result.Steps, s)
		fmt.Fprintf(r.cfg.Progress, "%s: %s\n", s.Name, s.Note)
	}
	return nil
}
