package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/workload"
)

// serve waits until this machine's API server and balancer serve, and every
// singleton has a holder.
func (r *run) serve(ctx context.Context) (string, error) {
	for {
		report, err := r.cfg.Report(ctx, r.cluster)
		if err != nil {
			return "", err
		}
		waits := notServing(report, r.self.Name)
		if len(waits) == 0 {
			r.result.Report = report
			return "API server, balancer and singletons serve", nil
		}
		r.waitFor(strings.Join(waits, "; "))
		if !pause(ctx) {
			return "", timedOut(ctx, strings.Join(waits, "; "), "hactl status")
		}
	}
}

// notServing lists what a new master still lacks. The other masters are not its
// business: they may come later.
func notServing(r *status.Report, self string) []string {
	var waits []string
	add := func(why, format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		if why != "" {
			text += " (" + why + ")"
		}
		waits = append(waits, text)
	}
	i := slices.IndexFunc(r.APIServers, func(a status.APIServer) bool { return a.Master == self })
	switch {
	case i < 0:
		add("", "the API server of %s is not known", self)
	case r.APIServers[i].Ready != status.Yes:
		add(r.APIServers[i].Why, "the API server is not ready")
	}
	j := slices.IndexFunc(r.Balancers, func(b status.Balancer) bool { return b.Name == self })
	switch {
	case j < 0:
		add("", "the balancer of %s is not known", self)
	case r.Balancers[j].Serving != status.Yes:
		add(r.Balancers[j].Why, "the balancer does not serve")
	}
	if len(r.Singletons) == 0 {
		add("", "nothing is known of the singletons")
	}
	for _, s := range r.Singletons {
		if s.Holder == "" && !s.Paused {
			add("", "nobody runs %s yet", s.Name)
		}
	}
	return waits
}

// nodeUnits are what makes a master a node, too, in the order of starting.
var nodeUnits = []string{"containerd.service", "crio.service", "docker.service", "kubelet.service"}

// node enables and starts kubelet and the container runtime, where installed.
// Without a kubelet the machine is no node, and its runtime none of our business.
func (r *run) node(ctx context.Context) (string, error) {
	if _, err := r.cfg.Systemd.State(ctx, "kubelet.service"); errors.Is(err, workload.ErrNoUnit) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	var done []string
	for _, name := range nodeUnits {
		_, err := r.cfg.Systemd.State(ctx, name)
		if errors.Is(err, workload.ErrNoUnit) {
			continue
		}
		if err == nil {
			err = r.cfg.Systemd.Enable(ctx, name)
		}
		if err == nil {
			err = r.cfg.Systemd.Start(ctx, name)
		}
		if err != nil {
			return "", err
		}
		done = append(done, strings.TrimSuffix(name, ".service"))
	}
	return list(done) + " enabled and started", nil
}

// plan says what would be done, and does nothing.
func (r *run) plan(ctx context.Context) error {
	own, err := ReadOwn(r.cfg.Layout, r.cluster)
	if err != nil {
		return err
	}
	r.own.set(own.Phase)
	r.own.setFingerprint(own.CA)
	note := func(step, format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		r.result.Steps = append(r.result.Steps, StepResult{Name: step, Note: text})
		fmt.Fprintf(r.cfg.Progress, "%s: %s\n", step, text)
	}
	note(StepConfig, "cluster %s, this is %s at %s", r.cluster.Name, r.self.Name, r.self.Address)
	if !same(r.cfg.File, r.cfg.Layout.ConfigFile()) {
		note(StepConfig, "install %s as %s", r.cfg.File, r.cfg.Layout.ConfigFile())
	}
	if err := r.check(ctx, nil); err != nil {
		return err
	}
	s := r.situation(nil)
	if n := Decide(s); n.Do == Wait || n.Do == Refuse {
		note(StepMeet, "this machine is %s; alone it would %s: %s", own.Phase, n.Do, n.Why)
	} else {
		note(StepMeet, "this machine is %s; alone it would go on: %s", own.Phase, n.Why)
	}
	want, _, err := r.unitFiles(ctx)
	if err != nil {
		return err
	}
	changed, err := r.cfg.Systemd.Changed(want)
	if err != nil {
		return err
	}
	if len(changed) > 0 {
		note(StepUnits, "write %s", strings.Join(changed, ", "))
	}
	note(StepStart, "enable and start what does not run")
	return nil
}
