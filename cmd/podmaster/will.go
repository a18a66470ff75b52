package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/lease/history"
	"github.com/hactl/hactl/internal/workload/systemd"
)

// will is what the guard needs to release the lock when podmaster has died: then
// the others need not wait for the term to expire.
type will struct {
	Endpoints []string          `json:"endpoints"`
	TLS       etcdlock.TLSFiles `json:"tls"`
	Key       string            `json:"key"`
	Token     int64             `json:"token"`
	Claim     lease.Claim       `json:"claim"`
	Unit      bool              `json:"unit"` // the work is a unit: it must be seen to have ended
	// Target is that unit. What binds it to ours is a file that anybody can delete.
	Target  *systemd.Target `json:"target,omitempty"`
	History string          `json:"history,omitempty"`
	// Run is systemd's id of the run that the will is of.
	Run string `json:"run,omitempty"`
}

// newWill is podmaster's will for one term; unit is nil when the work is none.
func (o *options) newWill(token int64, unit *systemd.Target) will {
	return will{
		Endpoints: o.endpoints, TLS: o.tls, Key: o.key, Token: token,
		Claim: lease.Claim{Holder: o.whoami, Address: o.lease.Address, Priority: o.lease.Priority, TTL: o.lease.TTL},
		Unit:  unit != nil, Target: unit, History: o.history, Run: os.Getenv("INVOCATION_ID"),
	}
}

// will is what the guard is given at the start of the work; it lies in a file besides.
func (o *options) will(token int64, unit *systemd.Target) json.RawMessage {
	b, err := json.Marshal(o.newWill(token, unit))
	if err != nil {
		return nil // strings and numbers only: cannot fail
	}
	if file := willFile(); file != "" {
		if err := atomicfile.Write(file, b, 0o600); err != nil {
			o.log.Debug("no will is left for the unit's ExecStopPost=", "err", err)
		}
	}
	return b
}

// willFile is where the will lies for the ExecStopPost= of our unit, which is the
// one that can release when systemd has killed podmaster and guard together; empty:
// we are not a unit of systemd's.
func willFile() string {
	unit := ownUnit()
	if unit == "" || os.Getenv("INVOCATION_ID") == "" {
		return ""
	}
	dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":")
	return filepath.Join(cmp.Or(dir, "/run/podmaster"), "will-"+unit+".json")
}

func forgetWill() {
	if file := willFile(); file != "" {
		_ = os.Remove(file)
	}
}

// ownGroup is the control group in which systemd keeps this process.
func ownGroup() string {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	var unified, named string
	for line := range strings.Lines(string(data)) {
		switch f := strings.SplitN(strings.TrimSpace(line), ":", 3); {
		case len(f) < 3:
		case f[1] == "":
			unified = f[2]
		case f[1] == "name=systemd":
			named = f[2]
		}
	}
	for _, group := range []string{unified, named} {
		group = strings.TrimSuffix(group, "/.control") // where ExecStopPost= may run
		if strings.HasSuffix(group, ".service") {
			return group
		}
	}
	return ""
}

// ownUnit is the service that this process belongs to, or empty.
func ownUnit() string {
	if group := ownGroup(); group != "" {
		return filepath.Base(group)
	}
	return ""
}

// end ends the unit that the will is about, whether or not it is still bound to ours.
func (w will) end(ctx context.Context) error {
	switch {
	case !w.Unit:
		return nil
	case w.Target == nil:
		return errors.New("the will does not name its unit")
	default:
		return systemd.End(ctx, *w.Target, 0)
	}
}

// stopped is podmaster as ExecStopPost= of its own unit, when everything in that
// is dead. It ends the unit that it ran and what is bound to it, at once where the
// unit's own stop hangs, and releases the lock that a killed podmaster still held.
func stopped(ctx context.Context) error {
	group := ownGroup()
	raw, err := os.ReadFile(willFile())
	var w will
	if err == nil {
		err = json.Unmarshal(raw, &w)
	}
	left := err == nil && w.Run == os.Getenv("INVOCATION_ID")
	if !left { // it ended in order
		w = will{}
	}
	ended := errors.Join(w.end(ctx), systemd.EndBound(ctx))
	if w.Unit && ended != nil || !left {
		return ended
	}
	if err := systemd.Alone(group); err != nil {
		return err
	}
	// Later the term has expired by itself, and podmaster waits to be started again.
	ctx, cancel := context.WithTimeout(ctx, w.Claim.TTL)
	defer cancel()
	if err := releaseWill(ctx, raw); err != nil {
		return err
	}
	forgetWill()
	return nil
}

// releaseOrphan runs in the guard, after podmaster died and everything is dead.
func releaseOrphan(ctx context.Context, raw json.RawMessage) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := releaseWill(ctx, raw); err != nil {
		log.Warn("podmaster died; the lock is left to expire", "err", err)
		return
	}
	log.Warn("podmaster died; its command was killed and the lock released", "pid", strconv.Itoa(os.Getpid()))
}

func releaseWill(ctx context.Context, raw json.RawMessage) error {
	var w will
	if err := json.Unmarshal(raw, &w); err != nil {
		return err
	}
	tlsConfig, err := w.TLS.Config()
	if err != nil {
		return err
	}
	client, err := etcdlock.Dial(etcdlock.Config{Endpoints: w.Endpoints, TLS: tlsConfig})
	if err != nil {
		return err
	}
	defer client.Close()
	lock, err := client.Lock(w.Key)
	if err != nil {
		return err
	}
	held := lock.Resume(w.Token, w.Claim)
	if w.History != "" {
		if out, err := history.Open(w.History); err == nil { // the release matters more
			defer out.Close()
			held = history.New(history.Config{Who: w.Claim.Holder, Out: out}).Held(held)
		}
	}
	return held.Release(ctx, lease.Release{Reason: "podmaster died"})
}
