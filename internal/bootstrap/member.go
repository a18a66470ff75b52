package bootstrap

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/rendezvous"
)

// intent gets this machine the permission to be a member: it founds, or the
// cluster keeps a place for it.
func (r *run) intent(ctx context.Context) (string, error) {
	own, err := ReadOwn(r.cfg.Layout, r.cluster)
	if err != nil {
		return "", err
	}
	if own.Phase == rendezvous.Member {
		return r.resume(ctx, own)
	}
	n, err := r.decide(ctx)
	if err != nil {
		return "", err
	}
	switch n.Do {
	case Found:
		if err := r.found(); err != nil {
			return "", err
		}
		r.become(rendezvous.Member)
		return "this machine founds the cluster: " + n.Why, nil
	case Join:
		note, err := r.join(ctx)
		if err == nil {
			r.become(rendezvous.Member)
		}
		return note, err
	default:
		return "", fmt.Errorf("no place in a cluster, and told to %s", n.Do)
	}
}

// found writes the permission to found a cluster of one. Its token differs from
// any other's, so that nothing of an earlier cluster of that name fits.
func (r *run) found() error {
	self := etcdcluster.Peer{Name: r.self.Name, URL: r.self.EtcdPeerURL()}
	in := etcdcluster.NewIntent(r.cluster.Name, r.self.Name, []etcdcluster.Peer{self})
	in.Token = r.cluster.Name + "-" + strings.ToLower(rand.Text()[:10])
	return etcdcluster.WriteIntent(r.cfg.Layout.State(), r.cfg.Layout.EtcdData(), in)
}

// resume is for a machine that has its permission. It finds out whether the
// cluster still knows it, as far as anybody answers.
func (r *run) resume(ctx context.Context, own Own) (string, error) {
	if own.HasIntent && own.Intent.Action == etcdcluster.Found && own.Intent.State == etcdcluster.Pending {
		return "this machine founds the cluster, as was decided before", nil
	}
	known, err := r.known(ctx, own)
	switch {
	case errors.Is(err, etcdcluster.ErrUnreachable) && !own.Lost():
		return "this machine is a member", nil // its own data say so; nobody else can
	case err != nil && !own.Lost():
		return "", err
	case !known && own.HasData:
		return "", exitcode.Errorf(exitcode.Refused, "the cluster has removed this machine's member (%s), and it stays out", own.Intent.MemberID).
			WithHint("hactl reset on this machine, then hactl join, makes it a new master")
	case !known || own.Lost():
		return r.join(ctx) // the place is gone, or the data are
	}
	return "this machine is a member", nil
}

// known tells whether the cluster lists the member that this machine is.
func (r *run) known(ctx context.Context, own Own) (bool, error) {
	admin, err := r.admin()
	if err != nil {
		return false, err
	}
	ms, err := admin.Members(ctx)
	if err != nil {
		return false, err
	}
	return knows(ms, own), nil
}

// knows is true also where nobody who answers has said anything about members.
func knows(ms []etcdcluster.MemberStatus, own Own) bool {
	if own.Intent.MemberID == "" {
		return true
	}
	listed := false
	for _, m := range ms {
		if m.IDText == own.Intent.MemberID {
			return true
		}
		// Only the word of the same cluster counts.
		listed = listed || m.IDText != "" && m.ClusterID == own.Intent.ClusterID
	}
	return !listed
}

// admin asks and changes the members with this machine's own certificate.
func (r *run) admin() (*etcdcluster.Admin, error) {
	files := etcdcluster.ClientFiles(r.cfg.Layout)
	tlsConfig, err := pki.ClientTLS(pki.Files{Cert: files.Cert, Key: files.Key, CA: files.CA})
	if err != nil {
		return nil, err
	}
	return etcdcluster.NewAdmin(etcdcluster.AdminConfig{
		Endpoints: r.cluster.EtcdClientURLs(), TLS: tlsConfig, Logger: r.cfg.Logger,
	}), nil
}

// join gets this machine a place as a learner. Only one can be at a time, so that
// others may have to be waited for.
func (r *run) join(ctx context.Context) (string, error) {
	admin, err := r.admin()
	if err != nil {
		return "", err
	}
	for {
		note, err := r.takePlace(ctx, admin)
		if err == nil {
			return note, nil
		}
		var final *exitcode.Error
		if errors.As(err, &final) {
			return "", err
		}
		r.waitFor(why(err))
		if !pause(ctx) {
			return "", inVain(ctx, err)
		}
	}
}

// why is a reason to wait that does not change with every try.
func why(err error) string {
	if errors.Is(err, etcdcluster.ErrUnreachable) {
		return "no etcd member of the cluster answers yet"
	}
	return err.Error()
}

// inVain is timedOut with the code of a refusal, where that was the reason.
func inVain(ctx context.Context, err error) error {
	var refused *etcdcluster.RefusedError
	if errors.As(err, &refused) && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return exitcode.Errorf(exitcode.Refused, "%w", err).WithHint("%s", refused.Safe)
	}
	return timedOut(ctx, err.Error(), "hactl status on a running master")
}

// takePlace tries once. An *exitcode.Error is final, all else may pass.
func (r *run) takePlace(ctx context.Context, admin *etcdcluster.Admin) (string, error) {
	ms, err := admin.Members(ctx)
	if err != nil {
		return "", err
	}
	if err := duplicate(ms, r.self.Name, r.self.EtcdPeerURL()); err != nil {
		return "", err
	}
	steps, err := etcdcluster.Plan(ms, etcdcluster.Peers(r.cluster))
	if err != nil {
		return "", err
	}
	var removed []string
	for _, s := range removalsFirst(steps) {
		r.say("%s", s)
		if _, err := admin.Do(ctx, s); err != nil {
			return "", err
		}
		removed = append(removed, s.Peer.Name)
	}
	cfg, err := etcdcluster.FromConfig(r.cluster, r.cfg.Layout, r.self.Name)
	if err != nil {
		return "", err
	}
	done, err := admin.Replace(ctx, cfg)
	if err != nil {
		return "", err
	}
	note := "this machine joins the cluster as a learner"
	if slices.ContainsFunc(done.Steps, func(s etcdcluster.Step) bool { return s.Kind == etcdcluster.Remove }) {
		note += ", in the place of the member of that name, whose data are lost"
	}
	if len(removed) > 0 {
		note += "; " + list(removed) + " left before, dead and not in the configuration"
	}
	return note, nil
}

// duplicate refuses a machine whose name or address belongs to a member that
// answers: it is another machine.
func duplicate(ms []etcdcluster.MemberStatus, name, peerURL string) error {
	for _, m := range ms {
		if m.IDText == "" || !m.Reachable || m.Name == "" {
			continue
		}
		if m.Name == name || slices.Contains(m.PeerURLs, peerURL) {
			return exitcode.Errorf(exitcode.Refused, "another machine is the member %s at %s, and answers", m.Name, strings.Join(m.PeerURLs, ", ")).
				WithHint("give this machine a name and address of its own in cluster.yaml; to replace that one, stop it first")
		}
	}
	return nil
}

// removalsFirst are the steps of a plan that make room before anybody is added:
// learners and dead voters that the configuration does not name.
func removalsFirst(steps []etcdcluster.Step) []etcdcluster.Step {
	n := slices.IndexFunc(steps, func(s etcdcluster.Step) bool { return s.Kind != etcdcluster.Remove })
	if n < 0 {
		return nil // then all that is left are members that are well
	}
	return steps[:n]
}

// etcd starts the member and waits until it serves.
func (r *run) etcd(ctx context.Context) (string, error) {
	if err := r.cfg.Systemd.Enable(ctx, r.order...); err != nil {
		return "", err
	}
	return "", r.bringUp(ctx, master.Etcd+".service")
}

// vote waits until the member votes. The voters' agents promote it, too; whoever
// is first does.
func (r *run) vote(ctx context.Context) (string, error) {
	admin, err := r.admin()
	if err != nil {
		return "", err
	}
	own, err := ReadOwn(r.cfg.Layout, r.cluster)
	if err != nil {
		return "", err
	}
	for {
		ms, err := admin.Members(ctx)
		if err == nil {
			var m etcdcluster.MemberStatus
			if m, err = etcdcluster.Find(ms, own.Intent.MemberID); err == nil {
				if m.Role == etcdcluster.Voter || m.Role == etcdcluster.Leader {
					return fmt.Sprintf("member %s votes", m.IDText), nil
				}
				err = fmt.Errorf("member %s: its role is not known yet", m.IDText)
				if m.Role == etcdcluster.Learner {
					r.waitFor("the member fetches the data before it votes")
					step := etcdcluster.Step{Kind: etcdcluster.Promote, Peer: etcdcluster.Peer{Name: r.self.Name, URL: r.self.EtcdPeerURL()}, ID: m.IDText, Why: "it has caught up"}
					if _, err = admin.Do(ctx, step); err == nil {
						continue
					}
				}
			}
		}
		r.cfg.Logger.Debug("the member does not vote yet", "err", err)
		if !pause(ctx) {
			return "", inVain(ctx, err)
		}
	}
}
