package bootstrap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/systemd"
)

// The names of what is more than a service.
const (
	Target = "hactl.target"    // starts all units
	Socket = "hactl-lb.socket" // keeps the front door open while its balancer restarts
)

// Units steers units, by their whole names.
type Units interface {
	Start(ctx context.Context, name string) error
	Stop(ctx context.Context, name string) error
	Restart(ctx context.Context, name string) error
	State(ctx context.Context, name string) (workload.State, error)
}

// Files changes which units there are.
type Files interface {
	Changed(want map[string][]byte) ([]string, error)
	Rendered() ([]string, error) // those that hactl wrote
	Install(ctx context.Context, want map[string][]byte) error
	Enable(ctx context.Context, names ...string) error
	Disable(ctx context.Context, names ...string) error
	Remove(ctx context.Context, names ...string) error
}

// UnitFile is a unit file's name and content.
type UnitFile struct {
	Name string
	Text []byte
}

// RenderUnits returns all unit files of the master called name, in the order of
// starting; version is systemd's (0: an old one). Bootstrap installs the same.
func RenderUnits(c *config.Cluster, name string, l layout.Layout, p master.Programs, version int) ([]UnitFile, error) {
	h, err := master.New(c, name, l, p)
	if err != nil {
		return nil, err
	}
	units, err := h.Units()
	if err != nil {
		return nil, err
	}
	self, _ := c.MasterByName(name)
	var files []UnitFile
	var names []string
	add := func(name string, text []byte, err error) error {
		if err != nil {
			return err
		}
		files, names = append(files, UnitFile{name, text}), append(names, name)
		return nil
	}
	for _, u := range units {
		u.LogFile = "" // to the journal
		box := systemd.SandboxOf(l, u.Name)
		if u.Name == master.Balancer {
			box.SocketUnit = Socket
			text, err := systemd.RenderSocket(u.Name, "hactl front door", c.BalancerAddress(self))
			if err := add(Socket, text, err); err != nil {
				return nil, err
			}
		}
		text, err := systemd.Render(u, box, systemd.Options{Version: version, Target: Target, Fingerprint: fingerprint(c, l, u.Name)})
		if err := add(systemd.FileName(u.Name), text, err); err != nil {
			return nil, err
		}
	}
	text, err := systemd.RenderTarget(Target, "hactl: a master of cluster "+c.Name, names...)
	return files, add(Target, text, err)
}

// fingerprint is a hash over what a unit's program reads at its start and its
// command line does not say: a change of it needs a restart. The agent is not
// there, since it follows the configuration by itself.
func fingerprint(c *config.Cluster, l layout.Layout, unit string) string {
	var parts []string
	switch unit {
	case master.Etcd:
		parts = []string{c.Name, fmt.Sprint(c.Etcd.Heartbeat, c.Etcd.Election, c.Etcd.Quota)}
	case master.Balancer:
		parts = []string{fmt.Sprintf("%+v %+v", c.LoadBalancer, c.FrontDoor)}
	case master.APIServer:
		// Those that it does not follow by itself; missing ones are files not in use.
		for _, f := range []string{"audit-policy.yaml", "abac-policy.jsonl"} {
			text, err := os.ReadFile(filepath.Join(l.Kubernetes(), f))
			parts = append(parts, f, string(text), fmt.Sprint(err == nil))
		}
	default:
		return ""
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// unitFiles renders this master's units for the systemd that runs.
func (r *run) unitFiles(ctx context.Context) (map[string][]byte, []string, error) {
	version, err := r.cfg.Systemd.Version(ctx)
	if err != nil {
		return nil, nil, err
	}
	files, err := RenderUnits(r.cluster, r.self.Name, r.cfg.Layout, r.programs(), version)
	if err != nil {
		return nil, nil, err
	}
	want, order := map[string][]byte{}, []string(nil)
	for _, f := range files {
		want[f.Name] = f.Text
		order = append(order, f.Name)
	}
	return want, order, nil
}

// units installs the unit files. They are enabled later, when the machine may be a
// member: before, its next boot would start what refuses to run. Those that change
// are recorded, to be restarted when their turn comes.
func (r *run) units(ctx context.Context) (string, error) {
	want, order, err := r.unitFiles(ctx)
	if err != nil {
		return "", err
	}
	r.order = order
	changed, err := r.cfg.Systemd.Changed(want)
	if err != nil {
		return "", err
	}
	if err := r.journal.mustRestart(running(changed)...); err != nil {
		return "", err
	}
	if err := r.cfg.Systemd.Install(ctx, want); err != nil {
		return "", err
	}
	note := fmt.Sprintf("%d of %d unit files written", len(changed), len(want))
	if len(changed) == 0 {
		note = fmt.Sprintf("%d unit files are as they should be", len(want))
	}
	if r.cfg.Layout.Root != "" {
		return note, nil // the host itself is not ours
	}
	more, err := r.cfg.Systemd.UseHardwareWatchdog(ctx)
	if more != "" {
		note += "; " + more
	}
	return note, err
}

// running are those of the files that something runs by.
func running(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == Target })
}

// bringUp lets one unit run by its present file, and returns when it serves.
func (r *run) bringUp(ctx context.Context, name string) error {
	s, err := r.cfg.Systemd.State(ctx, name)
	if err != nil {
		return err
	}
	stop := r.tellStatus(ctx, name)
	defer stop()
	// One that is still starting does so by the old file, and may never get there.
	if slices.Contains(r.journal.Restart, name) && (s.Active == workload.Active || s.Active == workload.Activating) {
		release, err := r.turn(ctx, name)
		if err != nil {
			return err
		}
		defer release()
		r.say("restarting %s, whose unit changed", name)
		if name == Socket { // it cannot listen anew while its service has the old one
			if err := r.cfg.Systemd.Stop(ctx, systemd.FileName(master.Balancer)); err != nil {
				return err
			}
		}
		if err := r.cfg.Systemd.Restart(ctx, name); err != nil {
			return r.unitError(ctx, name, err)
		}
	} else if err := r.cfg.Systemd.Start(ctx, name); err != nil {
		return r.unitError(ctx, name, err)
	}
	return r.journal.restarted(name)
}

// unitError adds what the unit itself said last.
func (r *run) unitError(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		why := name + " is not active"
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if s, serr := r.cfg.Systemd.State(short, name); serr == nil && s.Status != "" {
			why += ": " + s.Status
		}
		return timedOut(ctx, why, "journalctl -u "+name)
	}
	return err
}

// tellStatus says what a unit that is starting says of itself, until the returned
// func is called.
func (r *run) tellStatus(ctx context.Context, name string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		last := ""
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(2 * time.Second):
			}
			if s, err := r.cfg.Systemd.State(ctx, name); err == nil && s.Status != "" && s.Status != last && s.Active == workload.Activating {
				last = s.Status
				r.say("%s: %s", name, s.Status)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// start lets everything else run. The agent takes over the meeting's port, so that
// ends first.
func (r *run) start(ctx context.Context) (string, error) {
	r.endMeeting()
	// What is there and changed, one after the other; then the rest, together.
	for _, name := range r.order {
		s, err := r.cfg.Systemd.State(ctx, name)
		if err != nil {
			return "", err
		}
		switch {
		case !slices.Contains(r.journal.Restart, name):
		case s.Active == workload.Active || s.Active == workload.Activating:
			if err := r.bringUp(ctx, name); err != nil {
				return "", err
			}
		default: // it starts with the new file
			if err := r.journal.restarted(name); err != nil {
				return "", err
			}
		}
	}
	if err := r.cfg.Systemd.Start(ctx, Target); err != nil {
		return "", err
	}
	return "all units run", r.awaitActive(ctx)
}

// awaitActive waits until every unit is active, and tells of each.
func (r *run) awaitActive(ctx context.Context) error {
	waiting := slices.Clone(r.order)
	for {
		var last string
		for _, name := range slices.Clone(waiting) {
			s, err := r.cfg.Systemd.State(ctx, name)
			switch {
			case err != nil && ctx.Err() == nil:
				return err
			case err == nil && s.Active == workload.Active:
				waiting = slices.DeleteFunc(waiting, func(n string) bool { return n == name })
				if name != Target {
					r.say("%s is active", name)
				}
				continue
			case err == nil && (s.Active == workload.Inactive || s.Active == workload.Failed):
				// The target's start is done, so its job has failed or was taken back.
				if err := r.cfg.Systemd.Start(ctx, name); err != nil {
					r.cfg.Logger.Debug("a unit does not start yet", "unit", name, "err", err)
				}
			}
			last = fmt.Sprintf("%s is %s", name, s.Active)
			for _, more := range []string{s.Status, s.LastExit} {
				if more != "" {
					last += ": " + more
				}
			}
		}
		if len(waiting) == 0 {
			return nil
		}
		if !pause(ctx) {
			return timedOut(ctx, last, "journalctl -u "+waiting[0])
		}
	}
}
