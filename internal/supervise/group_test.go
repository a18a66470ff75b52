package supervise

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errBroken = errors.New("broken")

// journal is what happened, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, s)
}

func (j *journal) want(t *testing.T, lines ...string) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if !slices.Equal(j.lines, lines) {
		t.Errorf("happened %q, want %q", j.lines, lines)
	}
}

// good is a service that runs until it is stopped, then takes took to stop.
func (j *journal) good(name string, took time.Duration) Service {
	return Service{Name: name, Run: func(ctx context.Context) error {
		j.add("+" + name)
		<-ctx.Done()
		time.Sleep(took)
		j.add("-" + name)
		return ctx.Err()
	}}
}

// ready adds a readiness that comes after d.
func (j *journal) ready(s Service, d time.Duration) Service {
	ready := make(chan struct{})
	run := s.Run
	s.Ready = ready
	s.Run = func(ctx context.Context) error {
		time.AfterFunc(d, func() { j.add("ready " + s.Name); close(ready) })
		return run(ctx)
	}
	return s
}

func TestGroupStartsInOrderStopsInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		g := Group{Services: []Service{
			j.ready(j.good("a", 3*time.Second), 2*time.Second),
			j.ready(j.good("b", 2*time.Second), time.Second),
			j.good("c", time.Second),
		}}
		if err := g.Run(ctx); err != nil {
			t.Errorf("Run = %v, want nil: only its context ended", err)
		}
		j.want(t, "+a", "ready a", "+b", "ready b", "+c", "-c", "-b", "-a")
	})
}

func TestGroupEndsWithTheFirstError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := Group{Services: []Service{
			j.good("a", 0),
			{Name: "b", Run: func(context.Context) error { time.Sleep(time.Second); return errBroken }},
			{Name: "c", Run: func(ctx context.Context) error { <-ctx.Done(); return errors.New("flush") }},
		}}
		err := g.Run(t.Context())
		if !errors.Is(err, errBroken) {
			t.Fatalf("Run = %v, want errBroken", err)
		}
		if got, want := err.Error(), "b: broken\nc: flush"; got != want {
			t.Errorf("Run = %q, want %q", got, want)
		}
		j.want(t, "+a", "-a")
	})
}

func TestGroupNilEndsItCleanly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := Group{Services: []Service{
			j.good("a", 0),
			{Name: "b", Run: func(context.Context) error { time.Sleep(time.Second); return nil }},
		}}
		if err := g.Run(t.Context()); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		j.want(t, "+a", "-a")
	})
}

func TestGroupGoesOnWithoutADoneService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		g := Group{Services: []Service{
			{Name: "once", Ready: make(chan struct{}), Run: func(context.Context) error { return ErrDone }},
			j.good("a", 0),
		}}
		if err := g.Run(ctx); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		if took := time.Since(began); took != time.Minute {
			t.Errorf("ended after %v, want 1m: ErrDone must not end the group", took)
		}
		j.want(t, "+a", "-a")
	})
}

func TestGroupAllDoneEnds(t *testing.T) {
	done := Service{Name: "once", Run: func(context.Context) error { return ErrDone }}
	if err := (Group{Services: []Service{done, done}}).Run(t.Context()); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if err := (Group{}).Run(t.Context()); err != nil {
		t.Errorf("empty group: %v, want nil", err)
	}
}

func TestGroupNamesWhatDidNotStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		release := make(chan struct{})
		hang := func(context.Context) error { <-release; return nil }
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		g := Group{Services: []Service{
			{Name: "slow", Run: hang, StopTimeout: 3 * time.Second},
			j.good("a", time.Second),
			{Name: "hung", Run: hang},
		}}
		err := g.Run(ctx)
		var stuck *StuckError
		if !errors.As(err, &stuck) || !slices.Equal(stuck.Names, []string{"hung", "slow"}) {
			t.Errorf("Run = %v, want a StuckError naming hung, slow", err)
		}
		if took := time.Since(began); took != 15*time.Second {
			t.Errorf("took %v, want 1s + 10s (default) + 1s + 3s", took)
		}
		j.want(t, "+a", "-a")
		close(release)
	})
}

func TestGroupStoppedWhileStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		never := j.good("a", 0)
		never.Ready = make(chan struct{})
		if err := (Group{Services: []Service{never, j.good("b", 0)}}).Run(ctx); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		j.want(t, "+a", "-a")
	})
}

func TestGroupFailureWhileStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		never := Service{Name: "n", Ready: make(chan struct{}), Run: func(ctx context.Context) error {
			time.Sleep(time.Second)
			return errBroken
		}}
		if err := (Group{Services: []Service{j.good("a", 0), never, j.good("b", 0)}}).Run(t.Context()); !errors.Is(err, errBroken) {
			t.Errorf("Run = %v, want errBroken", err)
		}
		j.want(t, "+a", "-a")
	})
}

func ExampleGroup() {
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	g := Group{Services: []Service{
		{Name: "store", Ready: ready, Run: func(ctx context.Context) error {
			fmt.Println("store up")
			close(ready)
			<-ctx.Done()
			fmt.Println("store down")
			return nil
		}},
		{Name: "api", StopTimeout: time.Second, Run: func(ctx context.Context) error {
			fmt.Println("api up")
			cancel() // as a signal would
			<-ctx.Done()
			fmt.Println("api down")
			return nil
		}},
	}}
	fmt.Println(g.Run(ctx))
	// Output:
	// store up
	// api up
	// api down
	// store down
	// <nil>
}
