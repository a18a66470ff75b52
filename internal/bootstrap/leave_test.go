package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/layout"
)

// recorder is a systemd that remembers what it was told; the rest is not asked for.
type recorder struct {
	Systemd
	calls []string
	// stopping is called before a unit is stopped; nil: nothing is.
	stopping func(unit string)
}

func (r *recorder) Start(_ context.Context, name string) error {
	r.calls = append(r.calls, "start "+name)
	return nil
}

func (r *recorder) Stop(_ context.Context, name string) error {
	if r.stopping != nil {
		r.stopping(name)
	}
	r.calls = append(r.calls, "stop "+name)
	return nil
}

func (r *recorder) started() (names []string) {
	for _, c := range r.calls {
		if name, ok := strings.CutPrefix(c, "start "); ok {
			names = append(names, name)
		}
	}
	return names
}

// leaver is the machine of the first of three real members, and its systemd.
func leaver(t *testing.T) (*etcdtest.Cluster, *recorder, Config) {
	t.Helper()
	etcd := etcdtest.Start(t, 3, etcdtest.Options{TLS: true})
	l := layout.Layout{Root: t.TempDir()}
	if err := l.MkdirAll(); err != nil {
		t.Fatal(err)
	}
	write := func(path string, text []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	have, want := etcd.TLSFiles(), etcdcluster.ClientFiles(l)
	for from, to := range map[string]string{have.CA: want.CA, have.Cert: want.Cert, have.Key: want.Key} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(to, text)
	}
	c := config.Default()
	c.Name = "leaving"
	for _, m := range etcd.Members {
		c.Masters = append(c.Masters, config.Master{Name: m.Name, Address: m.Address})
	}
	text, err := config.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	write(l.ConfigFile(), text)

	ms := etcdcluster.Observe(t.Context(), c.EtcdClientURLs(), etcd.TLS())
	if ms[0].IDText == "" {
		t.Fatalf("members %+v", ms)
	}
	in := etcdcluster.NewIntent(c.Name, m1, []etcdcluster.Peer{{Name: m1, URL: c.Masters[0].EtcdPeerURL()}})
	in.State, in.MemberID, in.ClusterID = etcdcluster.Used, ms[0].IDText, ms[0].ClusterID
	if text, err = json.Marshal(in); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(l.State(), "etcd-intent.json"), text)
	sd := &recorder{}
	return etcd, sd, Config{Layout: l, Systemd: sd}
}

// A member that dies while another one leaves is needed no less than that one: the
// leave is refused, late, and everything that it stopped is started again.
func TestALateRefusalStartsEverythingAgain(t *testing.T) {
	etcd, sd, cfg := leaver(t)
	sd.stopping = func(unit string) {
		if unit == "kube-apiserver.service" {
			etcd.Members[2].Stop()
		}
	}
	_, err := Leave(t.Context(), cfg)
	var refused *etcdcluster.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), StepRemove) {
		t.Fatalf("leave: %v, want it refused at %s", err, StepRemove)
	}
	want := []string{"kube-apiserver.service", "podmaster@kube-scheduler.service", "podmaster@kube-controller-manager.service", "hactl-agent.service"}
	if got := sd.started(); !slices.Equal(got, want) {
		t.Errorf("started again: %v, want %v", got, want)
	}
	if slices.Contains(sd.calls, "stop hactl-etcd.service") {
		t.Errorf("the member was stopped: %v", sd.calls)
	}
	last, err := ReadJournal(cfg.Layout)
	if err != nil || last.GivenUp != StepRemove || last.Cut() != "" {
		t.Errorf("journal %+v, %v: want it given up at %s, and any command to be possible", last, err, StepRemove)
	}
	if err := mayFollow(last, CommandBootstrap); err != nil {
		t.Errorf("bootstrap afterwards: %v", err)
	}

	// The member is back, and so is the leave.
	etcd.Members[2].Restart()
	etcd.Members[0].Stop() // etcd panics when it is asked while it finds out that it was removed
	sd.stopping, sd.calls = nil, nil
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := newRun(cfg)
	if err := r.identifyMaster(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.removeMember(ctx); err != nil {
		t.Errorf("with three members: %v", err)
	}
	if _, _, listed, err := r.myRemoval(ctx); err != nil || listed {
		t.Errorf("the member is still listed: %v, %v", listed, err)
	}
	// Now that it is out nothing may be started again, whatever fails.
	if err := r.stay(ctx, StepRemove); err != nil || len(sd.started()) > 0 {
		t.Errorf("a member that is out: %v, started %v", err, sd.started())
	}
}

// A command that was cut, or refused before it did anything, is not undone.
func TestNothingIsStartedThatALeaveDidNotRefuse(t *testing.T) {
	_, sd, cfg := leaver(t)
	ctx, cancel := context.WithCancel(t.Context())
	sd.stopping = func(unit string) {
		if unit == "kube-apiserver.service" {
			cancel()
		}
	}
	if _, err := Leave(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("leave that is cut: %v", err)
	}
	if got := sd.started(); len(got) > 0 {
		t.Errorf("a command that was cut started %v", got)
	}
	if last, err := ReadJournal(cfg.Layout); err != nil || last.Cut() == "" || last.GivenUp != "" {
		t.Errorf("journal %+v, %v: want it cut", last, err)
	}
	r := newRun(cfg)
	if err := r.identifyMaster(); err != nil {
		t.Fatal(err)
	}
	if err := r.stay(t.Context(), StepCheck); err != nil || len(sd.started()) > 0 {
		t.Errorf("refused at the check: %v, started %v", err, sd.started())
	}
}
