package singleton

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/leasetest"
	"github.com/hactl/hactl/internal/testwait"
)

func notifier(t *testing.T) *Notifier {
	t.Helper()
	e, err := lease.New(lease.Config{Lock: &leasetest.Memory{}, Holder: "m1"})
	if err != nil {
		t.Fatal(err)
	}
	return &Notifier{Elector: e, Watchdog: 2500 * time.Millisecond}
}

// While holding only answered renewals ping, and each for what is left of the term.
func TestWatchdogWhileHolding(t *testing.T) {
	n := notifier(t)
	s := lease.Status{Role: lease.Holding, Token: 7, Rounds: 3, Renewed: 100 * time.Second}
	if got := n.lines(s, 100*time.Second+200*time.Millisecond); !slices.Equal(got, []string{
		"READY=1", "STATUS=holding, token 7", "WATCHDOG_USEC=2500000", "WATCHDOG=1", // 3 s − 0.3 s − 0.2 s
	}) {
		t.Errorf("first: %q", got)
	}
	if got := n.lines(s, 101*time.Second); len(got) != 0 {
		t.Errorf("without a renewal: %q", got)
	}
	s.Rounds++ // the loop goes round, but nothing was renewed
	if got := n.lines(s, 102*time.Second); len(got) != 0 {
		t.Errorf("without a renewal: %q", got)
	}
	s.Renewed = 101 * time.Second
	if got := n.lines(s, 103*time.Second); !slices.Equal(got, []string{"WATCHDOG_USEC=700000", "WATCHDOG=1"}) {
		t.Errorf("a late answer: %q", got)
	}
	s.Renewed = 102 * time.Second
	if got := n.lines(s, 106*time.Second); len(got) != 0 {
		t.Errorf("an answer that came after the term: %q", got)
	}
}

// While waiting the loop's life pings, whatever etcd says.
func TestWatchdogWhileWaiting(t *testing.T) {
	n := notifier(t)
	s := lease.Status{Role: lease.Waiting}
	if got := n.lines(s, time.Second); !slices.Equal(got, []string{"STATUS=waiting", "WATCHDOG=1"}) {
		t.Errorf("before the first answer: %q", got)
	}
	s = lease.Status{Role: lease.Waiting, Rounds: 1, Round: 2 * time.Second, Err: context.DeadlineExceeded}
	if got := n.lines(s, 3*time.Second); !slices.Equal(got, []string{"STATUS=waiting; etcd does not answer", "WATCHDOG=1"}) {
		t.Errorf("etcd is down: %q", got)
	}
	if got := n.lines(s, time.Minute); len(got) != 0 {
		t.Errorf("the loop hangs: %q", got)
	}
	s.Role, s.Err, s.Rounds, s.Renewed = lease.Holding, nil, 2, 60*time.Second
	n.lines(s, 60*time.Second)
	s.Role, s.Rounds, s.Round = lease.Waiting, 3, 61*time.Second
	if got := n.lines(s, 61*time.Second); !slices.Contains(got, "WATCHDOG_USEC=2500000") {
		t.Errorf("after a term the period is the unit's again: %q", got)
	}
}

func TestStatusText(t *testing.T) {
	n := notifier(t)
	n.PID = func() int { return 42 }
	held := lease.Record{Token: 9, Claim: lease.Claim{Holder: "m2"}}
	for want, s := range map[string]lease.Status{
		"holding, token 7, pid 42":    {Role: lease.Holding, Token: 7},
		"stopping, token 7":           {Role: lease.Stopping, Token: 7},
		"waiting; m2 holds, token 9":  {Role: lease.Waiting, Record: held},
		"waiting; paused by an order": {Role: lease.Waiting, Record: lease.Record{Paused: true}},
		"idle":                        {Role: lease.Idle},
	} {
		if got := n.text(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestNotifierRuns(t *testing.T) {
	n := notifier(t)
	sent := make(chan string, 1000)
	n.Send = func(s string) error { sent <- s; return nil }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx) }()
	run := make(chan error, 1)
	go func() {
		run <- n.Elector.Run(ctx, func(ctx context.Context, _ *lease.Term) error { <-ctx.Done(); return nil })
	}()
	all := ""
	testwait.For(t, "readiness, status and a ping for a term", 20*time.Second, func() error {
		for {
			select {
			case s := <-sent:
				all += s + "\n"
				continue
			default:
			}
			break
		}
		for _, want := range []string{"READY=1", "STATUS=holding", "WATCHDOG_USEC="} {
			if !strings.Contains(all, want) {
				return strconv.ErrSyntax
			}
		}
		return nil
	})
	cancel()
	<-done
	<-run
	if strings.Count(all, "READY=1") != 1 {
		t.Errorf("READY=1 more than once:\n%s", all)
	}
}
