package collect

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/workload"
)

// SourceTimeout is how long Gather waits for one source: less than CallTimeout,
// so that an agent with one hanging source still answers in time.
const SourceTimeout = 700 * time.Millisecond

// The sections of a node's report: the keys of status.Node.Errors.
const (
	SectionProcesses    = "processes"
	SectionBalancer     = "balancer"
	SectionCertificates = "certificates"
	SectionPeers        = "gossip"
	SectionWatchdog     = "watchdog"
)

// Sources are what a master knows about itself, each as a function. A nil one is
// left out.
type Sources struct {
	Name, Address, Version string // of the master, and of hactl

	Processes    func(ctx context.Context) ([]status.Process, error)
	Balancer     func(ctx context.Context) (*status.LocalLB, error)
	Certificates func(ctx context.Context) ([]status.Certificate, error)
	Peers        func(ctx context.Context) ([]status.Peer, error)
	Watchdog     func(ctx context.Context) (*status.Watchdog, error)
}

// Gather calls all sources at the same time. One that errs or hangs is named in
// the node's Errors; the others' answers are there.
func Gather(ctx context.Context, s Sources) *status.Node {
	ctx, cancel := context.WithTimeout(ctx, SourceTimeout)
	defer cancel()
	g := &gathering{errs: map[string]string{}}
	n := &status.Node{Name: s.Name, Address: s.Address, Version: s.Version}
	gather(ctx, g, SectionProcesses, s.Processes, &n.Processes)
	gather(ctx, g, SectionBalancer, s.Balancer, &n.Balancer)
	gather(ctx, g, SectionCertificates, s.Certificates, &n.Certificates)
	gather(ctx, g, SectionPeers, s.Peers, &n.Peers)
	gather(ctx, g, SectionWatchdog, s.Watchdog, &n.Watchdog)
	g.wg.Wait()
	if len(g.errs) > 0 {
		n.Errors = g.errs
	}
	told(s.Processes != nil, g.errs[SectionProcesses], &n.Processes)
	told(s.Certificates != nil, g.errs[SectionCertificates], &n.Certificates)
	told(s.Peers != nil, g.errs[SectionPeers], &n.Peers)
	n.Time = time.Now()
	return n
}

// told makes a list that was told to be empty differ from one that was not told.
func told[T any](asked bool, failed string, list *[]T) {
	if asked && failed == "" && *list == nil {
		*list = []T{}
	}
}

type gathering struct {
	wg   sync.WaitGroup
	mu   sync.Mutex
	errs map[string]string
}

// gather starts f and puts its value into the node, unless it comes too late.
func gather[T any](ctx context.Context, g *gathering, section string, f func(context.Context) (T, error), into *T) {
	if f == nil {
		return
	}
	g.wg.Go(func() {
		v, err := bounded(ctx, f)
		g.mu.Lock()
		defer g.mu.Unlock()
		if err != nil {
			g.errs[section] = words(err)
			return
		}
		*into = v
	})
}

// bounded calls f and gives up on it when ctx ends, whether or not it does.
func bounded[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f(ctx)
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// Processes is the source of a supervisor's units.
func Processes(m workload.Manager) func(context.Context) ([]status.Process, error) {
	return func(ctx context.Context) ([]status.Process, error) {
		units, err := m.Units(ctx)
		if err != nil {
			return nil, fmt.Errorf("ask the supervisor: %w", err)
		}
		all := make([]status.Process, len(units))
		for i, u := range units {
			all[i] = status.Process(u)
		}
		return all, nil
	}
}

// errNoSource is why a section is missing when nobody offers it.
var errNoSource = errors.New("not told")

// missing lists the sections that a node's report lacks, with why.
func missing(n *status.Node) map[string]string {
	lacks := maps.Clone(n.Errors)
	if lacks == nil {
		lacks = map[string]string{}
	}
	for section, there := range map[string]bool{
		SectionProcesses: n.Processes != nil, SectionBalancer: n.Balancer != nil, SectionCertificates: n.Certificates != nil,
	} {
		if _, said := lacks[section]; !there && !said {
			lacks[section] = errNoSource.Error()
		}
	}
	return lacks
}

// sectionWords are the sections as the report's Unknown names them.
var sectionWords = map[string]string{
	SectionProcesses: "processes", SectionBalancer: "balancer's backends", SectionCertificates: "certificates",
	SectionPeers: "gossip", SectionWatchdog: "watchdog",
}

func unknowns(master string, lacks map[string]string) []status.Unknown {
	var all []status.Unknown
	for _, section := range slices.Sorted(maps.Keys(lacks)) {
		what, ok := sectionWords[section]
		if !ok {
			what = section
		}
		all = append(all, status.Unknown{Object: master, What: what, Why: lacks[section]})
	}
	return all
}
