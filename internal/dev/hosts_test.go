package dev

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/child"
)

// TestTheLastDoesNotWait stops two masters whose API servers take SIGTERM
// nothing, as one does that waits for an etcd without a quorum. Alone, each must
// leave such a server its time: the other master still serves.
func TestTheLastDoesNotWait(t *testing.T) {
	f := &Folder{Dir: t.TempDir(), Info: Info{Masters: 2}}
	ended := make(chan error, 2)
	for _, m := range f.MasterNames() {
		l := f.Layout(m)
		s, err := child.New(child.Config{
			Socket: l.SupervisorSocket(), NotifySocket: l.NotifySocket(), Logger: slog.New(slog.DiscardHandler),
			Units: []workload.Unit{
				{Name: master.Agent, Exec: []string{"/bin/sleep", "600"}},
				{Name: master.APIServer, Exec: []string{"/bin/sh", "-c", "trap '' TERM; touch " + l.Root + "/trapped; while :; do sleep 0.1; done"}, StopTimeout: 10 * time.Minute},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		go func() { ended <- s.Run(context.WithoutCancel(t.Context())) }()
		testwait.For(t, m, 30*time.Second, func() error {
			_, err := os.Stat(filepath.Join(l.Root, "trapped"))
			return err
		})
	}

	var progress strings.Builder
	f.endAPIServers(t.Context(), f.MasterNames(), time.Second, &progress)
	for _, m := range f.MasterNames() {
		if !strings.Contains(progress.String(), m+": kube-apiserver was killed") {
			t.Errorf("%s is not named: %q", m, progress.String())
		}
	}
	if err := f.stopHosts(t.Context(), f.MasterNames(), &progress); err != nil {
		t.Error(err)
	}
	for range f.MasterNames() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
