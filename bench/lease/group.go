package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/lease/history"
	"github.com/hactl/hactl/internal/process"
)

// The contestants.
const (
	ours     = "podmaster"
	lockPeer = "etcdctl lock"
	kubePeer = "kube-scheduler" // client-go's leader election
)

const workArg = "__work"

// work writes its pid and the boot-time clock to file every 2 ms.
func work(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for tick := time.NewTicker(2 * time.Millisecond); ; <-tick.C {
		if _, err := fmt.Fprintf(f, "%d %d\n", os.Getpid(), lease.Boottime{}.Now()); err != nil {
			return err
		}
	}
}

// group is some candidates for one key, podmasters or etcdctls, on as many hosts.
type group struct {
	s     *scene
	who   string
	key   string
	log   string             // of the work, all candidates together
	args  []string           // podmaster's, besides the usual
	cand  []*process.Process // by host
	tails []*history.Tail    // podmaster's: what it asked of the lock
}

// newGroup starts a group whose first candidate to start is the one on host first.
func (s *scene) newGroup(ctx context.Context, who string, size, first int, args ...string) (*group, error) {
	s.mu.Lock()
	s.runs++
	g := &group{s: s, who: who, key: fmt.Sprintf("bench%d", s.runs), args: args, cand: make([]*process.Process, size)}
	s.groups = append(s.groups, g)
	s.mu.Unlock()
	return g, g.begin(ctx, first)
}

// begin starts the candidates, first the one on host first.
func (g *group) begin(ctx context.Context, first int) error {
	g.log, g.tails = filepath.Join(g.s.dir, g.key), nil
	size := len(g.cand)
	for i := range size {
		g.tails = append(g.tails, &history.Tail{Name: g.history(i)})
	}
	for i := range size {
		if err := g.start((first + i) % size); err != nil {
			return err
		}
		if i == 0 {
			if err := until(ctx, "the work to begin", func() error { _, err := g.last(); return err }); err != nil {
				return err
			}
		}
	}
	return g.mend(ctx)
}

// again ends a group that came to no order by itself, and starts it with another key.
func (g *group) again(ctx context.Context, why error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	g.s.progress.say("a group of %s begins anew: %v", g.who, why)
	g.stop()
	g.s.mu.Lock()
	g.s.runs++
	g.key = fmt.Sprintf("bench%d", g.s.runs)
	g.s.mu.Unlock()
	return g.begin(ctx, 0)
}

func (g *group) history(i int) string { return fmt.Sprintf("%s.history%d", g.log, i) }

func (g *group) start(i int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	eps := strings.Join(endpoints(i%hosts), ",")
	args := []string{"--etcd-servers", eps, "--key", g.key, "--whoami", name(i), "--log-level", "error", "--history", g.history(i)}
	args = append(append(args, g.args...), "--", self, workArg, g.log)
	log, err := os.OpenFile(filepath.Join(g.s.dir, "candidates.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cfg := process.Config{Path: g.s.o.podmaster, KeepGroup: true, Args: args, Stderr: log}
	if g.who == lockPeer {
		cfg.Path, cfg.Args = g.s.o.etcdctl, []string{"--endpoints", eps, "lock", "--ttl", "3", g.key, "--", self, workArg, g.log}
	}
	g.cand[i], err = process.Start(cfg)
	return err
}

func name(i int) string { return fmt.Sprintf("m%d", i+1) }

// mend starts the candidates that have ended, and waits until one holds and all the
// others wait.
func (g *group) mend(ctx context.Context) error {
	return until(ctx, "all candidates of "+g.key+" to be there", func() error {
		for i, p := range g.cand {
			select {
			case <-p.Done():
				if err := g.start(i); err != nil {
					return err
				}
			default:
			}
		}
		return g.complete(ctx)
	})
}

// end kills a candidate and what it left.
func (g *group) end(i int) error {
	p := g.cand[i]
	_ = p.SignalTree(syscall.SIGKILL) // it may have ended
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := p.KillRemaining(ctx)
	p.Wait()
	return err
}

// complete returns nil when one candidate holds and the others wait.
func (g *group) complete(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if g.who == lockPeer {
		resp, err := g.s.client.Get(call, g.key+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err == nil && resp.Count != int64(len(g.cand)) {
			err = fmt.Errorf("%d in the queue", resp.Count)
		}
		return err
	}
	info, err := etcdlock.Get(call, g.s.lock, g.key, false)
	if err == nil && (info.Holder == "" || len(info.Waiting) != len(g.cand)-1) {
		err = fmt.Errorf("%q holds, %d wait", info.Holder, len(info.Waiting))
	}
	return err
}

// handTo makes the podmaster on host i the holder.
func (g *group) handTo(ctx context.Context, i int) error {
	lock, err := g.s.lock.Lock(g.key)
	if err != nil {
		return err
	}
	return until(ctx, name(i)+" to hold "+g.key, func() error {
		call, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		info, err := etcdlock.Get(call, g.s.lock, g.key, false)
		if err != nil {
			return err
		}
		if info.Holder != name(i) {
			if info.MoveTo == "" && info.Holder != "" {
				err = lock.Move(call, name(i), "bench")
			}
			return errors.Join(fmt.Errorf("%s holds", info.Holder), err)
		}
		if l, err := g.last(); err != nil || !g.below(i, l.pid) { // and works
			return fmt.Errorf("its work has not begun: %w", err)
		}
		return nil
	})
}

// stop ends the candidates and what they left.
func (g *group) stop() {
	for i, p := range g.cand {
		if p == nil {
			continue
		}
		if err := g.end(i); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		g.cand[i] = nil
	}
}

func (s *scene) stopGroups() {
	s.mu.Lock()
	groups := s.groups
	s.groups = nil
	s.mu.Unlock()
	for _, g := range groups {
		g.stop()
	}
	own := append([]*process.Process{}, s.etcd[:]...)
	if s.kube != nil {
		own = append(own, s.kube.processes()...)
	}
	process.ReapOrphans(own...)
}

// line is one line of the work.
type line struct {
	pid int
	at  time.Duration
}

func (g *group) lines() ([]line, error) {
	data, err := os.ReadFile(g.log)
	if err != nil {
		return nil, err
	}
	var out []line
	for sc := bufio.NewScanner(bytes.NewReader(data)); sc.Scan(); {
		a, b, _ := strings.Cut(sc.Text(), " ")
		pid, err1 := strconv.Atoi(a)
		at, err2 := strconv.ParseInt(b, 10, 64)
		if err1 == nil && err2 == nil {
			out = append(out, line{pid, time.Duration(at)})
		}
	}
	return out, nil
}

func (g *group) last() (line, error) {
	all, err := g.lines()
	if err != nil {
		return line{}, err
	}
	if len(all) == 0 {
		return line{}, errors.New("no line yet")
	}
	return all[len(all)-1], nil
}

// holder is the candidate whose descendant pid is.
func (g *group) holder(pid int) (int, error) {
	for i := range g.cand {
		if g.below(i, pid) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("nobody runs pid %d", pid)
}

// below reports whether pid is candidate i, or came from it.
func (g *group) below(i, pid int) bool {
	for p := g.cand[i]; p != nil && pid > 1; pid = parent(pid) {
		if pid == p.PID() {
			return true
		}
	}
	return false
}

func parent(pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// PID (NAME) STATE PPID …: the name may have anything in it.
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(f) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(f[1]) // 0 ends the search
	return ppid
}

// took is when the first take after since was answered, by the candidates' history.
func (g *group) took(since time.Duration) (time.Duration, error) {
	first := time.Duration(0)
	for _, t := range g.tails {
		ops, err := t.Next()
		if err != nil {
			return 0, err
		}
		for _, o := range ops {
			if o.Kind == history.Take && o.Answer == history.OK && o.Return > since && (first == 0 || o.Return < first) {
				first = o.Return
			}
		}
	}
	if first == 0 {
		return 0, errors.New("no take in the history")
	}
	return first, nil
}
