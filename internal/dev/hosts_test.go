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

// API servers that take SIGTERM for nothing, as one does that waits for an etcd without
// a quorum, get their time as long as another master runs. The last one is not waited for.
func TestTheLastDoesNotWait(t *testing.T) {
	f := &Folder{Dir: t.TempDir(), Info: Info{Masters: 2}, lastDrain: time.Second}
	ended := make(chan error, 2)
	for m, stopTimeout := range map[string]time.Duration{"m1": 3 * time.Second, "m2": 10 * time.Minute} {
		l := f.Layout(m)
		s, err := child.New(child.Config{
			Socket: l.SupervisorSocket(), NotifySocket: l.NotifySocket(), Logger: slog.New(slog.DiscardHandler),
			Units: []workload.Unit{
				{Name: master.Agent, Exec: []string{"/bin/sleep", "600"}},
				{Name: master.APIServer, Exec: []string{"/bin/sh", "-c", "trap '' TERM; touch " + l.Root + "/trapped; while :; do sleep 0.1; done"}, StopTimeout: stopTimeout},
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
	for i, killed := range []string{"", "m2: kube-apiserver was killed"} {
		m := f.MasterNames()[i]
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		var progress strings.Builder
		if err := f.stopHosts(ctx, []string{m}, &progress); err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		if said := progress.String(); !strings.HasPrefix(said, killed) || killed == "" && said != "" {
			t.Errorf("%s: said %q, want %q", m, said, killed)
		}
	}
	for range f.MasterNames() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
